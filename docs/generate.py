"""Writes the parts of the documentation that come from the code: `python docs/generate.py`.

`docs/configuration.md` is made from `dicom_node.settings`, the reference in `docs/models.md` from
`dicom_node.catalogue`; a test fails when either is out of date.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel

from dicom_node.catalogue import ModelDescription
from dicom_node.settings import ENVIRONMENT_PREFIX, Settings

HERE = Path(__file__).resolve().parent
HEAD = f"""\
# Configuration

Made from the code by `python docs/generate.py`; do not edit.

A node reads one TOML file: `--config FILE`, else the file that `{ENVIRONMENT_PREFIX}CONFIG` names, else
`./dicom-node.toml`. A variable overrides the file: `{ENVIRONMENT_PREFIX}RECEIVE__PORT=104`. A key that there
is not is refused, with the one that was probably meant. `dicom-node config` prints what is in effect,
`dicom-node config --check` says whether it can be used. An example: `deploy/example.toml`.
"""
MARK = "<!-- made from the code by `python docs/generate.py`; do not edit below -->"


def models() -> str:
    """`docs/models.md`: what people wrote, and the reference of `dicom.toml` below it."""
    written = (HERE / "models.md").read_text(encoding="utf-8").partition(MARK)[0]
    parts = [line for line in _sections("", ModelDescription) if not line.startswith("| `folder`")]
    start = next(index for index, line in enumerate(parts) if line.startswith("## `[model]`"))
    return "\n".join([f"{written}{MARK}\n", *parts[start:]]) + "\n"


def configuration() -> str:
    """The reference of all settings, as Markdown."""
    return "\n".join([HEAD, *_sections("", Settings)]) + "\n"


def _sections(name: str, section: type[BaseModel]) -> Iterator[str]:
    plain = {key: field for key, field in section.model_fields.items() if not _inner(field)}
    if plain:
        yield f"## {name or 'Top of the file'}\n"
        yield f"{(section.__doc__ or '').strip()}\n"
        yield "| setting | default | meaning |"
        yield "|---|---|---|"
        yield from (_row(key, field) for key, field in plain.items())
        yield ""
    for key, field in section.model_fields.items():
        if inner := _inner(field):
            yield from _sections(_heading(name, key, field), inner)


def _heading(name: str, key: str, field: Any) -> str:
    path = f"{name.strip('[]`')}.{key}" if name else key
    kind = str(field.annotation)
    if kind.startswith("tuple"):
        return f"`[[{path}]]`"
    return f"`[{path}.NAME]`" if kind.startswith("dict") else f"`[{path}]`"


def _inner(field: Any) -> type[BaseModel] | None:
    for candidate in (field.annotation, *get_args(field.annotation)):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None


def _row(key: str, field: Any) -> str:
    default = "required" if field.is_required() else f"`{_shown(field.default)}`"
    return f"| `{key}` | {default} | {field.description or ''} |"


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return "[" + ", ".join(f'"{item}"' for item in value) + "]"
    if isinstance(value, Path):
        return value.name
    return "not set" if value is None else f'"{value}"' if isinstance(value, str) else str(value)


if __name__ == "__main__":
    (HERE / "configuration.md").write_text(configuration(), encoding="utf-8")
    (HERE / "models.md").write_text(models(), encoding="utf-8")
