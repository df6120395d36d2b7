"""The API, `/api/v1`: the page's answers as JSON. Its description is `/api/v1/openapi.json`.

A program logs in with a bearer token (`dicom-node users token`), a browser with its session.
"""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, HTTPException, Path, Query, Request, UploadFile
from fastapi.security import HTTPBearer

from dicom_node.errors import CannotUnderstand
from dicom_node.store.worklist import Shown
from dicom_node.web import questions as ask
from dicom_node.web import trail
from dicom_node.web.guard import AnyCaller, OperatorCaller, parts_of
from dicom_node.web.views import StoryView, StudyList, View

PREFIX = "/api/v1"
LARGEST_ID = 2**63 - 1


class Refusal(View):
    """Why there is no answer, in one sentence."""

    detail: str


def refusal(status: int, description: str) -> dict[int | str, dict[str, Any]]:
    """A refusal, for the description of the API."""
    return {status: {"model": Refusal, "description": description}}


REFUSED = (
    refusal(400, "The body cannot be read.")
    | refusal(401, "Nobody is logged in.")
    | refusal(403, "The role does not allow this, or the request was forged.")
    | refusal(422, "The request is not understood.")
)
UNKNOWN = refusal(404, "There is no such thing.")
BEARER = Depends(HTTPBearer(auto_error=False, description="`dicom-node users token NAME`"))
router = APIRouter(prefix=PREFIX, responses=REFUSED, dependencies=[BEARER])

Uid = Annotated[str, Path(max_length=64, description="Study Instance UID.")]
RowId = Annotated[int, Path(ge=1, le=LARGEST_ID)]


@router.get("/node", tags=["node"])
def node(request: Request, _caller: AnyCaller) -> ask.NodeView:
    """The node at a glance: how many are in which state, and the disk."""
    return ask.node(parts_of(request))


@router.get("/studies", tags=["studies"])
def studies(
    request: Request,
    caller: AnyCaller,
    state: Annotated[
        Shown, Query(description="Only studies of which something is so.")
    ] = Shown.ALL,
    search: Annotated[str, Query(max_length=200)] = "",
    before: Annotated[int | None, Query(ge=1, le=LARGEST_ID)] = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
) -> StudyList:
    """The worklist, newest first."""
    found = parts_of(request).worklist.page(
        state, search, before, limit, identities=caller.viewer.identities
    )
    return StudyList(studies=[caller.viewer.study(row) for row in found.studies], older=found.older)


@router.get("/studies/{study_uid}", tags=["studies"], responses=UNKNOWN)
def study(request: Request, caller: AnyCaller, study_uid: Uid) -> StoryView:
    """One study with every revision of its series, and everything that happened to it."""
    parts = parts_of(request)
    found = parts.worklist.study(study_uid)
    if found is None:
        raise HTTPException(404, "There is no such study.")
    trail.seen(request, caller.account.name, found)
    return caller.viewer.story(found, parts.overview.story(study_uid))


@router.get("/queue", tags=["node"])
def queue(request: Request, _caller: AnyCaller) -> list[ask.QueuedView]:
    """Jobs that run, then jobs that wait, in the order in which they will be taken."""
    return ask.queue(parts_of(request))


@router.get("/senders", tags=["peers"])
def senders(request: Request, _caller: AnyCaller) -> list[ask.SenderView]:
    """Who sent to the node."""
    return ask.senders(parts_of(request))


@router.get("/destinations", tags=["peers"])
def destinations(request: Request, _caller: AnyCaller) -> list[ask.DestinationView]:
    """Where results go."""
    return ask.destinations(parts_of(request))


@router.post("/destinations/{name}/echo", tags=["peers"], responses=UNKNOWN)
def echo(request: Request, _caller: OperatorCaller, name: str) -> ask.EchoView:
    """Ask a destination whether it is there (C-ECHO)."""
    if name not in parts_of(request).settings.destination:
        raise HTTPException(404, "There is no such destination.")
    return ask.echo(parts_of(request), name)


@router.get("/models", tags=["models"])
def models(request: Request, _caller: AnyCaller) -> list[ask.ModelView]:
    """The models of the catalogue."""
    return ask.models(parts_of(request))


@router.get("/models/{name}", tags=["models"], responses=UNKNOWN)
def model(request: Request, _caller: AnyCaller, name: str) -> ask.ModelView:
    """One model."""
    if name not in parts_of(request).models:
        raise HTTPException(404, "There is no such model.")
    return ask.model(parts_of(request), name)


@router.get("/routes", tags=["routes"])
def routes(request: Request, _caller: AnyCaller) -> list[ask.RouteView]:
    """The routes, as configured."""
    return ask.routes(parts_of(request))


@router.post("/routes/test", tags=["routes"])
def try_routes(
    request: Request,
    _caller: OperatorCaller,
    file: UploadFile,
    calling_ae: Annotated[str, Query(max_length=16)] = "",
    instances: Annotated[int, Query(ge=1, le=100_000)] = 100,
) -> ask.RouteTest:
    """Which routes a series would take whose instances are like this DICOM file, and why not."""
    try:
        return ask.try_routes(parts_of(request), file.file.read(), calling_ae, instances)
    except CannotUnderstand as error:
        raise HTTPException(400, str(error)) from error
