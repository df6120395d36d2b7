"""The application: routes, guard and error pages put together.

What comes in: the page's parts. What goes out: an ASGI application. It keeps no state but counts, of
wrong passwords and for metrics, so that several may run beside each other.
"""

from pathlib import Path
from typing import Any
from urllib.parse import quote

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.staticfiles import StaticFiles

from dicom_node import __version__
from dicom_node.errors import DatabaseAway
from dicom_node.observe.logging import get_logger
from dicom_node.web import (
    api,
    configuration,
    health,
    login,
    metrics,
    oidc,
    orders,
    pages,
    pictures,
)
from dicom_node.web.guard import MustChangePassword, NotLoggedIn, Shield, caller_of
from dicom_node.web.parts import Parts
from dicom_node.web.render import page

log = get_logger(__name__)

STATIC = Path(__file__).parent / "static"


def make_app(parts: Parts) -> FastAPI:
    """The page and its API."""
    app = FastAPI(
        title="DICOM node",
        version=__version__,
        description="Where every study is, and what can be done about it. Not for clinical use.",
        openapi_url=f"{api.PREFIX}/openapi.json",
        docs_url=None,  # they load scripts from elsewhere
        redoc_url=None,
    )
    app.state.parts = parts
    app.state.studio = pictures.Studio()
    app.state.meter = metrics.Meter(parts)
    for part in (login, health, metrics, pages, api, orders, pictures, configuration, oidc):
        app.include_router(part.router)
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    app.add_exception_handler(NotLoggedIn, _not_logged_in)
    app.add_exception_handler(MustChangePassword, _must_change)
    app.add_exception_handler(HTTPException, _refused)
    app.add_exception_handler(RequestValidationError, _not_understood)
    app.add_exception_handler(DatabaseAway, _database_away)
    app.add_exception_handler(Exception, _broken)
    app.add_middleware(Shield, web=parts.settings.web)
    return app


def _wants_json(request: Request) -> bool:
    return request.url.path.startswith("/api/")


def _not_logged_in(request: Request, _error: Exception) -> Response:
    if _wants_json(request):
        return JSONResponse({"detail": "Nobody is logged in."}, 401, {"WWW-Authenticate": "Bearer"})
    if request.headers.get("hx-request"):
        return Response(status_code=401, headers={"HX-Refresh": "true"})
    then = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    return RedirectResponse(f"/login?then={quote(then, safe='')}", 303)


def _must_change(request: Request, _error: Exception) -> Response:
    if _wants_json(request):
        return JSONResponse({"detail": "Choose a password of your own first."}, 403)
    return RedirectResponse("/password", 303)


def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _told(request, error.status_code, str(error.detail), error.headers)


def _not_understood(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    # what was typed is not repeated: it may be a password
    told = "; ".join(
        f"{'.'.join(str(part) for part in one['loc'][1:])}: {one['msg']}" for one in error.errors()
    )
    return _told(request, 422, told)


def _database_away(request: Request, _error: Exception) -> Response:
    told = "The database is away; try again in a moment. What was acknowledged is safe."
    return _told(request, 503, told, {"Retry-After": "5"})


def _broken(request: Request, error: Exception) -> Response:
    log.error("a page broke", error=type(error).__name__)
    return _told(request, 500, "Something went wrong here; the log says what.")


def _told(request: Request, status: int, told: str, headers: Any = None) -> Response:
    if _wants_json(request):
        return JSONResponse({"detail": told}, status, headers)
    try:
        caller = caller_of(request)
    except Exception:  # the error page is shown also where the database is what broke
        caller = None
    answer = page(request, "error.html", status, caller=caller, status=status, told=told)
    answer.headers.update(headers or {})
    return answer
