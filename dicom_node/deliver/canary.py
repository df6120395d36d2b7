"""The canary: a phantom that the node sends to itself, as a scanner would, through the whole path.

What comes in: a timer. What goes out: a small CT series on the node's own listener, with UIDs of its own
each time; what becomes of it is read from the store like any other series. It alarms when the last one
was not delivered in time. No patient is named but PHANTOM.
"""

import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from dicom_node.deliver import scu
from dicom_node.errors import NodeError
from dicom_node.observe.logging import get_logger
from dicom_node.settings import Settings
from dicom_node.store.canary import CanaryLog

log = get_logger(__name__)

SHAPE = (40, 128, 128)
SPACING_MM = (7.0, 3.0, 3.0)
PATIENT_ID = "PHANTOM-CANARY"
START_SECONDS = 60.0


class Canary:
    """Sends a phantom, and says what became of the one before."""

    def __init__(
        self,
        settings: Settings,
        runs: CanaryLog,
        port: Callable[[], int],
        stop: threading.Event,
    ) -> None:
        self._settings = settings
        self._runs = runs
        self._port = port
        self._stop = stop

    def fly(self) -> None:
        """Judge the last one, and send the next; raises nothing."""
        last = self._runs.last()
        if last is not None and last.outcome != "delivered":
            log.error("canary", outcome=last.outcome, reason=last.reason, age=round(last.age))
        try:
            self._wait_for_the_listener()
            with tempfile.TemporaryDirectory(prefix="canary-") as folder:
                files = _phantom(Path(folder), seed=time.time_ns() % (1 << 62))
                answers = [answer.status for _, answer in scu.store(self._address(), files)]
        except NodeError as error:
            log.error("canary", outcome="not accepted", reason=str(error))
            return
        refused = [status for status in answers if status != 0]
        if refused:
            log.error("canary", outcome="not accepted", statuses=refused)
        else:
            log.info("canary sent", instances=len(answers))

    def _address(self) -> scu.Address:
        receive = self._settings.receive
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(receive.host, receive.host)
        return scu.Address(host, self._port(), receive.ae_title, self._settings.canary.ae_title)

    def _wait_for_the_listener(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                scu.echo(self._address())
                return
            except NodeError:
                if time.monotonic() > deadline or self._stop.wait(0.5):
                    raise


def _phantom(folder: Path, seed: int) -> list[Path]:
    from ai_models.phantoms.dicom import write_ct_series
    from ai_models.phantoms.thorax import thorax

    phantom = thorax(SHAPE, SPACING_MM, seed=1)
    files: list[Path] = write_ct_series(
        phantom,
        folder,
        seed=seed,
        patient_id=PATIENT_ID,
        patient_name="Phantom^Canary",
        accession_number="CANARY",
    )
    return files
