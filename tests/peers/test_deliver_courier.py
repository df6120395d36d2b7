"""Delivery to PACS of every temper: real outbox, real sockets, every status of the table."""

import random
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import (
    Comprehensive3DSRStorage,
    ComprehensiveSRStorage,
    ImplicitVRLittleEndian,
    KeyObjectSelectionDocumentStorage,
    SegmentationStorage,
)
from sqlalchemy import Engine, select, update

from dicom_node.compose.part10 import write
from dicom_node.compose.registry import compose
from dicom_node.deliver.loop import Courier, listening_for_reports
from dicom_node.lifecycle import DeliveryState
from dicom_node.read.volume import read_image
from dicom_node.records import Outcome, ResultObject, Segmentation
from dicom_node.settings import Settings
from dicom_node.store.assembly import Assembly
from dicom_node.store.database import open_database, reading, utc_now, writing
from dicom_node.store.deliveries import Outbox
from dicom_node.store.intake import Intake
from dicom_node.store.jobs import JobQueue
from dicom_node.store.tables import delivery
from tests.builders import images, models
from tests.builders.pacs import TestPacs, pacs_that
from tests.builders.store import new_job, queued_series, received, result_file, send

CONFIRMED, DEAD, RETRYING = DeliveryState.CONFIRMED, DeliveryState.DEAD, DeliveryState.RETRYING
SHAPE = (6, 20, 24)
SENT, PENDING, WITHDRAWN = DeliveryState.SENT, DeliveryState.PENDING, DeliveryState.WITHDRAWN


