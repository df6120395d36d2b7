"""Puts figures into a model card: `evaluation.json`'s numbers as a table between two marks, never typed in.

In: the path of a `README.md` and the text. Out: the same file with what stands between `<!-- figures -->`
and `<!-- end of figures -->` replaced. ValueError where the marks are missing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

BEGIN, END = "<!-- figures -->", "<!-- end of figures -->"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def with_interval(figure: Mapping[str, float], digits: int = 3) -> str:
    """`0.970 (0.961 to 0.978)`."""
    value, low, high = (f"{figure[k]:.{digits}f}" for k in ("value", "low", "high"))
    return f"{value} ({low} to {high})"


def fill(card: Path, text: str) -> None:
    """Replaces what stands between the marks of `card` by `text`."""
    before, begin, rest = card.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{card} lacks the marks {BEGIN} and {END}")
    card.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}", encoding="utf-8")
