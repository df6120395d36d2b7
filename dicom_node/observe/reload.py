"""What became of the last reload of the configuration: a file beside the data.

What comes in: an outcome. What goes out: the same, for the page, the metrics and the command. Whoever
validated the configuration writes it; everybody may read it.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

FILE = "reload.json"


@dataclass(frozen=True, slots=True)
class Reload:
    """One reload."""

    number: int
    """Counts up, so that who asked for it can tell it from the one before."""
    at: str
    """ISO 8601, for people."""
    error: str = ""
    """Why the configuration before it was kept; empty where the new one was taken."""
    changed: tuple[str, ...] = ()
    waiting: tuple[str, ...] = ()
    """Settings that differ in the file and wait for a restart."""


def last_reload(data_dir: Path) -> Reload | None:
    """The last reload of the node that runs; None where there was none."""
    try:
        found = json.loads((data_dir / FILE).read_text(encoding="utf-8"))
        return Reload(
            number=int(found["number"]),
            at=str(found["at"]),
            error=str(found["error"]),
            changed=tuple(found["changed"]),
            waiting=tuple(found["waiting"]),
        )
    except (OSError, ValueError, TypeError, KeyError):
        return None


def keep_reload(data_dir: Path, reload: Reload) -> None:
    """Write it down, whole or not at all."""
    partial = data_dir / f"{FILE}.partial"
    partial.write_text(json.dumps(asdict(reload)), encoding="utf-8")
    partial.replace(data_dir / FILE)


def forget_reloads(data_dir: Path) -> None:
    """A start reads everything anew."""
    (data_dir / FILE).unlink(missing_ok=True)
