"""Reading the configuration anew, from the page and the API, and what became of it.

What comes in: an admin's word. What goes out: the outcome. The page validates nothing: it asks the process
that does, and waits for what that wrote down.
"""

import time
from typing import Annotated

from fastapi import APIRouter, Form, HTTPException, Request
from starlette.responses import RedirectResponse, Response

from dicom_node.errors import ConfigurationError
from dicom_node.observe.logging import get_logger
from dicom_node.observe.reload import Reload, last_reload
from dicom_node.web import trail
from dicom_node.web.api import BEARER, PREFIX, REFUSED, refusal
from dicom_node.web.guard import AdminCaller, Caller, check_csrf, parts_of
from dicom_node.web.render import page
from dicom_node.web.views import View

log = get_logger(__name__)
router = APIRouter()

SECONDS = 30.0
LOOK_SECONDS = 0.05
UNABLE = refusal(409, "Nobody here can reload.")


class ReloadView(View):
    """What became of a reload."""

    at: str
    error: str
    changed: list[str]
    waiting: list[str]


@router.get("/configuration", include_in_schema=False)
def configuration(request: Request, caller: AdminCaller) -> Response:
    """What became of the last reload, and the button for the next."""
    return _page(request, caller)


@router.post("/configuration/reload", include_in_schema=False)
def reload_by_person(
    request: Request, caller: AdminCaller, csrf: Annotated[str, Form()] = ""
) -> Response:
    """Have it read anew, and show what came of it."""
    check_csrf(caller, csrf)
    try:
        _reload(request, caller)
    except HTTPException as refused:
        return _page(request, caller, refused.status_code, str(refused.detail))
    return RedirectResponse("/configuration", 303)


@router.post(f"{PREFIX}/reload", tags=["node"], dependencies=[BEARER], responses=REFUSED | UNABLE)
def reload_by_program(request: Request, caller: AdminCaller) -> ReloadView:
    """Have the configuration read anew; an `error` says why the one before it was kept."""
    found = _reload(request, caller)
    return ReloadView(
        at=found.at, error=found.error, changed=list(found.changed), waiting=list(found.waiting)
    )


def _reload(request: Request, caller: Caller) -> Reload:
    parts = parts_of(request)
    data_dir = parts.settings.data_dir
    before = last_reload(data_dir)
    trail.reloaded(request, caller.account.name)
    log.info("reload asked for", account=caller.account.name)
    try:
        parts.ask_reload()
    except (ConfigurationError, OSError) as error:
        raise HTTPException(409, str(error)) from error
    until = time.monotonic() + SECONDS
    while time.monotonic() < until:
        if (found := last_reload(data_dir)) is not None and found != before:
            return found
        time.sleep(LOOK_SECONDS)
    raise HTTPException(409, "The node has not answered yet; the log says more.")


def _page(
    request: Request, caller: Caller, status: int = 200, error: str | None = None
) -> Response:
    return page(request, "configuration.html", status, caller=caller, error=error)
