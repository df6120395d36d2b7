"""The table of moves and the policies, as plain decisions."""

import random
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicom_node.errors import IllegalMove
from dicom_node.lifecycle import (
    MOVES,
    DeliveryState,
    InstanceState,
    JobState,
    SeriesState,
    Verdict,
    ask_wait_seconds,
    backoff_seconds,
    check_move,
    judge_store_status,
    learned_idle_seconds,
    learned_return_seconds,
    longest_pause,
    longest_return,
    remembered_pause,
    remembered_share,
    waited_seconds,
)

STATES = [*InstanceState, *SeriesState, *JobState, *DeliveryState]


def test_every_state_has_its_row_and_leads_to_states_of_its_kind() -> None:
    assert set(MOVES) == set(STATES)
    for old, targets in MOVES.items():
        assert {type(new) for new in targets} <= {type(old)}


@pytest.mark.parametrize("old", STATES)
def test_only_the_moves_of_the_table_pass(old: SeriesState) -> None:
    for new in STATES:
        if new in MOVES[old]:
            check_move(old, new)
        else:
            with pytest.raises(IllegalMove):
                check_move(old, new)


def test_what_is_finished_does_not_move_again() -> None:
    ends = (
        DeliveryState.WITHDRAWN,
        JobState.STORED,
        JobState.FAILED,
        JobState.POISON,
        SeriesState.SUPERSEDED,
    )
    assert all(not MOVES[state] for state in ends)


def test_every_state_can_be_reached_from_its_first() -> None:
    firsts = (InstanceState.RECEIVED, SeriesState.OPEN, JobState.QUEUED, DeliveryState.PENDING)
    seen = set(firsts)
    todo = list(firsts)
    while todo:
        for new in MOVES[todo.pop()] - seen:
            seen.add(new)
            todo.append(new)
    assert seen == set(STATES)


@pytest.mark.parametrize(
    ("statuses", "verdict"),
    [
        ((0x0000, 0x0001, 0x0107, 0x0116), Verdict.ACCEPTED),
        ((0xB000, 0xB006, 0xB007, 0xBFFF), Verdict.ACCEPTED),
        ((0xA700, 0xA701, 0xA7FF, 0x0110, 0x0213), Verdict.RETRY),
        ((0xA800, 0xA900, 0xA9FF, 0xC000, 0xCFFF), Verdict.DEAD),
        ((0x0105, 0x0117, 0x0122, 0x0124, 0x0210, 0x0211, 0x0212), Verdict.DEAD),
        ((0xFE00, 0xFF00), Verdict.DEAD),
    ],
)
def test_what_a_c_store_status_means(statuses: tuple[int, ...], verdict: Verdict) -> None:
    assert {judge_store_status(status) for status in statuses} == {verdict}


def test_a_duplicate_at_the_destination_is_there() -> None:
    """0111 answers an object that the PACS has already: our earlier try arrived, its answer did not."""
    assert judge_store_status(0x0111) is Verdict.ACCEPTED


@given(st.integers(1, 10_000), st.floats(0.1, 10), st.floats(10, 1000), st.integers())
def test_backoff_stays_within_half_and_all_of_its_step(
    attempt: int, first: float, longest: float, seed: int
) -> None:
    wait = backoff_seconds(attempt, first=first, longest=longest, rng=random.Random(seed))
    step = min(longest, first * 2.0 ** min(attempt - 1, 32))
    assert 0.5 * step <= wait <= step


def test_asking_takes_longer_and_longer_and_is_counted_without_a_clock() -> None:
    waits = [ask_wait_seconds(n, first=2, longest=10) for n in range(5)]
    assert waits == [2, 4, 8, 10, 10]
    assert [waited_seconds(n, first=2, longest=10) for n in range(4)] == [0, 2, 6, 14]


def test_pauses_teach_only_when_enough_were_seen() -> None:
    start = datetime(2026, 1, 5, tzinfo=UTC)
    arrivals = [start + timedelta(seconds=s) for s in (0, 1, 1.5, 4, 5)]
    assert longest_pause(arrivals) == 2.5
    assert longest_pause(arrivals[:1]) is None
    assert learned_idle_seconds(9, 2.5) is None
    assert learned_idle_seconds(10, 2.5) == 7.5


def test_a_sender_that_came_back_next_day_and_a_clock_set_back_teach_nothing() -> None:
    start = datetime(2026, 1, 5, tzinfo=UTC)
    assert longest_pause([start, start + timedelta(seconds=2), start + timedelta(days=1)]) == 2
    assert longest_pause([start, start - timedelta(hours=1)]) == 0


def test_a_long_pause_is_forgotten_slowly() -> None:
    pause = 10.0
    for _ in range(100):
        pause = remembered_pause(pause, 1.0)
    assert 1.0 < pause < 2.0


def test_who_comes_back_after_a_release_has_a_habit() -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)

    def came(*arrivals: tuple[str, float]) -> list[tuple[str, datetime]]:
        return [(name, start + timedelta(seconds=at)) for name, at in arrivals]

    halves = came(("a", 0), ("a", 1), ("b", 6), ("b", 7), ("c", 8))
    assert longest_return(halves, {"a", "b", "c"}) == 5
    assert longest_return(halves, {"b", "c"}) == 1  # a broke off, and was sent again
    side_by_side = came(("a", 0), ("b", 5), ("a", 10), ("b", 15))
    assert longest_return(side_by_side, {"a", "b"}) == 5  # b came after the last of a
    assert longest_return(came(("a", 0), ("b", 31)), {"a", "b"}) == 0
    assert longest_return([], set()) == 0


def test_one_return_is_no_habit_and_a_habit_is_forgotten() -> None:
    share = 0.0
    shares = [share := remembered_share(share, 5.0 if n < 3 else 0.0) for n in range(10)]
    learned = [learned_return_seconds(share, 5.0) for share in shares]
    assert learned[:2] == [None, None]
    assert learned[2] == 7.5
    assert learned[-1] is None
    assert remembered_share(0.0, 2.9) == 0  # the settle time covers it
