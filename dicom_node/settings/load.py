"""Reading the configuration: a file, then the environment; what is wrong is said with the key.

What comes in: a TOML file (`--config`, `DICOM_NODE_CONFIG`, `./dicom-node.toml`) and variables such as
`DICOM_NODE_RECEIVE__PORT`. What goes out: frozen `Settings`, or a `ConfigurationError` that names the
key, says what is wrong with it, and suggests the key that was probably meant. No other I/O.
"""

import difflib
import json
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from dicom_node.errors import ConfigurationError
from dicom_node.settings.node import ENVIRONMENT_PREFIX, Settings

DEFAULT_FILE = Path("dicom-node.toml")
SNAPSHOT_SUFFIX = ".json"
"""Of the file in which a supervisor hands its processes what it validated."""


def load_settings(file: Path | None = None) -> Settings:
    """Read the configuration.

    Args:
        file: a TOML file; default `$DICOM_NODE_CONFIG`, else `./dicom-node.toml` if it exists, else
            nothing but defaults.

    Raises:
        ConfigurationError: the file is missing or not TOML, or a key or value is wrong.
    """
    if file is None and (named := os.environ.get(ENVIRONMENT_PREFIX + "CONFIG")):
        file = Path(named)
    if file is None and DEFAULT_FILE.exists():
        file = DEFAULT_FILE
    values: Mapping[str, Any] = {} if file is None else _read(file)
    try:
        return Settings(**values)
    except ValidationError as error:
        raise ConfigurationError(_explain(error, file)) from error


def _read(file: Path) -> dict[str, Any]:
    try:
        if file.suffix == SNAPSHOT_SUFFIX:
            return dict(json.loads(file.read_text(encoding="utf-8"))["settings"])
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigurationError(f"{file}: no such file") from error
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise ConfigurationError(f"{file}: {error}") from error


def _explain(error: ValidationError, file: Path | None) -> str:
    """One line for each wrong key: where, what, and which key was probably meant."""
    lines = []
    for problem in error.errors():
        where = ".".join(str(part) for part in problem["loc"]) or "configuration"
        if problem["type"] == "extra_forbidden":
            lines.append(f"{where}: no such setting{_suggestion(problem['loc'])}")
        else:
            lines.append(f"{where}: {problem['msg'].removeprefix('Value error, ')}")
    source = str(file) if file else "environment"
    return f"{source}:\n  " + "\n  ".join(lines)


def _suggestion(location: tuple[int | str, ...]) -> str:
    section: Any = Settings
    for part in location[:-1]:
        if isinstance(part, int) or section is None:
            continue
        section = _section_class(section, str(part))
    known = list(section.model_fields) if section is not None else []
    close = difflib.get_close_matches(str(location[-1]), known, n=1, cutoff=0.5)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; known here: {', '.join(known)}" if known else ""


def _section_class(section: Any, name: str) -> Any:
    """The model class behind a field, also inside tuples and dictionaries; a dict's key keeps it."""
    if name not in section.model_fields:
        return section
    annotation = section.model_fields[name].annotation
    candidates = [annotation, *getattr(annotation, "__args__", ())]
    for candidate in candidates:
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None
