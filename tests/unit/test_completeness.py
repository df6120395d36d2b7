"""Which proof makes a series complete, and what is held."""

import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicom_node.assemble.completeness import (
    Complete,
    Hold,
    Wait,
    geometry_gap,
    judge,
    numbering_gap,
)
from dicom_node.settings import AssembleSettings
from tests.builders.store import facts_of, open_series, slice_attributes

SETTINGS = AssembleSettings()  # settle 3 s, idle 10 s, ceiling 60 s


def kind(verdict: object) -> str:
    return type(verdict).__name__


@pytest.mark.parametrize(
    ("what", "quiet", "verdict"),
    [
        ({}, 2.9, "Wait"),
        ({}, 3.0, "Complete"),
        ({"released": False}, 9.9, "Wait"),
        ({"released": False}, 10.0, "Complete"),
        ({"sending": True}, 59.9, "Wait"),
        ({"sending": True}, 60.0, "Complete"),
        ({"sending": True, "released": False}, 60.0, "Complete"),
        ({"expected": 5, "sending": True}, 0.0, "Complete"),
        ({"expected": 4, "sending": True}, 0.0, "Complete"),
        ({"expected": 6}, 59.9, "Wait"),
        ({"expected": 6}, 60.0, "Hold"),
        ({"idle_seconds": 4.0, "released": False}, 4.0, "Complete"),
        ({"idle_seconds": 0.1, "released": False}, 2.9, "Wait"),
        ({"idle_seconds": 0.1, "released": False}, 3.0, "Complete"),
        ({"idle_seconds": 25.0, "released": False}, 24.9, "Wait"),
        ({"idle_seconds": 500.0, "released": False}, 60.0, "Complete"),
        ({"return_seconds": 8.0}, 7.9, "Wait"),
        ({"return_seconds": 8.0}, 8.0, "Complete"),
        ({"return_seconds": 0.5}, 3.0, "Complete"),
        ({"return_seconds": 8.0, "expected": 5}, 0.0, "Complete"),
    ],
)
def test_first_proof_wins(what: dict[str, Any], quiet: float, verdict: str) -> None:
    assert kind(judge(open_series(**what), quiet, SETTINGS)) == verdict


def test_a_gap_waits_for_idle_time() -> None:
    gap = open_series([facts_of(n) for n in (0, 1, 3, 4)])
    assert judge(gap, 9.9, SETTINGS) == Wait()
    assert judge(gap, 10.0, SETTINGS) == Complete("nothing came for 10 s")


def test_learned_idle_time_can_be_turned_off() -> None:
    series = open_series(idle_seconds=4.0, released=False)
    settings = AssembleSettings(learn_idle_seconds=False)
    assert kind(judge(series, 9.9, settings)) == "Wait"


def test_what_the_images_announce_is_a_proof_but_no_reason_to_wait() -> None:
    def announcing(count: int) -> Any:
        attributes = slice_attributes(0) | {"expected_instances": count}
        return open_series([facts_of(0, attributes=attributes), facts_of(1), facts_of(2)])

    assert kind(judge(announcing(3), 0.0, SETTINGS)) == "Complete"
    assert kind(judge(announcing(4), 0.0, SETTINGS)) == "Wait"
    assert kind(judge(announcing(4), 3.0, SETTINGS)) == "Complete"


@pytest.mark.parametrize(
    ("series", "reason"),
    [
        (open_series([facts_of(0), facts_of(1, patient_id="P2")]), "different patients"),
        (open_series(study_patient_ids=("P1", "P2")), "series of one study"),
        (open_series([facts_of(0), facts_of(1, quarantine="odd")]), "1 of 2 instances .*: odd"),
        (open_series(expected=9), "5 of 9 instances came"),
        (open_series([]), "in the spool"),
    ],
)
def test_contradictions_are_held_not_guessed_at(series: Any, reason: str) -> None:
    verdict = judge(series, 60.0, SETTINGS)
    assert isinstance(verdict, Hold)
    assert re.search(reason, verdict.reason)


def test_a_contradiction_waits_for_the_proof_too() -> None:
    series = open_series([facts_of(0), facts_of(1, quarantine="odd")])
    assert judge(series, 1.0, SETTINGS) == Wait()


