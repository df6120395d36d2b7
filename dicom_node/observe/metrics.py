"""What processes count by themselves, for Prometheus: how often each thing was logged.

What comes in: log events. What goes out: one counter, by level, module and event. An event's words are
constant in the code, so that there are as many series as there are lines that log; values of an event never
become a label, but for the few in `TOLD`, whose values are constant too. Counts of all processes meet in a
folder (prometheus-client's multiprocess mode), which `PROMETHEUS_MULTIPROC_DIR` names before the first count.
What the database knows is not counted here but asked of it: see `web.metrics`.
"""

import hashlib
import os
import stat
import threading
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import Any

FOLDER_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
TOLD = ("rejection",)
LONGEST_LABEL = 80
MEMORY = Path("/dev/shm")

_counter: Any = None
_making = threading.Lock()


def count_event(
    _logger: Any, method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """A structlog processor: counts the event and lets it pass."""
    if FOLDER_VARIABLE in os.environ:
        _count(method, event)
    return event


def _count(method: str, event: Mapping[str, Any]) -> None:
    reason = next((str(event[key]) for key in TOLD if key in event), "")
    module = str(event.get("module", "")).removeprefix("dicom_node.")
    told = str(event.get("event", ""))
    labels = (str(event.get("level", method)), module, told, reason)
    _events().labels(*(label[:LONGEST_LABEL] for label in labels)).inc()


def _events() -> Any:
    """The counter; made once, also where two threads log the first event at the same time."""
    global _counter
    with _making:
        if _counter is None:
            # imported now: the library looks for the folder when it is loaded
            from prometheus_client import Counter

            _counter = Counter(
                "dicom_node_log_events",
                "Log events of all processes.",
                ("level", "module", "event", "reason"),
            )
    return _counter


def prepare(folder: Path) -> Path:
    """An empty folder for the counts of the processes that are to be started."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.db"):
        old.unlink(missing_ok=True)
    return folder


def counting_folder(data_dir: Path) -> Path:
    """An empty folder for the counts of a node's processes, in memory where there is such a place.

    The counts are mapped files with holes: on a full disk the first write to a hole kills the process.
    """
    name = hashlib.sha256(bytes(data_dir.resolve())).hexdigest()[:16]
    folder = MEMORY / f"dicom-node-{os.getuid()}-{name}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        state = folder.lstat()
    except OSError:
        return prepare(data_dir / "metrics")
    ours = stat.S_ISDIR(state.st_mode) and state.st_uid == os.getuid()
    return prepare(folder if ours else data_dir / "metrics")
