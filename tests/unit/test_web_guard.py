"""Who may ask what: logins, roles, forged requests, headers, strange input. A real page on a real port."""

import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from dicom_node.errors import ConfigurationError
from dicom_node.settings import Settings
from dicom_node.store.accounts import UserRole
from dicom_node.web.attempts import FREE_TRIES
from dicom_node.web.guard import HEADERS
from dicom_node.web.listen import check_web
from tests.builders.worklist import NASTY, Site
from tests.page import PASSWORD, Page, served

PAGES = ("/", "/queue", "/peers", "/models", "/routes", "/studies/1.2.826.0.1.4", "/password")
PACS = {"pacs": {"ae_title": "PACS", "host": "127.0.0.1", "port": 1}}


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    folder = tmp_path_factory.mktemp("page")
    with served(folder / "data", destination=PACS) as running:
        Site(running.engine, folder).one_of_each()
        yield running


def csrf(client: httpx.Client, path: str = "/") -> str:
    """What the forms of a page carry."""
    found = re.search(r'name="csrf" value="([0-9a-f]{64})"', client.get(path).text)
    assert found
    return found[1]


@pytest.mark.parametrize("path", [*PAGES, "/accounts"])
def test_nobody_sees_a_page_without_a_login(page: Page, path: str) -> None:
    with page.client(None) as client:
        answer = client.get(path)
    assert answer.status_code == 303
    assert answer.headers["location"].startswith("/login?then=")


def test_every_route_of_the_api_needs_a_login(page: Page) -> None:
    with page.client() as logged_in, page.client(None) as client:
        description = logged_in.get("/api/v1/openapi.json").json()
        for path, methods in description["paths"].items():
            for method in methods:
                concrete = re.sub(r"\{\w+\}", "1", path)
                answer = client.request(method, concrete)
                assert answer.status_code in (401, 422), (method, path, answer.status_code)


@pytest.mark.parametrize("path", PAGES)
def test_html_in_dicom_attributes_is_text(page: Page, path: str) -> None:
    with page.client() as client:
        answer = client.get(path)
    assert answer.status_code == 200
    assert NASTY not in answer.text


def test_the_worklist_shows_nasty_names_escaped(page: Page) -> None:
    with page.client() as client:
        assert "&lt;script&gt;alert(1)&lt;/script&gt;, Bobby" in client.get("/").text


def test_every_answer_carries_the_security_headers(page: Page) -> None:
    with page.client() as client:
        for path in ("/", "/login", "/static/page.css", "/api/v1/node", "/nothing"):
            headers = client.get(path).headers
            for name, value in HEADERS.items():
                if name != "Cache-Control":
                    assert headers[name] == value, (path, name)


def test_a_page_loads_nothing_from_elsewhere_and_has_no_inline_script(page: Page) -> None:
    with page.client() as client:
        for path in PAGES:
            text = client.get(path).text
            assert not re.search(r"(?:src|href)=[\"']?(?:https?:)?//", text), path
            assert not re.search(r"<script(?![^>]*\bsrc=)|\son\w+=|style=", text), path


def test_a_viewer_sees_no_patient_and_cannot_search_for_one(page: Page) -> None:
    with page.client(UserRole.VIEWER) as client:
        for path in ("/", "/studies/1.2.826.0.1.4", "/api/v1/studies"):
            text = client.get(path).text
            for told in ("Neil", "PID0004", "ACC000004"):
                assert told not in text, path
        assert client.get("/api/v1/studies", params={"search": "PID0004"}).json()["studies"] == []
    with page.client(UserRole.OPERATOR) as client:
        (found,) = client.get("/api/v1/studies", params={"search": "PID0004"}).json()["studies"]
        assert found["patient"] == "O'Neil, Sue Q"


def test_stand_ins_are_the_same_for_the_same_patient_and_tell_nothing(page: Page) -> None:
    with page.client(UserRole.VIEWER) as client:
        first, second = (client.get("/api/v1/studies").json()["studies"] for _ in range(2))
    assert first == second
    assert len({one["patient"] for one in first}) == len(first)


@pytest.mark.parametrize(
    ("role", "path", "status"),
    [
        (UserRole.VIEWER, "/accounts", 403),
        (UserRole.OPERATOR, "/accounts", 403),
        (UserRole.ADMIN, "/accounts", 200),
    ],
)
def test_roles(page: Page, role: UserRole, path: str, status: int) -> None:
    with page.client(role) as client:
        assert client.get(path).status_code == status


def test_a_viewer_changes_nothing(page: Page) -> None:
    with page.client(UserRole.VIEWER) as client:
        token = csrf(client)
        assert client.post("/peers/pacs/echo", data={"csrf": token}).status_code == 403


