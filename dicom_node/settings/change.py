"""Other settings for a node that runs: what differs, and what of it must wait for a restart. Pure.

What comes in: the settings in effect and those that were read. What goes out: the settings to go on with:
the new ones, but for what a running node cannot change, which stays as it is and is named.
"""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, SecretStr

from dicom_node.settings.node import Settings

NEEDS_RESTART = (
    "data_dir",
    "database_url",
    "receive.host",
    "receive.port",
    "receive.processes",
    "infer.processes",
    "web.enabled",
    "web.host",
    "web.port",
    "share",
    "log",
)
"""What the supervisor, or a process at its start, did once: sockets, folders, the log."""


def changes(old: Settings, new: Settings) -> tuple[str, ...]:
    """Names of the settings that differ: `route`, `receive.port`, `destination`."""
    found = []
    for name in Settings.model_fields:
        before, after = getattr(old, name), getattr(new, name)
        if before == after:
            continue
        if isinstance(before, BaseModel):
            fields = type(before).model_fields
            found += [f"{name}.{f}" for f in fields if getattr(before, f) != getattr(after, f)]
        else:
            found.append(name)
    return tuple(found)


def adopted(old: Settings, new: Settings) -> tuple[Settings, tuple[str, ...]]:
    """The settings to go on with, and the names of those that wait for a restart."""
    waiting = tuple(
        name
        for name in changes(old, new)
        if name in NEEDS_RESTART or name.partition(".")[0] in NEEDS_RESTART
    )
    kept: dict[str, Any] = {}
    for name in waiting:
        section, _, field = name.partition(".")
        if not field:
            kept[section] = getattr(old, section)
            continue
        part = kept.get(section, getattr(new, section))
        kept[section] = part.model_copy(update={field: getattr(getattr(old, section), field)})
    return new.model_copy(update=kept), waiting


def plain(settings: Settings) -> dict[str, Any]:
    """The settings as JSON values that can be read back, secrets and all: for a file that is ours alone."""
    return {key: _plain(value) for key, value in settings.model_dump().items()}


def _plain(value: Any) -> Any:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(inner) for inner in value]
    return value if value is None or isinstance(value, bool | int | float) else str(value)
