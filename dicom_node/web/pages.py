"""The pages: HTML that the server makes; htmx fetches parts of them anew.

A page and the part of it that is fetched anew have the same address; the header `HX-Request` tells them
apart, so that a link, a reload and the back button all lead to the same place.
"""

from typing import Annotated

from fastapi import APIRouter, Form, HTTPException, Query, Request, UploadFile
from starlette.responses import FileResponse, RedirectResponse, Response

from dicom_node.errors import CannotUnderstand, ConfigurationError
from dicom_node.store.accounts import UserRole
from dicom_node.store.worklist import Shown
from dicom_node.web import passwords, trail
from dicom_node.web import questions as ask
from dicom_node.web.actions import WORDS, offered
from dicom_node.web.api import LARGEST_ID
from dicom_node.web.guard import AdminCaller, AnyCaller, OperatorCaller, check_csrf, parts_of
from dicom_node.web.pictures import SHOWN
from dicom_node.web.render import CARD_PICTURE, page
from dicom_node.web.views import StudyRow

router = APIRouter(include_in_schema=False)

FILTERS = {
    Shown.ALL: "All",
    Shown.ATTENTION: "Needs attention",
    Shown.RECEIVING: "Receiving",
    Shown.QUEUED: "Queued",
    Shown.RUNNING: "Running",
    Shown.DELIVERING: "Delivering",
    Shown.DELIVERED: "Delivered",
    Shown.NO_ROUTE: "No route",
}


@router.get("/")
def worklist(
    request: Request,
    caller: AnyCaller,
    state: str = "all",
    search: Annotated[str, Query(max_length=200)] = "",
    before: Annotated[int | None, Query(ge=1, le=LARGEST_ID)] = None,
) -> Response:
    """The worklist."""
    parts, shown = parts_of(request), ask.shown_of(state)
    now = parts.metering.version()
    if _is_as_seen(request, now):
        return Response(status_code=204)
    identities = caller.viewer.identities

    def read() -> tuple[list[StudyRow], int | None]:
        found = parts.worklist.page(shown, search, before, identities=identities)
        return [caller.viewer.row(one) for one in found.studies], found.older

    studies, older = parts.pages.get((shown, search, before, identities), now, read)
    return page(
        request,
        _part(request, "worklist.html", "_worklist.html"),
        caller=caller,
        now=now,
        studies=studies,
        older=older,
        before=before,
        shown=shown,
        filters=FILTERS,
        counts=ask.counts(parts),
        search=search,
    )


@router.get("/studies/{study_uid}")
def study(request: Request, caller: AnyCaller, study_uid: str) -> Response:
    """One study's story."""
    parts = parts_of(request)
    now = parts.metering.version()
    if _is_as_seen(request, now):
        return Response(status_code=204)
    found = parts.worklist.study(study_uid)
    if found is None:
        raise HTTPException(404, "There is no such study.")
    if not request.headers.get(
        "hx-request"
    ):  # looking once is one look, however often it is fetched
        trail.seen(request, caller.account.name, found)
    story = caller.viewer.story(found, parts.overview.story(study_uid))
    return page(
        request,
        _part(request, "study.html", "_study.html"),
        caller=caller,
        now=now,
        study=story.study,
        moves=story.moves,
        pictured=SHOWN,
        orders={order.value: WORDS[order].button for order in offered(found["series"])},
    )


@router.get("/queue")
def queue(request: Request, caller: AnyCaller) -> Response:
    """Jobs that run and wait, and the disk."""
    parts = parts_of(request)
    return page(
        request,
        _part(request, "queue.html", "_queue.html"),
        caller=caller,
        jobs=ask.queue(parts),
        node=ask.node(parts),
    )


@router.get("/peers")
def peers(request: Request, caller: AnyCaller) -> Response:
    """Senders and destinations."""
    parts = parts_of(request)
    return page(
        request,
        "peers.html",
        caller=caller,
        senders=ask.senders(parts),
        destinations=ask.destinations(parts),
        received=request.app.state.meter.received(),
        answer=None,
    )


@router.post("/peers/{name}/echo")
def echo(
    request: Request, caller: OperatorCaller, name: str, csrf: Annotated[str, Form()] = ""
) -> Response:
    """Ask a destination whether it is there."""
    check_csrf(caller, csrf)
    parts = parts_of(request)
    if name not in parts.settings.destination:
        raise HTTPException(404, "There is no such destination.")
    return page(
        request,
        _part(request, "peers.html", "_echo.html"),
        caller=caller,
        answer=ask.echo(parts, name),
        received=request.app.state.meter.received(),
        senders=ask.senders(parts),
        destinations=ask.destinations(parts),
    )


@router.get("/models")
def models(request: Request, caller: AnyCaller) -> Response:
    """The catalogue."""
    return page(request, "models.html", caller=caller, models=ask.models(parts_of(request)))


