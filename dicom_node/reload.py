"""Reloading the configuration of a node that runs: read, validate, take over or keep the old one.

What comes in: the settings in effect and the file. What goes out: the settings to go on with, written down
for the processes of the node in a file of their own (`config-in-effect.json`), which alone they read. So what
the node was told is the same in all of them, also in one that is started again while the configuration is
being edited. Nothing of a configuration that cannot be used takes effect.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from dicom_node.app.checks import check_all
from dicom_node.catalogue import ModelDescription
from dicom_node.errors import NodeError
from dicom_node.observe.logging import get_logger
from dicom_node.observe.reload import Reload, keep_reload, last_reload
from dicom_node.settings import Settings, load_settings
from dicom_node.settings.change import adopted, changes, plain
from dicom_node.store.database import utc_now

log = get_logger(__name__)

IN_EFFECT = "config-in-effect.json"
Models = dict[str, str]
"""Name -> digest."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a process of the node runs on."""

    settings: Settings
    models: Models

    def write(self) -> Path:
        """Write it where the processes of this node look; only we may read it."""
        path = self.settings.data_dir / IN_EFFECT
        partial = path.with_suffix(".partial")
        partial.unlink(missing_ok=True)
        partial.touch(mode=0o600)
        partial.write_text(json.dumps({"settings": plain(self.settings), "models": self.models}))
        partial.replace(path)
        return path

    @classmethod
    def read(cls, path: Path) -> "Snapshot":
        """What was written; errors as of `load_settings`."""
        settings = load_settings(path)
        return cls(settings, json.loads(path.read_text())["models"])


def first_snapshot(settings: Settings, models: dict[str, ModelDescription]) -> Snapshot:
    """What a node begins with."""
    return Snapshot(settings, _digests(models))


def reloaded(current: Snapshot, config: Path | None) -> Snapshot:
    """What to go on with; the same as before where the configuration cannot be used. The outcome is kept."""
    data_dir = current.settings.data_dir
    before = last_reload(data_dir)
    number, at = (before.number if before else 0) + 1, utc_now().isoformat(timespec="seconds")
    try:
        read = load_settings(config)
        settings, waiting = adopted(current.settings, read)
        models = _digests(check_all(settings))
    except NodeError as error:
        log.error("configuration kept, the new one cannot be used", reason=str(error))
        keep_reload(data_dir, Reload(number, at, error=str(error)))
        return current
    changed = changes(current.settings, settings)
    if models != current.models:
        changed = (*changed, "models")
    log.info("configuration reloaded", changed=changed)
    if waiting:
        log.warning("settings wait for a restart", settings=waiting)
    keep_reload(data_dir, Reload(number, at, changed=changed, waiting=waiting))
    return Snapshot(settings, models)


def _digests(models: dict[str, ModelDescription]) -> Models:
    return {name: one.digest for name, one in models.items()}