def test_a_forged_form_is_refused(page: Page) -> None:
    with page.client() as client, page.client(UserRole.ADMIN) as other:
        mine, theirs = csrf(client), csrf(other)
        assert client.post("/peers/pacs/echo").status_code == 403
        assert client.post("/peers/pacs/echo", data={"csrf": theirs}).status_code == 403
        assert client.post("/peers/pacs/echo", data={"csrf": mine}).status_code == 200
        for headers in (
            {"Origin": "https://evil.example"},
            {"Origin": "null"},
            {"Sec-Fetch-Site": "cross-site"},
            {"Sec-Fetch-Site": "same-site"},
        ):
            answer = client.post("/peers/pacs/echo", data={"csrf": mine}, headers=headers)
            assert answer.status_code == 403, headers


def test_the_api_wants_the_token_of_the_session_too(page: Page) -> None:
    with page.client() as client:
        path = "/api/v1/destinations/pacs/echo"
        assert client.post(path).status_code == 403
        answer = client.post(path, headers={"X-CSRF-Token": csrf(client)})
        assert answer.status_code == 200
        assert answer.json()["answered"] is False


def test_a_foreign_host_name_is_refused(page: Page) -> None:
    with page.client() as client:
        answer = client.get("/", headers={"Host": "rebound.example:80"})
    assert answer.status_code == 421


def test_wrong_passwords_slow_down(page: Page) -> None:
    name = page.account(UserRole.VIEWER, "slow")
    with page.client(None) as client:
        for _ in range(FREE_TRIES):
            answer = client.post("/login", data={"name": name, "password": "wrong"})
            assert answer.status_code == 401
        answer = client.post("/login", data={"name": name, "password": PASSWORD})
        assert answer.status_code == 429
        assert int(answer.headers["retry-after"]) >= 1
    page.parts.attempts._failures.clear()


def test_a_wrong_name_and_a_wrong_password_are_answered_alike(page: Page) -> None:
    page.account(UserRole.VIEWER, "alike")
    with page.client(None) as client:
        known = client.post("/login", data={"name": "alike", "password": "wrong"})
        unknown = client.post("/login", data={"name": "nobody", "password": "wrong"})
    assert known.text == unknown.text
    page.parts.attempts._failures.clear()


def test_logging_out_ends_the_session(page: Page) -> None:
    with page.client() as client:
        cookies = dict(client.cookies)
        assert client.post("/logout", data={"csrf": csrf(client)}).status_code == 303
        client.cookies.update(cookies)
        assert client.get("/queue").status_code == 303


def test_the_cookie_is_for_the_server_alone(page: Page) -> None:
    page.account(UserRole.VIEWER)
    with page.client(None) as client:
        answer = client.post("/login", data={"name": "viewer", "password": PASSWORD})
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=lax" in cookie


@pytest.mark.parametrize(
    "then",
    ["//evil.example", "https://evil.example", "/\\evil.example", "javascript:alert(1)", "/\t/x"],
)
def test_a_login_leads_to_no_other_site(page: Page, then: str) -> None:
    page.account(UserRole.VIEWER)
    form = {"name": "viewer", "password": PASSWORD, "then": then}
    with page.client(None) as client:
        assert client.post("/login", data=form).headers["location"] == "/"


def test_a_given_password_must_be_changed_first(page: Page) -> None:
    with page.client(UserRole.ADMIN) as admin:
        form = {"name": "new.user", "role": "operator", "csrf": csrf(admin)}
        told = admin.post("/accounts", data=form).text
    given = re.search(r"shown this once: <code>([a-z0-9-]+)</code>", told)
    assert given
    with page.client(None) as client:
        login = {"name": "new.user", "password": given[1]}
        assert client.post("/login", data=login).status_code == 303
        assert client.get("/").headers["location"] == "/password"
        assert client.get("/api/v1/studies").status_code == 403
        change = {
            "old": given[1],
            "new": "a better one entirely",
            "csrf": csrf(client, "/password"),
        }
        assert client.post("/password", data=change).status_code == 303
        assert client.get("/").headers["location"].startswith("/login"), "every session ended"
        login["password"] = change["new"]
        client.post("/login", data=login)
        assert client.get("/").status_code == 200


def test_an_account_that_was_shut_out_is_out(page: Page) -> None:
    page.account(UserRole.OPERATOR, "leaver")
    with page.client(UserRole.ADMIN) as admin, page.client(None) as client:
        client.post("/login", data={"name": "leaver", "password": PASSWORD})
        assert client.get("/").status_code == 200
        form = {"csrf": csrf(admin)}
        assert admin.post("/accounts/leaver/disable", data=form).status_code == 303
        assert client.get("/").status_code == 303
        answer = client.post("/login", data={"name": "leaver", "password": PASSWORD})
        assert answer.status_code == 401
    page.parts.attempts._failures.clear()


