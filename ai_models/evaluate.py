"""Evaluates one of the project's models: `python -m ai_models.evaluate NAME [arguments of that
model]`.

Finds the modules of `ai_models.evaluation` that have a `main(argv)` and hands over. It knows no
model.
"""

import sys

from ai_models.training import dispatch


def main(argv: list[str] | None = None) -> int:
    """Run `ai_models.evaluation.NAME.main`; 0 when it went well, 2 for an unknown name."""
    return dispatch("ai_models.evaluation", "evaluate", sys.argv[1:] if argv is None else argv)


if __name__ == "__main__":
    sys.exit(main())
