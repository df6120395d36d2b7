"""What an operator may order for a study: which orders fit its state, and carrying one out.

What comes in: a study's row and an order. What goes out: what changed, in words. It owns: an order is
carried out only after a person confirmed it, and it is on record with their name and their reason.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Any

from dicom_node.store.operator import Operator


class Order(Enum):
    """An order, as it stands in addresses and in the API."""

    RETRY = "retry"
    RELEASE = "release"
    COMPLETE = "complete"
    HOLD = "hold"
    CANCEL = "cancel"
    RESEND = "resend"
    RERUN = "rerun"


@dataclass(frozen=True, slots=True)
class Wording:
    """How an order is offered and confirmed."""

    button: str
    question: str
    grave: bool = False


WORDS = {
    Order.RETRY: Wording(
        "Try again",
        "Jobs that failed are run again, and deliveries that were given up are sent again.",
    ),
    Order.RELEASE: Wording(
        "Release",
        "What was held is routed all the same, whatever spoke against it. Results may come from an "
        "incomplete or contradictory series.",
        grave=True,
    ),
    Order.COMPLETE: Wording(
        "Call complete",
        "The series count as complete now, without waiting for more. What comes later makes a new "
        "revision.",
    ),
    Order.HOLD: Wording("Hold", "Nothing is begun with this study until somebody releases it."),
    Order.CANCEL: Wording(
        "Cancel", "Jobs that wait or run are cancelled. Nothing is sent for them.", grave=True
    ),
    Order.RESEND: Wording(
        "Send again",
        "Every destination gets the same results once more, for one that has lost them. What it still has "
        "it keeps.",
    ),
    Order.RERUN: Wording(
        "Run again",
        "The model runs once more on the same images; its results take the place of the earlier ones.",
    ),
}


def offered(series: Iterable[dict[str, Any]]) -> list[Order]:
    """The orders that would change something, most wanted first. Pure."""
    current = [one for one in series if one["current"]]
    states = {one["state"] for one in current}
    jobs = [job for one in current for job in one["jobs"]]
    # an earlier run of a model is history once it was run again
    last_runs = [{job["model"]: job["state"] for job in one["jobs"]} for one in current]
    job_states = {state for runs in last_runs for state in runs.values()}
    deliveries = {d["state"] for job in jobs for r in job["results"] for d in r["deliveries"]}
    fits = {
        Order.RETRY: bool(job_states & {"FAILED", "POISON", "CANCELLED"}) or "DEAD" in deliveries,
        Order.RELEASE: bool(states & {"HELD", "NO_ROUTE"}),
        Order.COMPLETE: "OPEN" in states,
        Order.HOLD: bool(states & {"OPEN", "STABLE"}),
        Order.CANCEL: bool(job_states & {"QUEUED", "RUNNING"}),
        Order.RESEND: bool(deliveries & {"SENT", "CONFIRMED"}),
        Order.RERUN: "STORED" in job_states,
    }
    return [order for order in Order if fits[order]]


def models_of(series: Iterable[dict[str, Any]]) -> list[str]:
    """The models that ran on a study and may run again."""
    names = [job["model"] for one in series if one["current"] for job in one["jobs"]]
    return sorted(set(names))


def carry_out(
    operator: Operator, order: Order, study_uid: str, why: str, model: str, digest: str | None
) -> str:
    """Carry out an order, and tell what changed.

    Args:
        operator: the hands, which know whose they are.
        order: what to do.
        study_uid: to which study.
        why: for the record.
        model: which model to run again.
        digest: that model as it is now; None leaves it at what ran.
    """
    if order is Order.RETRY:
        done = operator.retry(study_uid, why)
        return (
            f"{_some(done['jobs'], 'job')} and {_some(done['deliveries'], 'delivery')} tried again"
        )
    if order is Order.RERUN:
        return f"{_some(operator.rerun(study_uid, model, digest, why), 'job')} run again"
    if order is Order.RESEND:
        count = operator.resend(study_uid, why=why)
        return f"{_some(count, 'delivery')} sent again"
    if order is Order.CANCEL:
        return f"{_some(operator.cancel(study_uid, why), 'job')} cancelled"
    acts = {
        Order.HOLD: (operator.hold, "held"),
        Order.RELEASE: (operator.release, "released"),
        Order.COMPLETE: (operator.complete, "called complete"),
    }
    act, told = acts[order]
    return f"{act(study_uid, why)} series {told}"


def _some(count: int, what: str) -> str:
    plural = {"delivery": "deliveries"}.get(what, f"{what}s")
    return f"{count or 'no'} {what if count == 1 else plural}"
