"""Single sign-on against an OpenID provider on this machine: who is vouched for comes in, nobody else."""

import base64
import hashlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx
import pytest
import uvicorn
from joserfc import jwt
from joserfc.jwk import KeySet, OctKey, RSAKey
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from dicom_node.store.accounts import UserRole
from tests.page import PASSWORD, Page, served

CLIENT, SECRET = "node", "a client's secret"
Change = Callable[[dict[str, Any]], dict[str, Any]]


def unchanged(claims: dict[str, Any]) -> dict[str, Any]:
    return claims


@dataclass
class Provider:
    """An OpenID provider in a test's hand; it asks nobody for a password."""

    key: Any = field(default_factory=lambda: RSAKey.generate_key(2048, {"kid": "1", "use": "sig"}))
    issuer: str = ""
    person: dict[str, Any] = field(default_factory=dict)
    change: Change = unchanged
    """What a test does to the claims before they are signed."""
    sign: Callable[[dict[str, Any]], str] | None = None
    asked: dict[str, dict[str, str]] = field(default_factory=dict)
    """Code -> what the authorization request said."""

    def about(self, _request: Request) -> Response:
        return JSONResponse(
            {
                "issuer": self.issuer,
                "authorization_endpoint": f"{self.issuer}/authorize",
                "token_endpoint": f"{self.issuer}/token",
                "jwks_uri": f"{self.issuer}/jwks",
            }
        )

    def jwks(self, _request: Request) -> Response:
        return JSONResponse(KeySet([self.key]).as_dict(private=False))

    def authorize(self, request: Request) -> Response:
        asked = dict(request.query_params)
        assert asked["code_challenge_method"] == "S256"
        code = f"code{len(self.asked)}"
        self.asked[code] = asked
        back = urlencode({"code": code, "state": asked["state"]})
        return RedirectResponse(f"{asked['redirect_uri']}?{back}")

    async def token(self, request: Request) -> Response:
        form = {key: one[0] for key, one in parse_qs((await request.body()).decode()).items()}
        asked = self.asked.pop(form["code"], None)
        known = base64.b64encode(f"{CLIENT}:{SECRET}".encode()).decode()
        digest = hashlib.sha256(form["code_verifier"].encode()).digest()
        challenge = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
        if (
            asked is None
            or request.headers.get("authorization") != f"Basic {known}"
            or asked["code_challenge"] != challenge
        ):
            return JSONResponse({"error": "invalid_grant"}, 400)
        claims = {
            "iss": self.issuer,
            "aud": CLIENT,
            "sub": "1",
            "iat": int(time.time()),
            "exp": int(time.time()) + 300,
            "nonce": asked["nonce"],
            **self.person,
        }
        made = (self.sign or self._signed)(self.change(claims))
        return JSONResponse({"access_token": "x", "token_type": "Bearer", "id_token": made})

    def _signed(self, claims: dict[str, Any]) -> str:
        return jwt.encode({"alg": "RS256", "kid": "1"}, claims, self.key)


@contextmanager
def running(provider: Provider) -> Iterator[Provider]:
    routes = [
        Route("/.well-known/openid-configuration", provider.about),
        Route("/jwks", provider.jwks),
        Route("/authorize", provider.authorize),
        Route("/token", provider.token, methods=["POST"]),
    ]
    with socket.create_server(("127.0.0.1", 0)) as listener:
        provider.issuer = f"http://127.0.0.1:{listener.getsockname()[1]}"
        server = uvicorn.Server(uvicorn.Config(Starlette(routes=routes), log_config=None))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield provider
        finally:
            server.should_exit = True
            thread.join(10)


@dataclass
class Site:
    page: Page
    provider: Provider

    def come(self, client: httpx.Client, then: str = "/queue") -> httpx.Response:
        """Through the provider and back, as a browser goes; the answer to coming back."""
        begun = client.get("/login/oidc", params={"then": then})
        assert begun.status_code == 303, begun.text
        answered = httpx.get(begun.headers["location"])
        assert answered.status_code == 307, answered.text
        back = urlsplit(answered.headers["location"])
        return client.get(f"{back.path}?{back.query}")


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    with running(Provider()) as started:
        yield started


