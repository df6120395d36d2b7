"""Sums of what is in each state: kept by every writer, and by several who clear up at once."""

import threading

from sqlalchemy import Engine, func, select

from dicom_node.store.assembly import Assembly
from dicom_node.store.database import reading
from dicom_node.store.intake import Intake
from dicom_node.store.metering import Metering
from dicom_node.store.overview import Overview
from dicom_node.store.tables import tally
from dicom_node.store.tally import Tally
from tests.builders.store import queued_series, received, send


def test_nothing_is_counted_twice_while_it_is_cleared_up(
    engine: Engine, intake: Intake, assembly: Assembly
) -> None:
    failures: list[BaseException] = []

    def guarded(work: object) -> None:
        try:
            work()  # type: ignore[operator]
        except BaseException as error:
            failures.append(error)

    def receive(part: int) -> None:
        for number in range(10):
            name = f"a{part}-{number}"
            send(intake, name, [received(name, f"1.2.3.{part}", number)])

    def compact() -> None:
        for _ in range(20):
            Tally(engine).compact()

    works = [lambda part=part: receive(part) for part in range(3)] + [compact, compact]
    threads = [threading.Thread(target=guarded, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    expected = {
        "instance": {"RECEIVED": 30},
        "series": {"OPEN": 3},
        "job": {},
        "delivery": {},
        "association": {"OPEN": 0},
    }
    assert Overview(engine).counts() == expected
    assert Metering(engine).endings() == {"RELEASED": 30}
    Tally(engine).compact()
    with reading(engine) as connection:
        assert connection.execute(select(func.count()).select_from(tally)).scalar_one() <= 4
    assert Overview(engine).counts() == expected
    queued_series(intake, assembly, "1.2.4.1")
    assert Metering(engine).states() == {
        ("series", "OPEN"): 3,
        ("series", "QUEUED"): 1,
        ("job", "QUEUED"): 1,
    }
