"""What is said of a canary, by what became of it."""

from pathlib import Path

from sqlalchemy import Engine

from dicom_node.records import Outcome
from dicom_node.store.assembly import Assembly
from dicom_node.store.canary import CanaryLog
from dicom_node.store.deliveries import Outbox
from dicom_node.store.intake import Intake
from dicom_node.store.jobs import JobQueue
from tests.builders.store import queued_series, received, result_file, send


def test_from_under_way_to_delivered(
    engine: Engine,
    intake: Intake,
    assembly: Assembly,
    queue: JobQueue,
    outbox: Outbox,
    tmp_path: Path,
) -> None:
    log, patient = CanaryLog(engine, "CT1", 1e12), CanaryLog(engine, "CT1", 0.0)
    assert log.last() is None
    queued_series(intake, assembly)

    def outcomes() -> tuple[str, str]:
        first, second = log.last(), patient.last()
        assert first is not None
        assert second is not None
        return first.outcome, second.outcome

    assert outcomes() == ("under way", "late")
    got = queue.claim("w")
    assert got is not None
    queue.finish(got.lease, Outcome.SUCCEEDED, "", {"pacs": [result_file(tmp_path)]})
    assert outcomes() == ("under way", "late")
    begun = outbox.begin(outbox.due("pacs", 600)[0])
    assert begun is not None
    outbox.accepted(begun, "0000")
    assert outcomes() == ("delivered", "delivered")
    assert CanaryLog(engine, "OTHER", 1.0).last() is None


def test_what_failed_is_said_with_its_reason(
    engine: Engine, intake: Intake, assembly: Assembly, queue: JobQueue, tmp_path: Path
) -> None:
    log = CanaryLog(engine, "CT1", 1e12)
    queued_series(intake, assembly)
    got = queue.claim("w")
    assert got is not None
    queue.finish(got.lease, Outcome.NOT_APPLICABLE, "too thin", {"p": [result_file(tmp_path)]})
    last = log.last()
    assert last is not None
    assert (last.outcome, last.reason) == ("failed", "too thin")
    send(intake, "b", [received("b", "1.2.3.2")])
    revision = assembly.waiting()[0]
    assembly.hold(revision.id, 1, "odd")
    last = log.last()
    assert last is not None
    assert (last.outcome, last.reason) == ("failed", "odd")
    assert [run.outcome for run in log.runs()] == ["failed", "failed"]
