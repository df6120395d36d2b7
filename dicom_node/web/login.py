"""Logging in and out, and the password.

What comes in: forms. What goes out: a session cookie that scripts cannot read and other sites do not send.
A wrong name and a wrong password are answered alike.
"""

from datetime import timedelta
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import APIRouter, Form, Request
from starlette.responses import RedirectResponse, Response

from dicom_node.observe.logging import get_logger
from dicom_node.web import passwords, trail
from dicom_node.web.guard import (
    AnyCaller,
    caller_of,
    check_csrf,
    cookie_name,
    parts_of,
)
from dicom_node.web.render import page

log = get_logger(__name__)
router = APIRouter(include_in_schema=False)

FIRST_NAME = "admin"
FIRST_PASSWORD_FILE = "first-password"
"""In the data folder: the first admin's password, until it is changed."""


@router.get("/login")
def login_form(request: Request, then: str = "/") -> Response:
    """The form."""
    if caller_of(request) is not None:
        return RedirectResponse(inside(then), 303)
    return page(request, "login.html", then=inside(then))


@router.post("/login")
def log_in(
    request: Request,
    name: Annotated[str, Form(max_length=64)],
    password: Annotated[str, Form(max_length=4096)],
    then: Annotated[str, Form()] = "/",
) -> Response:
    """Check name and password, and begin a session."""
    parts = parts_of(request)
    address = request.client.host if request.client else ""
    wait = parts.attempts.wait(address, name)
    if wait > 0:
        told = f"Too many wrong passwords. Try again in {max(1, round(wait))} s."
        refused = page(request, "login.html", 429, then=inside(then), error=told)
        refused.headers["Retry-After"] = str(max(1, round(wait)))
        return refused
    found = parts.accounts.find(name)
    usable = found is not None and not found.disabled
    if not passwords.fits(password, found.password_hash if found and usable else None):
        parts.attempts.failed(address, name)
        log.warning("login refused", address=address)
        trail.login(request, name, succeeded=False)
        return page(
            request,
            "login.html",
            401,
            then=inside(then),
            error="The name or the password is wrong.",
        )
    parts.attempts.succeeded(address, name)
    return begin_session(request, name, then)


def begin_session(request: Request, name: str, then: str) -> Response:
    """Somebody is who they say: a session cookie, and on to where they wanted to go."""
    parts = parts_of(request)
    lasts = timedelta(hours=parts.settings.web.session_hours)
    token = parts.accounts.open_login(name, lasts)
    log.info("login", account=name, address=request.client.host if request.client else "")
    trail.login(request, name, succeeded=True)
    answer = RedirectResponse(inside(then), 303)
    answer.set_cookie(
        cookie_name(request),
        token,
        max_age=int(lasts.total_seconds()),
        httponly=True,
        samesite="lax",
        secure=request.url.scheme == "https",
        path="/",
    )
    return answer


@router.post("/logout")
def log_out(request: Request, csrf: Annotated[str, Form()] = "") -> Response:
    """End the session."""
    caller = caller_of(request)
    answer = RedirectResponse("/login", 303)
    if caller is not None:
        check_csrf(caller, csrf)
        parts_of(request).accounts.close_login(caller.token_hash)
        trail.logout(request, caller.account.name)
        answer.delete_cookie(cookie_name(request), path="/")
    return answer


@router.get("/password")
def password_form(request: Request, caller: AnyCaller) -> Response:
    """The form for another password."""
    return page(request, "password.html", caller=caller)


@router.post("/password")
def change_password(
    request: Request,
    caller: AnyCaller,
    old: Annotated[str, Form(max_length=4096)],
    new: Annotated[str, Form(max_length=4096)],
    csrf: Annotated[str, Form()] = "",
) -> Response:
    """Take another password; every session ends, this one too."""
    check_csrf(caller, csrf)
    parts, name = parts_of(request), caller.account.name
    address = request.client.host if request.client else ""
    if parts.attempts.wait(address, name) > 0:
        return page(
            request, "password.html", 429, caller=caller, error="Too many wrong passwords. Wait."
        )
    error = passwords.objection(new, name)
    if error is None and not passwords.fits(old, caller.account.password_hash):
        parts.attempts.failed(address, name)
        error = "The present password is wrong."
    if error is None and old == new:
        error = "Choose a password that is not the present one."
    if error is not None:
        return page(request, "password.html", 400, caller=caller, error=error)
    parts.accounts.set_password(name, passwords.hash_password(new))
    if name == FIRST_NAME:
        (parts.settings.data_dir / FIRST_PASSWORD_FILE).unlink(missing_ok=True)
    log.info("password changed", account=name)
    trail.account_changed(request, name, name, "password")
    return RedirectResponse("/login", 303)


def inside(then: str) -> str:
    """A place on this page; never another site, whatever the address said."""
    found = urlsplit(then)
    if found.scheme or found.netloc or not then.startswith("/") or then.startswith(("//", "/\\")):
        return "/"
    return then if all(ord(char) > 31 for char in then) else "/"
