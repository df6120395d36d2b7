"""What a process does over DICOM, on its way to the audit trail.

What comes in: audit events, from any thread, at any moment. What goes out: messages, one after the other, to
where the composition root said. Like a log: who records waits for nobody. A process that is killed loses
what it recorded in its last moment; what a person does at the page is written before it is done, and takes
another way. Where more is recorded than can be written, the rest is dropped and counted in the log.
"""

import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from dicom_node.observe.audit import AuditEvent, message
from dicom_node.observe.logging import get_logger

log = get_logger(__name__)

MOST_WAITING = 10_000
END_SECONDS = 5.0

_waiting: "queue.Queue[AuditEvent | None] | None" = None


def record(event: AuditEvent) -> None:
    """Put an event on record; nothing where this process keeps none."""
    if _waiting is None:
        return
    try:
        _waiting.put_nowait(event)
    except queue.Full:
        log.error("audit event dropped", event_id=event.event.value[0])


@contextmanager
def recording(write: Callable[[str], None], source_id: str) -> Iterator[None]:
    """Write what is recorded for the length of the block, and at its end what is left.

    Args:
        write: keeps one message; it may wait, and raises when it is time to stop.
        source_id: this node, as the audit repository knows it.
    """
    global _waiting
    events: queue.Queue[AuditEvent | None] = queue.Queue(MOST_WAITING)

    def run() -> None:
        while (event := events.get()) is not None:
            try:
                write(message(event, source_id))
            except Exception as error:  # the trail may not end with one message that cannot be kept
                log.error("audit event not kept", error=type(error).__name__)

    thread = threading.Thread(target=run, name="audit", daemon=True)
    thread.start()
    _waiting = events
    try:
        yield
    finally:
        _waiting = None
        events.put(None)
        thread.join(END_SECONDS)