class Desk:
    """A store with results that wait, and a courier for them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.engine: Engine = open_database(f"sqlite:///{folder / 'node.sqlite'}")
        self.outbox = Outbox(self.engine)
        self.intake, self.assembly = Intake(self.engine), Assembly(self.engine)
        self.queue = JobQueue(self.engine)

    def results(self, *made: ResultObject, series: str = "1.2.3.1") -> None:
        queued_series(self.intake, self.assembly, series, new_job(), slices=1)
        job = self.queue.claim("worker")
        assert job is not None
        self.queue.finish(job.lease, Outcome.SUCCEEDED, "", {"pacs": made})

    def courier(
        self, port: int, *, timeout: float = 5.0, confirm: str = "response", **deliver: Any
    ) -> Courier:
        destination = {"ae_title": "PACS", "host": "127.0.0.1", "port": port, "confirm": confirm}
        settings = Settings(
            data_dir=self.folder,
            destination={"pacs": destination},  # type: ignore[dict-item]
            deliver={"network_timeout": timeout, "poll_seconds": 0.05} | deliver,  # type: ignore[arg-type]
        )
        self.settings = settings
        return Courier(
            "pacs", settings.destination["pacs"], settings, self.outbox, random.Random(1)
        )

    def states(self) -> list[DeliveryState]:
        with reading(self.engine) as connection:
            return list(
                connection.execute(select(delivery.c.state).order_by(delivery.c.id)).scalars()
            )

    def column(self, name: str) -> list[Any]:
        with reading(self.engine) as connection:
            return list(
                connection.execute(select(delivery.c[name]).order_by(delivery.c.id)).scalars()
            )

    def all_due(self) -> None:
        """Time passes."""
        with writing(self.engine) as connection:
            connection.execute(update(delivery).values(due_at=utc_now()))


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def wait_until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.02)


def test_what_is_accepted_is_confirmed(desk: Desk) -> None:
    desk.results(*(result_file(desk.folder) for _ in range(3)))
    with pacs_that() as pacs:
        desk.courier(pacs.port).deliver_due()
    assert desk.states() == [CONFIRMED] * 3
    assert len(pacs.kept) == 3


@pytest.mark.parametrize(
    ("status", "state"),
    [
        (0x0000, CONFIRMED),
        (0xB000, CONFIRMED),
        (0xB006, CONFIRMED),
        (0xB007, CONFIRMED),
        (0x0107, CONFIRMED),
        (0x0111, CONFIRMED),
        (0xA700, RETRYING),
        (0xA702, RETRYING),
        (0x0110, RETRYING),
        (0x0213, RETRYING),
        (0xA900, DEAD),
        (0xC000, DEAD),
        (0xC123, DEAD),
        (0x0117, DEAD),
        (0x0122, DEAD),
        (0x0124, DEAD),
    ],
)
def test_every_status_of_the_table(desk: Desk, status: int, state: DeliveryState) -> None:
    desk.results(result_file(desk.folder))
    with pacs_that(TestPacs(status=lambda _: status)) as pacs:
        desk.courier(pacs.port).deliver_due()
    assert desk.states() == [state]
    assert f"{status:04X}" in desk.column("reason")[0]
    assert desk.column("attempts") == [1]


def test_one_that_is_refused_does_not_hold_up_the_others(desk: Desk) -> None:
    made = [result_file(desk.folder) for _ in range(3)]
    bad = made[1].sop_instance_uid
    desk.results(*made)
    with pacs_that(TestPacs(status=lambda d: 0xC000 if bad == d.SOPInstanceUID else 0)) as pacs:
        desk.courier(pacs.port).deliver_due()
    assert desk.states() == [CONFIRMED, DEAD, CONFIRMED]


def test_a_pacs_that_is_absent_is_tried_again_until_given_up(desk: Desk) -> None:
    desk.results(result_file(desk.folder))
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        courier = desk.courier(nobody.getsockname()[1], max_attempts=3)
        for expected in (RETRYING, RETRYING, DEAD):
            desk.all_due()
            courier.deliver_due()
            assert desk.states() == [expected]
    assert "given up after 3 tries" in desk.column("reason")[0]


def test_a_pacs_that_comes_back_gets_everything_once(desk: Desk) -> None:
    desk.results(*(result_file(desk.folder) for _ in range(3)))
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        port = nobody.getsockname()[1]
        desk.courier(port).deliver_due()
    assert desk.states() == [RETRYING] * 3
    desk.all_due()
    with pacs_that(port=port) as pacs:
        desk.courier(port).deliver_due()
    assert desk.states() == [CONFIRMED] * 3
    assert len(pacs.stores) == 3


def test_a_pacs_that_rejects_the_association_is_tried_again(desk: Desk) -> None:
    desk.results(result_file(desk.folder))
    with pacs_that(called="OTHER") as pacs:
        desk.courier(pacs.port).deliver_due()
    assert desk.states() == [RETRYING]
    assert "rejected" in desk.column("reason")[0].lower()


def test_a_pacs_that_accepts_the_connection_and_says_nothing(desk: Desk) -> None:
    desk.results(result_file(desk.folder))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        began = time.monotonic()
        desk.courier(silent.getsockname()[1], timeout=1.0).deliver_due()
    assert time.monotonic() - began < 8
    assert desk.states() == [RETRYING]


def test_a_pacs_that_hangs_in_a_store_costs_one_try_of_one_object(desk: Desk) -> None:
    desk.results(*(result_file(desk.folder) for _ in range(2)))
    pacs = TestPacs(hang=threading.Event())
    with pacs_that(pacs):
        courier = desk.courier(pacs.port, timeout=1.0)
        courier.deliver_due()
        assert desk.states() == [RETRYING, PENDING]
        assert pacs.hang is not None
        pacs.hang.set()
        courier.deliver_due()  # the first waits for its turn, and the second goes without it
        assert desk.states() == [RETRYING, CONFIRMED]


def test_an_object_that_breaks_the_peer_does_not_keep_the_others_back(desk: Desk) -> None:
    made = [result_file(desk.folder) for _ in range(3)]
    poison = made[0].sop_instance_uid
    desk.results(*made)
    with pacs_that(TestPacs(status=lambda d: -1 if poison == d.SOPInstanceUID else 0)) as pacs:
        courier = desk.courier(pacs.port)
        courier.deliver_due()
        courier.deliver_due()
    assert desk.states() == [RETRYING, CONFIRMED, CONFIRMED]
    assert desk.column("attempts") == [1, 1, 1]


def test_a_pacs_that_takes_one_class_of_two(desk: Desk) -> None:
    desk.results(
        result_file(desk.folder, kind="seg", sop_class=SegmentationStorage),
        result_file(desk.folder),
    )
    with pacs_that(takes=[ComprehensiveSRStorage]) as pacs:
        desk.courier(pacs.port).deliver_due()
    assert desk.states() == [DEAD, CONFIRMED]
    assert "not accepted" in desk.column("reason")[0]


def labelmap_results(folder: Path) -> list[ResultObject]:
    """A LABELMAP SEG, its report and the list of both, of the patient and study of `queued_series`."""
    grid = images.affine("oblique", (3.0, 0.8, 0.8))
    slices = images.series(images.pattern(SHAPE), grid)
    for one in slices:
        one.PatientID, one.StudyInstanceUID = "P1", "1.2.3"
    volume = read_image([images.raw(one) for one in slices])
    kinds = frozenset({"seg", "sr", "key_objects"})
    ctx = models.context(models.model(folder), segmentation="labelmap", kinds=kinds)
    return write(compose(ctx, volume, Segmentation(images.labels(SHAPE))), folder / "results")


def test_a_pacs_that_does_not_know_labelmaps_gets_binary(desk: Desk) -> None:
    seg, report, selection = labelmap_results(desk.folder)
    desk.results(seg, report, selection)
    known = [ComprehensiveSRStorage, Comprehensive3DSRStorage, SegmentationStorage]
    with pacs_that(takes=[*known, KeyObjectSelectionDocumentStorage]) as pacs:
        courier = desk.courier(pacs.port)
        for _ in range(2):
            courier.deliver_due()
    assert desk.states() == [WITHDRAWN] * 3 + [CONFIRMED] * 3
    assert "sent as BINARY instead" in desk.column("reason")[0]
    kept = {str(one.Modality): one for one in pacs.kept.values()}
    assert sorted(kept) == ["KO", "SEG", "SR"]
    assert kept["SEG"].SegmentationType == "BINARY"
    referred = {str(one.value) for one in kept["SR"].iterall() if one.tag == 0x00081155}
    assert str(kept["SEG"].SOPInstanceUID) in referred
    assert seg.sop_instance_uid not in referred


def test_a_labelmap_whose_report_was_damaged_has_no_twin(desk: Desk) -> None:
    seg, report, selection = labelmap_results(desk.folder)
    desk.results(seg, report, selection)
    report.path.write_bytes(report.path.read_bytes() + b"\0\0")
    with pacs_that(takes=[KeyObjectSelectionDocumentStorage]) as pacs:
        desk.courier(pacs.port).deliver_due()
    assert desk.states() == [DEAD, DEAD, CONFIRMED]
    assert any("no BINARY twin either" in reason for reason in desk.column("reason"))


def test_a_pacs_that_knows_only_implicit_vr(desk: Desk) -> None:
    desk.results(result_file(desk.folder))
    with pacs_that(syntaxes=[ImplicitVRLittleEndian]) as pacs:
        desk.courier(pacs.port).deliver_due()
    assert desk.states() == [CONFIRMED]
    assert next(iter(pacs.kept.values())).file_meta.TransferSyntaxUID == ImplicitVRLittleEndian


# --- what is checked before anything leaves -----------------------------------------------------


@pytest.mark.parametrize("damage", ["gone", "changed", "not DICOM"])
def test_a_file_that_is_not_as_it_was_made_is_not_sent(desk: Desk, damage: str) -> None:
    bad, good = result_file(desk.folder), result_file(desk.folder)
    desk.results(bad, good)
    if damage == "gone":
        bad.path.unlink()
    else:
        bad.path.write_bytes(b"x" * 500)
    with pacs_that() as pacs:
        desk.courier(pacs.port).deliver_due()
    assert desk.states() == [DEAD, CONFIRMED]
    assert pacs.stores == [good.sop_instance_uid]


@pytest.mark.parametrize("what", ["patient", "study"])
def test_a_result_that_names_another_patient_or_study_never_leaves(desk: Desk, what: str) -> None:
    wrong = {"patient": {"patient": "P2"}, "study": {"study": "1.2.3"}}[what]
    made = result_file(desk.folder, **wrong)  # type: ignore[arg-type]
    if what == "study":
        from dataclasses import replace

        made = replace(made, study_uid="1.2.4")
    desk.results(made)
    with pacs_that() as pacs:
        desk.courier(pacs.port).deliver_due()
    assert desk.states() == [DEAD]
    assert f"another {what}" in desk.column("reason")[0]
    assert pacs.stores == []


def test_a_result_of_a_superseded_revision_is_withdrawn(desk: Desk) -> None:
    desk.results(result_file(desk.folder))
    send(desk.intake, "late", [received("late", number=9)])
    with pacs_that() as pacs:
        desk.courier(pacs.port).deliver_due()
    assert desk.states() == [WITHDRAWN]
    assert pacs.stores == []


def test_a_clock_that_was_set_back_parks_nothing(desk: Desk) -> None:
    from datetime import timedelta

    desk.results(result_file(desk.folder))
    with writing(desk.engine) as connection:
        connection.execute(update(delivery).values(due_at=utc_now() + timedelta(hours=1)))
    with pacs_that() as pacs:
        desk.courier(pacs.port).deliver_due()
    assert desk.states() == [CONFIRMED]


def test_a_destination_that_is_no_longer_configured_is_said_so(desk: Desk) -> None:
    desk.results(result_file(desk.folder))
    assert desk.outbox.abandon_unknown({"other"}) == 1
    assert desk.states() == [DEAD]


# --- confirmation by query ----------------------------------------------------------------------


def test_a_pacs_that_indexes_late_is_asked_again_and_not_sent_twice(desk: Desk) -> None:
    desk.results(result_file(desk.folder))
    listed = False
    with pacs_that(TestPacs(listed=lambda _: listed)) as pacs:
        courier = desk.courier(pacs.port, confirm="query")
        courier.deliver_due()
        assert desk.states() == [SENT]
        courier.confirm()
        assert pacs.finds == 0  # too early to ask
        for _ in range(3):
            desk.all_due()
            courier.confirm()
            courier.deliver_due()
        assert desk.states() == [SENT]
        listed = True
        desk.all_due()
        courier.confirm()
    assert desk.states() == [CONFIRMED]
    assert len(pacs.stores) == 1
    assert pacs.finds == 4


def test_what_a_pacs_never_lists_is_sent_again_after_the_grace(desk: Desk) -> None:
    desk.results(result_file(desk.folder))
    with pacs_that(TestPacs(listed=lambda _: False)) as pacs:
        courier = desk.courier(pacs.port, confirm="query", confirm_grace_seconds=6, max_attempts=2)
        for stores in (1, 2):
            desk.all_due()
            courier.deliver_due()
            assert len(pacs.stores) == stores
            for _ in range(2):
                assert desk.states() == [SENT]
                desk.all_due()
                courier.confirm()
        assert desk.states() == [DEAD]


def test_a_pacs_that_cannot_be_asked_is_asked_later(desk: Desk) -> None:
    desk.results(result_file(desk.folder))
    with pacs_that() as pacs:
        courier = desk.courier(pacs.port, confirm="query")
        courier.deliver_due()
    desk.all_due()
    courier.confirm()
    assert desk.states() == [SENT]
    assert desk.column("asks") == [1]


# --- storage commitment -------------------------------------------------------------------------


def test_commitment_on_the_same_association(desk: Desk) -> None:
    desk.results(result_file(desk.folder), result_file(desk.folder))
    with pacs_that() as pacs:
        courier = desk.courier(pacs.port, confirm="commitment")
        courier.deliver_due()
        desk.all_due()
        courier.confirm()
        wait_until(lambda: desk.states() == [CONFIRMED, CONFIRMED])
    assert len(pacs.actions) == 1


def test_commitment_on_an_association_of_the_pacs(desk: Desk) -> None:
    desk.results(result_file(desk.folder))
    pacs = TestPacs()
    with pacs_that(pacs):
        courier = desk.courier(pacs.port, confirm="commitment", report_port=0)
        with listening_for_reports(desk.settings, desk.outbox) as port:
            pacs.report_to = port
            courier.deliver_due()
            desk.all_due()
            courier.confirm()
            wait_until(lambda: desk.states() == [CONFIRMED])


def test_what_is_not_committed_is_sent_again(desk: Desk) -> None:
    good, bad = result_file(desk.folder), result_file(desk.folder)
    desk.results(good, bad)
    failing = True

    def commit(reference: Any) -> int | None:
        lost = failing and reference.ReferencedSOPInstanceUID == bad.sop_instance_uid
        return 0x0112 if lost else None

    with pacs_that(TestPacs(commit=commit)) as pacs:
        courier = desk.courier(pacs.port, confirm="commitment")
        courier.deliver_due()
        desk.all_due()
        courier.confirm()
        wait_until(lambda: desk.states() == [CONFIRMED, RETRYING])
        assert "0112 no such object instance" in desk.column("reason")[1]
        failing = False
        for step in (courier.deliver_due, courier.confirm):
            desk.all_due()
            step()
        wait_until(lambda: desk.states() == [CONFIRMED, CONFIRMED])
    assert pacs.stores.count(bad.sop_instance_uid) == 2


def test_a_report_that_never_comes_is_asked_for_again_and_an_old_one_still_counts_for_nothing(
    desk: Desk,
) -> None:
    desk.results(result_file(desk.folder))
    with pacs_that(TestPacs(report_on_same=False)) as pacs:
        courier = desk.courier(pacs.port, confirm="commitment")
        courier.deliver_due()
        for _ in range(2):
            desk.all_due()
            courier.confirm()
    assert desk.states() == [SENT]
    assert len(set(pacs.actions)) == 2
    uid = next(iter(pacs.kept))
    assert desk.outbox.reported(pacs.actions[0], {uid}, {}, lambda _: 0.0) == 0
    assert desk.outbox.reported("1.2.3", {uid}, {}, lambda _: 0.0) == 0
    assert desk.outbox.reported(pacs.actions[1], {uid}, {}, lambda _: 0.0) == 1
    assert desk.states() == [CONFIRMED]


@pytest.mark.parametrize(
    ("finds", "listed", "ends", "told"),
    [
        (True, True, CONFIRMED, "found by C-FIND, after no report of storage commitment came"),
        (True, False, RETRYING, "the destination took it and does not list it"),
        (False, True, DEAD, "took it and never committed it, and PACS at"),
    ],
)
def test_a_pacs_that_never_reports_is_not_asked_for_ever(
    desk: Desk, finds: bool, listed: bool, ends: DeliveryState, told: str
) -> None:
    pacs = TestPacs(report_on_same=False, listed=lambda _: listed)
    with pacs_that(pacs, finds=finds) as pacs:
        courier = desk.courier(pacs.port, confirm="commitment", confirm_grace_seconds=3.0)
        desk.results(result_file(desk.folder))
        courier.deliver_due()
        for _ in range(2):
            assert desk.states() == [SENT]
            desk.all_due()
            courier.confirm()
    assert desk.states() == [ends]
    assert told in desk.column("reason")[0]
    assert len(pacs.actions) == 1


def test_earlier_results_are_withdrawn_only_when_the_new_ones_arrived(desk: Desk) -> None:
    new, note = result_file(desk.folder), result_file(desk.folder, kind="rejection")
    refused = {new.sop_instance_uid}
    status = lambda one: 0xA700 if one.SOPInstanceUID in refused else 0  # noqa: E731
    with pacs_that(TestPacs(status=status)) as pacs:
        courier = desk.courier(pacs.port)
        desk.results(note, new)
        courier.deliver_due()
        desk.all_due()
        courier.deliver_due()
        assert desk.states() == [PENDING, RETRYING]
        refused.clear()
        for _ in range(2):
            desk.all_due()
            courier.deliver_due()
    assert desk.states() == [CONFIRMED, CONFIRMED]
    assert pacs.stores == [new.sop_instance_uid] * 3 + [note.sop_instance_uid]


def test_the_loop_delivers_and_ends_when_told(desk: Desk) -> None:
    desk.results(result_file(desk.folder))
    stop = threading.Event()
    with pacs_that() as pacs:
        thread = threading.Thread(target=desk.courier(pacs.port).run, args=(stop,))
        thread.start()
        try:
            wait_until(lambda: desk.states() == [CONFIRMED])
        finally:
            stop.set()
            thread.join(10)
    assert not thread.is_alive()