@pytest.mark.parametrize("part", [range(5, 10), range(0, 10, 2), range(1, 10, 2)])
def test_a_part_that_looks_like_a_stack_waits_for_idle_time(part: range) -> None:
    stack = [facts_of(n) for n in part]
    assert geometry_gap(stack) is None
    assert judge(open_series(stack), 9.9, SETTINGS) == Wait()
    assert judge(open_series(stack), 10.0, SETTINGS) == Complete("nothing came for 10 s")


@pytest.mark.parametrize(
    ("numbers", "says"),
    [
        ([0, 1, 2], None),
        ([3, 1, 2], None),
        ([7], None),
        ([2, 3, 4], "lowest instance number is 2"),
        ([1, 3, 5], "3 instances are numbered from 1 to 5"),
        ([7, 7, 8], None),
        ([7, None, 8], None),
    ],
)
def test_numbering_gap(numbers: list[int | None], says: str | None) -> None:
    facts = [
        facts_of(place, attributes=slice_attributes(place) | {"instance_number": number})
        for place, number in enumerate(numbers)
    ]
    found = numbering_gap(facts)
    assert found is None if says is None else says in (found or "")


# --- geometry -----------------------------------------------------------------------------------


def with_attributes(**values: Any) -> Any:
    return facts_of(2, attributes=slice_attributes(2) | values)


@pytest.mark.parametrize(
    ("instances", "gap"),
    [
        ([facts_of(n) for n in range(5)], None),
        ([facts_of(n) for n in (4, 2, 0, 3, 1)], None),
        ([facts_of(n) for n in (0, 1, 3)], "evenly"),
        ([facts_of(n) for n in (0, 1, 1, 2)], "one position"),
        ([facts_of(0)], "single slice"),
        ([facts_of(0), facts_of(1), with_attributes(position=None)], "no position"),
        ([facts_of(0), facts_of(1), with_attributes(position=[0, 0])], "no position"),
        ([facts_of(0), facts_of(1), with_attributes(orientation=None)], "no orientation"),
        (
            [facts_of(0), facts_of(1), with_attributes(orientation=[0, 1, 0, -1, 0, 0])],
            "orientation",
        ),
        (
            [facts_of(0), facts_of(1), with_attributes(position=[0, 0, float("nan")])],
            "no number",
        ),
        (
            [facts_of(0), facts_of(1), with_attributes(position=[0, 0, float("inf")])],
            "no number",
        ),
        ([with_attributes(frames=40)], None),
        ([with_attributes(frames=40), facts_of(1)], "no position"),
    ],
)
def test_geometry_gap(instances: list[Any], gap: str | None) -> None:
    found = geometry_gap(instances)
    assert found is None if gap is None else gap in (found or "")


def test_a_tilted_gantry_and_rounded_positions_are_no_gap() -> None:
    def tilted(n: int) -> Any:
        position = [0.0, round(0.31 * n, 2), round(1.25 * n + 0.004 * (n % 2), 2)]
        return facts_of(n, attributes=slice_attributes(n) | {"position": position})

    assert geometry_gap([tilted(n) for n in range(40)]) is None


@given(st.permutations(range(8)), st.sets(st.integers(1, 6), max_size=3), st.floats(0.3, 9))
def test_a_missing_slice_is_seen_in_any_order(
    order: list[int], missing: set[int], spacing: float
) -> None:
    kept = [facts_of(n, spacing) for n in order if n not in missing]
    even = len({b - a for a, b in zip(*_neighbours(missing), strict=True)}) == 1
    assert (geometry_gap(kept) is None) == even


def _neighbours(missing: set[int]) -> tuple[list[int], list[int]]:
    left = [n for n in range(8) if n not in missing]
    return left[:-1], left[1:]


@given(st.floats(0, 200), st.booleans(), st.booleans(), st.sampled_from([None, 3, 5, 9]))
def test_never_later_than_the_ceiling_and_never_undone_by_waiting(
    quiet: float, sending: bool, released: bool, expected: int | None
) -> None:
    series = open_series(sending=sending, released=released, expected=expected)
    verdict = judge(series, quiet, SETTINGS)
    if quiet >= 60:
        assert not isinstance(verdict, Wait)
    if not isinstance(verdict, Wait):
        later = judge(series, quiet + 1, SETTINGS)
        assert type(later) is type(verdict)
    assert judge(replace(series), quiet, SETTINGS) == verdict
