"""The pages and the API of orders: a page that asks once more, and then the deed."""

from typing import Annotated, Any

from fastapi import APIRouter, Form, HTTPException, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import RedirectResponse, Response

from dicom_node.observe.logging import get_logger, hashed
from dicom_node.web import trail
from dicom_node.web.actions import WORDS, Order, carry_out, models_of, offered
from dicom_node.web.api import BEARER, PREFIX, REFUSED, UNKNOWN, Uid, refusal
from dicom_node.web.guard import Caller, OperatorCaller, check_csrf, parts_of
from dicom_node.web.render import page

log = get_logger(__name__)
router = APIRouter()

CONFLICT = refusal(409, "It fits the state no more.")


class OrderBody(BaseModel):
    """An order of a program; what a page asks before, the program knows."""

    model_config = ConfigDict(extra="forbid")

    order: Order
    why: Annotated[str, Field(max_length=200)] = ""
    model: Annotated[str, Field(max_length=64)] = ""


class Done(BaseModel):
    """What an order changed."""

    told: str


@router.post(
    f"{PREFIX}/studies/{{study_uid}}/orders",
    tags=["studies"],
    dependencies=[BEARER],
    responses=REFUSED | UNKNOWN | CONFLICT,
)
def order_by_program(
    request: Request, caller: OperatorCaller, study_uid: Uid, body: OrderBody
) -> Done:
    """Retry, release, call complete, hold, cancel or run again what belongs to a study."""
    found = _study(request, study_uid)
    return Done(told=_do(request, caller, found, body.order, body.why, body.model))


@router.get("/studies/{study_uid}/{order}", include_in_schema=False)
def ask(request: Request, caller: OperatorCaller, study_uid: str, order: Order) -> Response:
    """Ask whether it is meant."""
    return _ask(request, caller, _study(request, study_uid), order)


@router.post("/studies/{study_uid}/{order}", include_in_schema=False)
def order_by_person(
    request: Request,
    caller: OperatorCaller,
    study_uid: str,
    order: Order,
    csrf: Annotated[str, Form()] = "",
    why: Annotated[str, Form(max_length=200)] = "",
    model: Annotated[str, Form(max_length=64)] = "",
) -> Response:
    """Do it, and go back to the study."""
    check_csrf(caller, csrf)
    found = _study(request, study_uid)
    try:
        _do(request, caller, found, order, why, model)
    except HTTPException as refused:
        if refused.status_code != 409:
            raise
        return _ask(request, caller, found, order, 409, str(refused.detail))
    return RedirectResponse(f"/studies/{study_uid}", 303)


def _study(request: Request, study_uid: str) -> dict[str, Any]:
    found = parts_of(request).worklist.study(study_uid)
    if found is None:
        raise HTTPException(404, "There is no such study.")
    return found


def _do(
    request: Request, caller: Caller, found: dict[str, Any], order: Order, why: str, model: str
) -> str:
    parts = parts_of(request)
    if order not in offered(found["series"]):
        raise HTTPException(409, "The study's state is another now; there is nothing to do.")
    if order is Order.RERUN and model not in models_of(found["series"]):
        raise HTTPException(409, "This model did not run on the study.")
    digest = parts.models[model].digest if model in parts.models else None
    operator = parts.operator(caller.account.name)
    trail.ordered(request, caller.account.name, found, order.value)
    told = carry_out(operator, order, found["study_uid"], why.strip(), model, digest)
    log.info(
        "order", order=order.value, account=caller.account.name, study=hashed(found["study_uid"])
    )
    return told


def _ask(
    request: Request,
    caller: Caller,
    found: dict[str, Any],
    order: Order,
    status: int = 200,
    error: str | None = None,
) -> Response:
    return page(
        request,
        "order.html",
        status,
        caller=caller,
        study=caller.viewer.study(found),
        order=order,
        words=WORDS[order],
        models=models_of(found["series"]),
        error=error,
    )