def test_an_admin_does_not_remove_themselves(page: Page) -> None:
    with page.client(UserRole.ADMIN) as admin:
        assert admin.post("/accounts/admin/remove", data={"csrf": csrf(admin)}).status_code == 400
    assert page.parts.accounts.find("admin")


def test_a_program_logs_in_with_a_token_and_a_browser_cannot(page: Page) -> None:
    from datetime import timedelta

    name = page.account(UserRole.OPERATOR, "robot")
    token = page.parts.accounts.open_login(name, timedelta(days=1), "token")
    with page.client(None) as client:
        bearer = {"Authorization": f"Bearer {token}"}
        assert client.get("/api/v1/studies", headers=bearer).status_code == 200
        echo = client.post("/api/v1/destinations/pacs/echo", headers=bearer)
        assert echo.status_code == 200, "a bearer token needs no form's token"
        port = client.base_url.port
        client.cookies.set(f"dicom_node_{port}", token)
        assert client.get("/api/v1/studies").status_code == 401


def test_large_bodies_are_refused(page: Page) -> None:
    with page.client() as client:
        answer = client.post("/login", content=b"x" * 100_000)
        assert answer.status_code == 413


@pytest.mark.parametrize(
    "path",
    [
        "/static/../../settings.py",
        "/static/%2e%2e/%2e%2e/settings.py",
        "/static/..%2f..%2fsettings.py",
        "/studies/..%2f..%2fetc%2fpasswd",
        "/models/..%2f..%2fetc%2fpasswd",
        "/models/%00",
        "/models/ct_structures/evaluation.json",
        "/models/ct_structures/..%2fdicom.toml",
        "/models/ct_structures/%2e%2e%2fmodels%2fmodel.safetensors",
    ],
)
def test_path_tricks_lead_nowhere(page: Page, path: str) -> None:
    with page.client() as client:
        request = client.build_request("GET", page.url)
        request.url = request.url.copy_with(raw_path=path.encode())
        assert client.send(request).status_code == 404


@pytest.mark.parametrize(
    "search", ["' OR 1=1 --", "%", "_", "\\", "<b>", "a" * 200, "qq\x00zz", "1.2.%", "é"]
)
def test_strange_searches_find_nothing_and_break_nothing(page: Page, search: str) -> None:
    with page.client() as client:
        answer = client.get("/api/v1/studies", params={"search": search})
    assert answer.status_code == 200
    assert answer.json()["studies"] == []


def test_every_time_names_its_zone(page: Page) -> None:
    """A browser takes a time without a zone for its own."""
    with page.client() as client:
        told = client.get("/api/v1/studies/1.2.826.0.1.4").text + client.get("/api/v1/senders").text
        html = client.get("/studies/1.2.826.0.1.4").text
    times = re.findall(r'\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[^"]*"', told + html)
    assert len(times) > 20
    assert all(re.search(r'(Z|\+00:00)"$', one) for one in times), times


def test_health_answers_without_a_login(page: Page) -> None:
    with page.client(None) as client:
        assert client.get("/healthz").text == "ok\n"
        assert client.get("/readyz").text == "ok\n"


def test_passwords_do_not_cross_the_network_in_the_clear(tmp_path: Path) -> None:
    def web(**values: object) -> Settings:
        return Settings(data_dir=tmp_path, web=values)  # type: ignore[arg-type]

    with pytest.raises(ConfigurationError, match="not loopback"):
        check_web(web(host="0.0.0.0").web)
    with pytest.raises(ConfigurationError, match="belong together"):
        check_web(web(certificate=tmp_path / "c.pem").web)
    check_web(web(host="0.0.0.0", plain_http=True).web)
    check_web(web().web)


def test_the_first_admins_password_lies_in_a_file_of_our_own(tmp_path: Path) -> None:
    from dicom_node.app.page import page_parts
    from dicom_node.store.database import open_database
    from dicom_node.web.server import make_first_account

    settings = Settings(data_dir=tmp_path)
    engine = open_database(settings.effective_database_url)
    parts = page_parts(settings, engine)
    make_first_account(parts)
    file = tmp_path / "first-password"
    first = file.read_text()
    assert file.stat().st_mode & 0o777 == 0o600
    make_first_account(parts)
    assert file.read_text() == first, "made once"
    account = parts.accounts.find("admin")
    assert account
    assert account.must_change
    assert account.role is UserRole.ADMIN
    engine.dispose()
