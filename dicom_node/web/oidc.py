"""Logging in by the hospital's single sign-on: OpenID Connect Core 1.0, authorization code flow with PKCE.

What comes in: a browser that comes back from the service with a code. What goes out: a session like any
other, of an account `oidc:NAME`, which no local name can be; its role is what the service says today. Owns:
nobody is let in but by a token that the service signed, for this node, for this very attempt.
"""

import hashlib
import hmac
import json
import re
import secrets
import ssl
import time
import warnings
from collections.abc import Mapping
from typing import Any

import httpx
from fastapi import APIRouter, HTTPException, Request
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet
from starlette.responses import RedirectResponse, Response

from dicom_node.observe.logging import get_logger
from dicom_node.settings import OidcSettings
from dicom_node.store.accounts import UserRole
from dicom_node.web import trail
from dicom_node.web.guard import parts_of
from dicom_node.web.login import begin_session, inside
from dicom_node.web.render import page

with warnings.catch_warnings():
    # of its next major version, which wants another client library
    warnings.simplefilter("ignore")
    from authlib.integrations.base_client import OAuthError
    from authlib.integrations.httpx_client import OAuth2Client

log = get_logger(__name__)
router = APIRouter(include_in_schema=False)

BACK = "/login/oidc/back"
COOKIE = "dicom_node_oidc"
ATTEMPT_SECONDS = 600
TIMEOUT_SECONDS = 10.0
LEEWAY_SECONDS = 60
ALGORITHMS = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA"]
"""Signatures with a public key: `none`, and secrets that both sides know, are not taken."""
NAME = re.compile(r"[A-Za-z0-9._@-]{1,58}")


class NotVouchedFor(Exception):
    """The service did not vouch for whoever came; the message is for the log, without a name in it."""


@router.get("/login/oidc")
def begin(request: Request, then: str = "/") -> Response:
    """On to the service; what this attempt is known by goes along in a cookie of its own."""
    settings = _settings(request)
    attempt = {
        "state": secrets.token_urlsafe(24),
        "nonce": secrets.token_urlsafe(24),
        "verifier": secrets.token_urlsafe(48),
        "then": inside(then),
        "until": int(time.time()) + ATTEMPT_SECONDS,
    }
    try:
        with _client(request, settings) as client:
            url, _ = client.create_authorization_url(
                _about(settings)["authorization_endpoint"],
                state=attempt["state"],
                nonce=attempt["nonce"],
                code_verifier=attempt["verifier"],
            )
    except (httpx.HTTPError, ValueError, KeyError, OSError) as error:
        return _refused(request, f"the service does not answer ({type(error).__name__})", 502)
    answer = RedirectResponse(url, 303)
    answer.set_cookie(
        COOKIE,
        _sealed(request, attempt),
        max_age=ATTEMPT_SECONDS,
        httponly=True,
        samesite="lax",  # the service's redirect brings it back
        secure=request.url.scheme == "https",
        path="/login/oidc",
    )
    return answer


@router.get(BACK)
def come_back(request: Request) -> Response:
    """From the service: take the code to it, check what it says, and begin a session."""
    settings = _settings(request)
    try:
        attempt = _opened(request)
        if not hmac.compare_digest(attempt["state"], request.query_params.get("state", "")):
            raise NotVouchedFor("the answer belongs to another attempt")
        claims = _claims(request, settings, attempt)
        name, role = _who(claims, settings)
    except NotVouchedFor as error:
        return _refused(request, str(error), 401)
    except (httpx.HTTPError, OSError) as error:
        return _refused(request, f"the service does not answer ({type(error).__name__})", 502)
    except (JoseError, OAuthError, ValueError, KeyError, TypeError) as error:
        return _refused(
            request, f"what the service said is not valid ({type(error).__name__})", 401
        )
    if not parts_of(request).accounts.admit(name, role):
        return _refused(request, "the account is shut out", 403, name)
    answer = begin_session(request, name, attempt["then"])
    answer.delete_cookie(COOKIE, path="/login/oidc")
    return answer


