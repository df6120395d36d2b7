"""What a check found. Plain values."""

from dataclasses import dataclass
from enum import Enum


class Verdict(Enum):
    """How it stands; the order is that in which a person wants to hear of it."""

    FAILED = "failed"
    WARNING = "warning"
    PASSED = "passed"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Finding:
    """One answer of one check."""

    id: str
    """Never changes, so that monitoring may name it: `disk.sync`, `peer.pacs`."""
    verdict: Verdict
    told: str
    """What was found, in a sentence without patient data."""
    hint: str = ""
    """What to do; empty where nothing is to be done."""


def passed(id: str, told: str) -> Finding:
    """Nothing to do."""
    return Finding(id, Verdict.PASSED, told)


def skipped(id: str, told: str) -> Finding:
    """There is nothing to check."""
    return Finding(id, Verdict.SKIPPED, told)


def warning(id: str, told: str, hint: str) -> Finding:
    """It works, and somebody should look at it."""
    return Finding(id, Verdict.WARNING, told, hint)


def failed(id: str, told: str, hint: str) -> Finding:
    """It will not work, or is not safe."""
    return Finding(id, Verdict.FAILED, told, hint)