@router.get("/models/{name}")
def model(request: Request, caller: AnyCaller, name: str) -> Response:
    """A model's card."""
    parts = parts_of(request)
    if name not in parts.models:
        raise HTTPException(404, "There is no such model.")
    found, card = ask.model(parts, name), ask.card(parts, name)
    return page(request, "model.html", caller=caller, model=found, card=card)


@router.get("/models/{name}/{picture}")
def card_picture(request: Request, _caller: AnyCaller, name: str, picture: str) -> Response:
    """A picture of a model's card."""
    parts = parts_of(request)
    if name not in parts.models or not CARD_PICTURE.fullmatch(picture):
        raise HTTPException(404, "There is no such picture.")
    file = parts.models[name].folder / "docs" / picture
    if not file.is_file():
        raise HTTPException(404, "There is no such picture.")
    return FileResponse(file)


@router.get("/routes")
def routes(request: Request, caller: AnyCaller) -> Response:
    """The routes, and the test of a file."""
    found = ask.routes(parts_of(request))
    return page(request, "routes.html", caller=caller, routes=found, verdict=None)


@router.post("/routes/test")
def try_routes(
    request: Request,
    caller: OperatorCaller,
    file: UploadFile,
    csrf: Annotated[str, Form()] = "",
    calling_ae: Annotated[str, Form(max_length=16)] = "",
    instances: Annotated[int, Form(ge=1, le=100_000)] = 100,
) -> Response:
    """Which routes a file's series would take, and why not."""
    check_csrf(caller, csrf)
    parts = parts_of(request)
    verdict, error = None, None
    try:
        verdict = ask.try_routes(parts, file.file.read(), calling_ae, instances)
    except CannotUnderstand as caught:
        error = str(caught)
    return page(
        request,
        "routes.html",
        400 if error else 200,
        caller=caller,
        routes=ask.routes(parts),
        verdict=verdict,
        error=error,
    )


@router.get("/accounts")
def accounts(request: Request, caller: AdminCaller) -> Response:
    """Who may log in."""
    return _accounts(request, caller)


@router.post("/accounts")
def add_account(
    request: Request,
    caller: AdminCaller,
    name: Annotated[str, Form(pattern=r"^[A-Za-z0-9._@-]{1,64}$")],
    role: Annotated[UserRole, Form()],
    csrf: Annotated[str, Form()] = "",
) -> Response:
    """Make an account with a password that its owner changes when they first log in."""
    check_csrf(caller, csrf)
    given = passwords.made_up()
    try:
        parts_of(request).accounts.add(name, role, passwords.hash_password(given), must_change=True)
        trail.account_changed(request, caller.account.name, name, f"add as {role.value}")
    except ConfigurationError as error:
        return _accounts(request, caller, status=400, error=str(error))
    return _accounts(request, caller, given=(name, given))


@router.post("/accounts/{name}/{what}")
def change_account(
    request: Request, caller: AdminCaller, name: str, what: str, csrf: Annotated[str, Form()] = ""
) -> Response:
    """Give an account another password, shut it out, let it in, or remove it."""
    check_csrf(caller, csrf)
    found = parts_of(request).accounts
    if name == caller.account.name:
        told = "This is your own account; another admin can change it."
        return _accounts(request, caller, status=400, error=told)
    given = None
    try:
        if what == "reset":
            given = (name, passwords.made_up())
            found.set_password(name, passwords.hash_password(given[1]), must_change=True)
        elif what in ("disable", "enable"):
            found.set_disabled(name, what == "disable")
        elif what == "remove":
            found.remove(name)
        else:
            raise HTTPException(404, "There is no such action.")
    except ConfigurationError as error:
        return _accounts(request, caller, status=400, error=str(error))
    trail.account_changed(request, caller.account.name, name, what)
    if given:
        return _accounts(request, caller, given=given)
    return RedirectResponse("/accounts", 303)


def _accounts(
    request: Request,
    caller: AdminCaller,
    *,
    status: int = 200,
    given: tuple[str, str] | None = None,
    error: str | None = None,
) -> Response:
    found = parts_of(request).accounts.all()
    roles = [role.value for role in UserRole]
    return page(
        request,
        "accounts.html",
        status,
        caller=caller,
        accounts=found,
        roles=roles,
        given=given,
        error=error,
    )


def _is_as_seen(request: Request, now: str) -> bool:
    """Whether the browser, which asks whether anything is new, has seen it all."""
    return request.headers.get("x-seen") == now


def _part(request: Request, whole: str, part: str) -> str:
    """The part alone where htmx asks for it; the page where a person goes back in their history."""
    asked = request.headers.get("hx-request") and not request.headers.get(
        "hx-history-restore-request"
    )
    return part if asked else whole
