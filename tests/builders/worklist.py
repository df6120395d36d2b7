"""Studies in every state, made through the store's own doors: a worklist to look at."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sqlalchemy import Engine

from dicom_node.lifecycle import DeliveryState
from dicom_node.records import DueDelivery, Ending, Outcome, Peer
from dicom_node.store.assembly import Assembly
from dicom_node.store.deliveries import Outbox
from dicom_node.store.intake import Intake
from dicom_node.store.jobs import JobQueue
from tests.builders.store import new_job, received, result_file, send, slice_attributes

NASTY = "<script>alert(1)</script>"
HOLD_REASON = "slices 17 to 19 are missing"


@dataclass(frozen=True)
class Site:
    """A store with hands on it."""

    engine: Engine
    folder: Path

    def study(self, number: int, slices: int = 3, ending: Ending | None = Ending.RELEASED) -> int:
        """A study that came in; returns its series revision."""
        uid = f"1.2.826.0.1.{number}"
        attributes = _attributes(number)
        instances = [
            replace(
                received(
                    f"a{number}", f"{uid}.1", n, study=uid, patient=f"PID{number:04d}", at=number
                ),
                attributes=slice_attributes(n) | attributes,
            )
            for n in range(slices)
        ]
        peer = Peer(f"CT{number % 3}", "DICOM_NODE", f"10.0.0.{number % 250}")
        send(Intake(self.engine), f"a{number}", instances, ending, peer, at=number)
        assembly = Assembly(self.engine)
        return max(one.id for one in assembly.waiting())

    def queued(self, number: int, model: str = "ct_structures", slices: int = 3) -> int:
        """A study with a job in the queue."""
        series_id = self.study(number, slices)
        assembly = Assembly(self.engine)
        assembly.stable(series_id, slices, "geometry is free of gaps, association released")
        assembly.queue(series_id, [new_job(model)], "route ct")
        return series_id

    def stored(
        self, number: int, model: str = "ct_structures", outcome: Outcome | None = None
    ) -> None:
        """A study whose job has ended, with a report to deliver."""
        self.queued(number, model)
        queue = JobQueue(self.engine)
        claimed = queue.claim("worker/1")
        assert claimed is not None
        made = result_file(self.folder / "results", study=claimed.key.study_uid)
        if outcome is None:
            queue.fail(claimed.lease, "the network broke: out of memory", {"pacs": [made]})
        else:
            queue.finish(claimed.lease, outcome, "5 segments", {"pacs": [made]})

    def delivered(self, number: int, outcome: Outcome = Outcome.SUCCEEDED) -> None:
        """A study whose report the PACS has."""
        self.stored(number, outcome=outcome)

        self._courier(lambda outbox, due: outbox.accepted(due, "C-STORE answered 0000"))

    def _courier(self, act: Callable[[Outbox, DueDelivery], None]) -> None:
        outbox = Outbox(self.engine)
        for due in outbox.due("pacs", 1e9):
            if due.state is DeliveryState.PENDING:
                begun = outbox.begin(due)
                assert begun is not None
                act(outbox, begun)

    def one_of_each(self) -> None:
        """Eight studies, one in each state that a person meets; what runs is claimed last."""
        assembly = Assembly(self.engine)
        self.delivered(1)
        self.delivered(2, Outcome.NOT_APPLICABLE)
        self.stored(3)  # failed, and its report is on its way
        self.stored(4, outcome=Outcome.SUCCEEDED)
        refused = "C-STORE answered A900 (data set does not match SOP class)"
        self._courier(lambda outbox, due: outbox.dead(due, refused))
        self.stored(5, outcome=Outcome.SUCCEEDED)
        away = "PACS at 10.0.0.9:104 does not answer"
        self._courier(lambda outbox, due: outbox.retry(due, away, 30.0))
        assembly.hold(self.study(6), 3, HOLD_REASON)
        series_id = self.study(7)
        assembly.stable(series_id, 3, "the count that the sender knows is reached")
        assembly.no_route(series_id, "no route matches (ct: modality MR is not CT)")
        self.queued(8)
        assert JobQueue(self.engine).claim("worker/2") is not None
        self.queued(9)
        self.study(10, ending=None)


def _attributes(number: int) -> Mapping[str, Any]:
    names = ("Meier^Anna", "Öztürk^Can", f"{NASTY}^Bobby", "山田^太郎=Yamada^Taro", "O'Neil^Sue^Q")
    return {
        "patient_name": names[number % len(names)],
        "study_description": f"Chest {NASTY}" if number == 3 else "CT chest, contrast",
        "series_description": "lung 1.0 B70f",
        "accession_number": f"ACC{number:06d}",
        "study_date": "20260105",
        "series_number": 3,
    }