def _claims(
    request: Request, settings: OidcSettings, attempt: Mapping[str, Any]
) -> Mapping[str, Any]:
    """What the service says of who came: the ID token's claims, checked (Core 3.1.3.7)."""
    with _client(request, settings) as client:
        about = _about(settings)
        token = client.fetch_token(
            about["token_endpoint"],
            authorization_response=str(request.url),
            state=attempt["state"],
            code_verifier=attempt["verifier"],
        )
        keys = KeySet.import_key_set(_document(about["jwks_uri"], settings))
    decoded = jwt.decode(token["id_token"], keys, algorithms=ALGORITHMS)
    jwt.JWTClaimsRegistry(
        leeway=LEEWAY_SECONDS,
        iss={"essential": True, "value": about["issuer"]},
        aud={"essential": True, "value": settings.client_id},
        exp={"essential": True},
        sub={"essential": True},
        nonce={"essential": True, "value": attempt["nonce"]},
    ).validate(decoded.claims)
    if decoded.claims.get("azp", settings.client_id) != settings.client_id:
        raise NotVouchedFor("the token is another client's")
    return decoded.claims


def _who(claims: Mapping[str, Any], settings: OidcSettings) -> tuple[str, UserRole]:
    """The account's name and today's role. Pure.

    Raises:
        NotVouchedFor: the claims name nobody, or give no role here.
    """
    name = claims.get(settings.name_claim)
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise NotVouchedFor(f"the claim {settings.name_claim} holds no name that can be used")
    value: Any = claims
    for part in settings.role_claim.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    given = {value} if isinstance(value, str) else set(map(str, value or ()))
    roles = {UserRole(role) for claim, role in settings.roles.items() if claim in given}
    for role in (UserRole.ADMIN, UserRole.OPERATOR, UserRole.VIEWER):
        if role in roles:
            return f"oidc:{name}", role
    raise NotVouchedFor(f"the claim {settings.role_claim} gives no role here")


def _about(settings: OidcSettings) -> Any:
    """The service's own description (Discovery 1.0), which must be of this issuer."""
    issuer = settings.issuer.rstrip("/")
    about = _document(f"{issuer}/.well-known/openid-configuration", settings)
    if str(about["issuer"]).rstrip("/") != issuer:
        raise ValueError("another issuer")
    return about


def _document(url: str, settings: OidcSettings) -> Any:
    answer = httpx.get(url, timeout=TIMEOUT_SECONDS, verify=_trusted(settings))
    answer.raise_for_status()
    return answer.json()


def _trusted(settings: OidcSettings) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=settings.ca_file)


def _client(request: Request, settings: OidcSettings) -> OAuth2Client:
    secret = settings.client_secret_file
    return OAuth2Client(
        client_id=settings.client_id,
        client_secret=secret.read_text().strip() if secret else None,
        token_endpoint_auth_method="client_secret_basic" if secret else "none",
        scope=settings.scope,
        redirect_uri=str(request.url_for("come_back")),
        code_challenge_method="S256",
        timeout=TIMEOUT_SECONDS,
        verify=_trusted(settings),
    )


def _settings(request: Request) -> OidcSettings:
    found = parts_of(request).settings.web.oidc
    if found is None:
        raise HTTPException(404, "There is no single sign-on here.")
    return found


def _sealed(request: Request, attempt: Mapping[str, Any]) -> str:
    told = json.dumps(attempt)
    return f"{_seal(request, told)}.{told.encode().hex()}"


def _opened(request: Request) -> dict[str, Any]:
    seal, _, told = request.cookies.get(COOKIE, "").partition(".")
    try:
        text = bytes.fromhex(told).decode()
    except ValueError as error:
        raise NotVouchedFor("the attempt's cookie is broken") from error
    if not text or not hmac.compare_digest(seal.encode(), _seal(request, text).encode()):
        raise NotVouchedFor("there was no attempt, or its cookie is not ours")
    attempt: dict[str, Any] = json.loads(text)
    if attempt["until"] < time.time():
        raise NotVouchedFor("the attempt took too long")
    return attempt


def _seal(request: Request, text: str) -> str:
    key = parts_of(request).accounts.secret("oidc")
    return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()


def _refused(request: Request, why: str, status: int, name: str = "") -> Response:
    log.warning("single sign-on refused", reason=why)
    trail.login(request, name or "oidc:unknown", succeeded=False)
    told = (
        "The sign-on service could not be reached." if status == 502 else "You are not let in here."
    )
    return page(request, "login.html", status, then="/", error=told)