@pytest.fixture(scope="module")
def page(provider: Provider, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    folder: Path = tmp_path_factory.mktemp("oidc")
    secret = folder / "secret"
    secret.write_text(SECRET + "\n")
    oidc = {
        "issuer": provider.issuer,
        "client_id": CLIENT,
        "client_secret_file": secret,
        "roles": {"pacs": "operator", "pacs-admins": "admin", "radiology": "viewer"},
        "button": "Hospital <login>",
    }
    with served(folder / "data", web={"oidc": oidc}) as started:
        yield started


@pytest.fixture
def site(page: Page, provider: Provider) -> Site:
    provider.person = {"preferred_username": "anna", "groups": ["radiology", "pacs"]}
    provider.change, provider.sign = unchanged, None
    return Site(page, provider)


def test_who_is_vouched_for_comes_in_with_the_highest_of_their_roles(site: Site) -> None:
    with site.page.client(None) as client:
        assert "Hospital &lt;login&gt;" in client.get("/login").text
        answer = site.come(client, "/queue?x=1")
        assert (answer.status_code, answer.headers["location"]) == (303, "/queue?x=1")
        shown = client.get("/queue")
        assert "oidc:anna" in shown.text
        assert client.get("/accounts").status_code == 403
    found = site.page.parts.accounts.find("oidc:anna")
    assert found is not None
    assert found.role is UserRole.OPERATOR


def test_a_role_is_that_of_today_and_an_account_that_is_shut_out_stays_so(site: Site) -> None:
    site.provider.person = {"preferred_username": "bert", "groups": "pacs-admins"}
    with site.page.client(None) as client:
        site.come(client)
        assert client.get("/accounts").status_code == 200
        site.provider.person["groups"] = ["radiology"]
        with site.page.client(None) as other:
            site.come(other)
            assert other.get("/accounts").status_code == 403
        assert client.get("/accounts").status_code in (303, 403), "the earlier login ended too"
    site.page.parts.accounts.set_disabled("oidc:bert", True)
    with site.page.client(None) as client:
        assert site.come(client).status_code == 403
        assert client.get("/").status_code == 303


def test_an_account_of_the_service_has_no_password_and_is_no_local_one(site: Site) -> None:
    site.provider.person = {"preferred_username": "admin", "groups": ["radiology"]}
    with site.page.client(None) as client:
        site.come(client)
        assert client.get("/accounts").status_code == 403
    with site.page.client(None) as client:
        for typed in ("!", "", PASSWORD):
            form = {"name": "oidc:admin", "password": typed}
            assert client.post("/login", data=form).status_code in (401, 422)
        form = {"name": "admin", "password": PASSWORD}
        assert client.post("/login", data=form).status_code == 303, "the node's own admin"


OTHER_KEY = RSAKey.generate_key(2048)


def other_key(claims: dict[str, Any]) -> str:
    return jwt.encode({"alg": "RS256", "kid": "1"}, claims, OTHER_KEY)


def secret_key(claims: dict[str, Any]) -> str:
    return jwt.encode({"alg": "HS256"}, claims, OctKey.import_key("public" * 8))


def unsigned(_claims: dict[str, Any]) -> str:
    head = base64.urlsafe_b64encode(b'{"alg":"none"}').rstrip(b"=").decode()
    return f"{head}.e30."


@pytest.mark.parametrize(
    "claims",
    [
        {"nonce": "of another attempt"},
        {"aud": "another client"},
        {"azp": "another client"},
        {"iss": "https://elsewhere"},
        {"exp": 1},
        {"groups": ["nobody knows"]},
        {"groups": None},
        {"preferred_username": "<script>"},
        {"preferred_username": ""},
        {"preferred_username": ["anna"]},
        {"sub": None},
    ],
    ids=str,
)
def test_a_token_that_says_something_else_lets_nobody_in(
    site: Site, claims: dict[str, Any]
) -> None:
    site.provider.change = lambda made: made | claims
    with site.page.client(None) as client:
        answer = site.come(client)
        assert answer.status_code == 401
        assert "not let in" in answer.text
        assert "<script>" not in answer.text
        assert client.get("/").status_code == 303


@pytest.mark.parametrize("sign", [other_key, secret_key, unsigned])
def test_a_token_that_the_service_did_not_sign_lets_nobody_in(
    site: Site, sign: Callable[[dict[str, Any]], str]
) -> None:
    site.provider.sign = sign
    with site.page.client(None) as client:
        assert site.come(client).status_code == 401
        assert client.get("/").status_code == 303


def test_an_answer_to_another_attempt_lets_nobody_in(site: Site) -> None:
    with site.page.client(None) as mine, site.page.client(None) as theirs:
        begun = theirs.get("/login/oidc")
        back = urlsplit(httpx.get(begun.headers["location"]).headers["location"])
        # the attacker's answer in the victim's browser, which has begun nothing, or something else
        assert mine.get(f"{back.path}?{back.query}").status_code == 401
        mine.get("/login/oidc")
        assert mine.get(f"{back.path}?{back.query}").status_code == 401
        mine.cookies.set("dicom_node_oidc", "0" * 64 + ".7b7d", path="/login/oidc")
        assert mine.get(f"{back.path}?{back.query}").status_code == 401
        # a code that was used is not taken twice
        assert theirs.get(f"{back.path}?{back.query}").status_code == 303
        assert theirs.get(f"{back.path}?{back.query}").status_code == 401


def test_another_site_cannot_be_gone_on_to(site: Site) -> None:
    with site.page.client(None) as client:
        assert site.come(client, "https://evil.example/").headers["location"] == "/"


def test_a_service_that_is_away_is_told_and_the_own_accounts_still_work(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    oidc = {"issuer": f"http://127.0.0.1:{port}", "client_id": "x", "roles": {"a": "viewer"}}
    with served(tmp_path / "data", web={"oidc": oidc}) as page:
        with page.client(None) as client:
            assert client.get("/login/oidc").status_code == 502
        with page.client() as client:
            assert client.get("/").status_code == 200


def test_without_it_there_is_no_way_in(tmp_path: Path) -> None:
    with served(tmp_path / "data") as page, page.client(None) as client:
        assert client.get("/login/oidc").status_code == 404
        assert client.get("/login/oidc/back").status_code == 404
        assert 'id="sso"' not in client.get("/login").text
