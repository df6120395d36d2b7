"""Logs for people or machines, without patient data.

What comes in: settings. What goes out: structlog loggers. UIDs go through `hashed`; names, IDs and
other header values of patients are never passed to a logger at all.
"""

import contextlib
import hashlib
import logging
import sys
import warnings
from typing import Any

import structlog

from dicom_node.observe.metrics import count_event
from dicom_node.settings import LogSettings


def configure(settings: LogSettings) -> None:
    """Set up logging of this process, once."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        count_event,
    ]
    renderer: Any = (
        structlog.processors.JSONRenderer()
        if settings.format == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    if settings.format == "json":
        shared.append(structlog.processors.format_exc_info)
    level = logging.getLevelNamesMapping()[settings.level]
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(_Output()),  # type: ignore[arg-type]
        cache_logger_on_first_use=True,
    )
    # libraries speak only when something is wrong; pynetdicom's own messages may hold patient data
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)
    logging.getLogger("pydicom").setLevel(logging.ERROR)
    # for MONAI's developers, not for an admin's log
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"monai\.")


class _Output:
    """Standard error, and no failure where it cannot be written.

    A log in a file grows on the disk that is full, and what is done then must not fail with it.
    """

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError):
            return sys.stderr.write(text)
        return 0

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            sys.stderr.flush()


def get_logger(name: str) -> Any:
    """A logger that knows which module speaks."""
    return structlog.get_logger(module=name)  # a lazy proxy: it obeys `configure`, also a later one


def hashed(uid: str) -> str:
    """A short, stable stand-in for a UID in logs and metrics."""
    return hashlib.sha256(uid.encode()).hexdigest()[:12]
