"""A study's state in one word: as far as the furthest behind of what is owed."""

from typing import Any

import pytest

from dicom_node.web.recent import Kept
from dicom_node.web.state import Stage, standing_of_series, standing_of_study
from dicom_node.web.views import readable_date, readable_name


def a_series(state: str = "QUEUED", *jobs: dict[str, Any], current: bool = True) -> dict[str, Any]:
    return {"state": state, "reason": "why", "jobs": list(jobs), "current": current}


def a_job(
    state: str, *deliveries: str, outcome: str | None = "succeeded", model: str = "m"
) -> dict[str, Any]:
    gone = [{"state": one, "destination": "pacs", "reason": ""} for one in deliveries]
    results = [{"deliveries": gone}]
    return {"model": model, "state": state, "reason": "r", "outcome": outcome, "results": results}


@pytest.mark.parametrize(
    ("series", "stage"),
    [
        (a_series("OPEN"), Stage.RECEIVING),
        (a_series("STABLE"), Stage.RECEIVING),
        (a_series("HELD"), Stage.HELD),
        (a_series("NO_ROUTE"), Stage.NO_ROUTE),
        (a_series("QUEUED", a_job("QUEUED")), Stage.QUEUED),
        (a_series("QUEUED", a_job("RUNNING")), Stage.RUNNING),
        (a_series("QUEUED", a_job("STORED", "PENDING")), Stage.DELIVERING),
        (a_series("QUEUED", a_job("STORED", "CONFIRMED", "SENT")), Stage.DELIVERING),
        (a_series("QUEUED", a_job("STORED", "CONFIRMED")), Stage.DELIVERED),
        (a_series("QUEUED", a_job("STORED", "CONFIRMED", "DEAD")), Stage.FAILED),
        (a_series("QUEUED", a_job("FAILED", "CONFIRMED")), Stage.FAILED),
        (a_series("QUEUED", a_job("POISON")), Stage.FAILED),
        (a_series("QUEUED", a_job("CANCELLED")), Stage.CANCELLED),
        (
            a_series("QUEUED", a_job("STORED", "CONFIRMED"), a_job("RUNNING", model="n")),
            Stage.RUNNING,
        ),
        (a_series("QUEUED", a_job("RUNNING"), a_job("FAILED", model="n")), Stage.FAILED),
    ],
)
def test_a_series_is_as_far_as_what_is_furthest_behind(
    series: dict[str, Any], stage: Stage
) -> None:
    assert standing_of_series(series).stage is stage


def test_a_study_is_as_its_worst_series_is_and_history_does_not_count() -> None:
    delivered = a_series("QUEUED", a_job("STORED", "CONFIRMED"))
    localizer, failed = a_series("NO_ROUTE"), a_series("QUEUED", a_job("FAILED"), current=False)
    assert standing_of_study([localizer, failed, delivered]).stage is Stage.DELIVERED
    assert standing_of_study([delivered, a_series("HELD")]).stage is Stage.HELD


def test_a_run_that_was_run_again_is_history() -> None:
    assert (
        standing_of_series(
            a_series("QUEUED", a_job("FAILED", "CONFIRMED"), a_job("STORED", "CONFIRMED"))
        ).stage
        is Stage.DELIVERED
    )


def test_what_was_not_applicable_says_why() -> None:
    job = a_job("STORED", "CONFIRMED", outcome="not applicable")
    assert standing_of_series(a_series("QUEUED", job)).reason == "m: r"


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("Meier^Anna", "Meier, Anna"),
        ("Meier", "Meier"),
        ("Yamada^Taro=山田^太郎", "Yamada, Taro"),
        ("O'Neil^Sue^Q^Dr", "O'Neil, Sue Q"),
        ("", ""),
    ],
)
def test_names_as_people_write_them(name: str, read: str) -> None:
    assert readable_name(name) == read


def test_dates() -> None:
    assert readable_date("20260105") == "2026-01-05"
    assert readable_date("2026") == "2026"


def test_an_answer_is_made_once_for_all_who_look_and_anew_when_something_changed() -> None:
    now = [0.0]
    kept: Kept[int] = Kept(5.0, most=2, clock=lambda: now[0])
    made: list[str] = []

    def ask(key: str, version: str) -> int:
        def make() -> int:
            made.append(key)
            return len(made)

        return kept.get(key, version, make)

    assert [ask("a", "1"), ask("a", "1"), ask("b", "1")] == [1, 1, 2]
    assert ask("a", "2") == 3
    now[0] = 6.0
    assert ask("a", "2") == 4
    assert ask("c", "1") == 5
    assert ask("b", "1") == 6, "only so many are kept"


def test_an_answer_that_broke_is_asked_again() -> None:
    kept: Kept[int] = Kept(5.0)

    def broken() -> int:
        raise ValueError

    with pytest.raises(ValueError):
        kept.get("a", "1", broken)
    assert kept.get("a", "1", lambda: 7) == 7
