"""Who asks, and whether they may: host, origin, login, role, forged requests, response headers.

What comes in: requests. What goes out: a `Caller`, or an error that names what is missing. It owns: no
route answers without a login but those of `login` and `health`, and nothing that changes anything listens to
another site. A browser's request proves itself by the session's own token as well as by its origin; a
program's request carries a bearer token, which no browser sends by itself.
"""

import hashlib
import hmac
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Any
from urllib.parse import urlsplit

from fastapi import Depends, Header, HTTPException, Request
from starlette.datastructures import Headers, MutableHeaders

from dicom_node.settings import WebSettings
from dicom_node.store.accounts import Account, Accounts, UserRole
from dicom_node.web.parts import Parts
from dicom_node.web.views import Viewer

UNSAFE = frozenset({"POST", "PUT", "PATCH", "DELETE"})
BODY_BYTES = 64 * 1024
"""The largest body where nothing is uploaded."""
UPLOADS = ("/routes/test", "/api/v1/routes/test")

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # addresses hold study UIDs, which are no other site's business
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    "Cache-Control": "no-store",
}

Message = dict[str, Any]
Send = Callable[[Message], Awaitable[None]]
Receive = Callable[[], Awaitable[Message]]
App = Callable[[dict[str, Any], Receive, Send], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks."""

    account: Account
    token_hash: str
    csrf: str
    """What a form of this login carries."""
    viewer: Viewer

    def may(self, needed: str) -> bool:
        """Whether the caller's role includes another, by name; for templates."""
        return self.account.role.may(UserRole(needed))


class Shield:
    """ASGI middleware: refuses foreign hosts, foreign origins and large bodies, and sets headers."""

    def __init__(self, app: App, web: WebSettings) -> None:
        self._app = app
        loopback = {"127.0.0.1", "localhost", "::1"}
        self._hosts = loopback | {web.host.lower()} | {name.lower() for name in web.host_names}
        self._any_host = web.host in ("0.0.0.0", "::") and not web.host_names
        self._upload_bytes = web.upload_mb * 2**20
        self._tls = web.certificate is not None

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """Guard one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        limit = self._upload_bytes if scope["path"] in UPLOADS else BODY_BYTES
        if refusal := self._refusal(scope, headers, limit):
            await _refuse(send, *refusal)
            return
        await self._app(scope, _limited(receive, limit), self._with_headers(scope, send))

    def _refusal(
        self, scope: Mapping[str, Any], headers: Headers, limit: int
    ) -> tuple[int, str] | None:
        host = urlsplit(f"//{headers.get('host', '')}").hostname or ""
        # a name that is made to resolve to this address would make another site this site
        if not self._any_host and host.lower() not in self._hosts:
            return 421, "This host name is not known here (setting web.host_names)."
        length = headers.get("content-length", "0")
        if not length.isdigit() or int(length) > limit:
            return 413, "The request is too large."
        if scope["method"] in UNSAFE and _is_foreign(headers):
            return 403, "The request comes from another site."
        return None

    def _with_headers(self, scope: Mapping[str, Any], send: Send) -> Send:
        async def sender(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                if self._tls:
                    headers["Strict-Transport-Security"] = "max-age=31536000"
                if scope["path"].startswith("/static/"):
                    headers["Cache-Control"] = "max-age=3600"
            await send(message)

        return sender


def _is_foreign(headers: Headers) -> bool:
    """Whether a browser says that another site made the request; programs say nothing."""
    if headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
        return True
    origin = headers.get("origin")
    return origin is not None and urlsplit(origin).netloc != headers.get("host")


def _limited(receive: Receive, limit: int) -> Receive:
    """The request's body, cut off where it is longer than it said it would be."""
    seen = 0

    async def receiver() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > limit:
            raise HTTPException(413, "The request is too large.")
        return message

    return receiver


async def _refuse(send: Send, status: int, reason: str) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": reason.encode()})


class NotLoggedIn(Exception):
    """The request needs a login."""


def parts_of(request: Request) -> Parts:
    """What the application was made with."""
    parts: Parts = request.app.state.parts
    return parts


def cookie_name(request: Request) -> str:
    """The session cookie's name: one for each port, since cookies know no ports."""
    if request.url.scheme == "https":
        return "__Host-dicom_node"
    return f"dicom_node_{request.url.port or 80}"


def csrf_of(accounts: Accounts, token_hash: str) -> str:
    """What proves that a form was given out to this login."""
    key = accounts.secret("csrf")
    return hmac.new(key, token_hash.encode(), hashlib.sha256).hexdigest()


def caller_of(request: Request) -> Caller | None:
    """Who asks; None where nobody is logged in."""
    parts = parts_of(request)
    scheme, _, bearer = request.headers.get("authorization", "").partition(" ")
    by_program = scheme.lower() == "bearer"
    token = bearer if by_program else request.cookies.get(cookie_name(request), "")
    if not token:
        return None
    idle = timedelta(minutes=parts.settings.web.session_idle_minutes)
    found = parts.accounts.login_of(token, idle)
    if found is None or (found.kind == "token") != by_program:
        return None
    return Caller(
        account=found.account,
        token_hash=found.token_hash,
        csrf="" if by_program else csrf_of(parts.accounts, found.token_hash),
        viewer=Viewer(found.account.role, parts.accounts.secret("pseudonym")),
    )


def _needs(needed: UserRole) -> Callable[..., Caller]:
    """A dependency: somebody is logged in, may do this, and meant to."""

    def dependency(
        request: Request, x_csrf_token: Annotated[str, Header(include_in_schema=False)] = ""
    ) -> Caller:
        caller = caller_of(request)
        if caller is None:
            raise NotLoggedIn
        if caller.account.must_change and request.url.path != "/password":
            raise MustChangePassword
        if not caller.account.role.may(needed):
            raise HTTPException(403, f"This needs the role {needed.value}.")
        if request.method in UNSAFE and caller.csrf and request.url.path.startswith("/api/"):
            check_csrf(caller, x_csrf_token)
        return caller

    return dependency


class MustChangePassword(Exception):
    """The account's password was given to it, and it has not chosen one yet."""


def check_csrf(caller: Caller, given: str) -> None:
    """Pass if a form belongs to this login.

    Raises:
        HTTPException: 403, it does not.
    """
    if not hmac.compare_digest(caller.csrf.encode(), given.encode()):
        raise HTTPException(403, "The form is out of date. Load the page again.")


AnyCaller = Annotated[Caller, Depends(_needs(UserRole.VIEWER))]
OperatorCaller = Annotated[Caller, Depends(_needs(UserRole.OPERATOR))]
AdminCaller = Annotated[Caller, Depends(_needs(UserRole.ADMIN))]
