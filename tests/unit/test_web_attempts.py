"""Wrong passwords slow down who types them, and nobody else."""

import pytest

from dicom_node.web import passwords
from dicom_node.web.attempts import (
    FREE_TRIES,
    FREE_TRIES_OF_AN_ADDRESS,
    LONGEST_WAIT_SECONDS,
    REMEMBERED,
    Attempts,
)


class Clock:
    """A clock that a test turns."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_the_first_few_are_free_and_then_the_wait_doubles() -> None:
    attempts = Attempts(Clock())
    waits = []
    for _ in range(FREE_TRIES + 3):
        waits.append(attempts.wait("10.0.0.1", "anna"))
        attempts.failed("10.0.0.1", "anna")
    assert waits == [0, 0, 0, 0, 0, 2, 4, 8]


def test_the_wait_ends() -> None:
    clock = Clock()
    attempts = Attempts(clock)
    for _ in range(100):
        attempts.failed("10.0.0.1", "anna")
    assert attempts.wait("10.0.0.1", "anna") == LONGEST_WAIT_SECONDS
    clock.now += LONGEST_WAIT_SECONDS
    assert attempts.wait("10.0.0.1", "anna") == 0


def test_nobody_locks_another_out() -> None:
    attempts = Attempts(Clock())
    for _ in range(1000):
        attempts.failed("10.6.6.6", "admin")
    assert attempts.wait("10.0.0.1", "admin") == 0


def test_an_address_that_tries_many_names_waits_too() -> None:
    attempts = Attempts(Clock())
    for number in range(FREE_TRIES_OF_AN_ADDRESS):
        attempts.failed("10.6.6.6", f"name{number}")
    assert attempts.wait("10.6.6.6", "another") > 0


def test_the_right_password_wipes_the_slate() -> None:
    attempts = Attempts(Clock())
    for _ in range(FREE_TRIES):
        attempts.failed("10.0.0.1", "anna")
    attempts.succeeded("10.0.0.1", "anna")
    assert attempts.wait("10.0.0.1", "anna") == 0


def test_memory_is_bounded() -> None:
    attempts = Attempts(Clock())
    for number in range(REMEMBERED + 50):
        attempts.failed(f"10.0.{number}", "x")
    assert len(attempts._failures) <= REMEMBERED


def test_passwords() -> None:
    made = passwords.hash_password("correct horse battery")
    assert "correct" not in made
    assert passwords.fits("correct horse battery", made)
    assert not passwords.fits("correct horse batterz", made)
    assert not passwords.fits("correct horse battery", None)
    assert not passwords.fits("x" * 5000, made)
    assert passwords.objection(passwords.made_up(), "anna") is None


@pytest.mark.parametrize("poor", ["short", "aaaaaaaaaaaaaaaa", "annaannaanna1", "x" * 2000])
def test_poor_passwords_are_refused(poor: str) -> None:
    assert passwords.objection(poor, "anna")
