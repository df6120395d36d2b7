"""Alarms: told once, called off when over, by a real mail server and a real webhook, without patients."""

import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, LoginPassword
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from dicom_node.cli import app
from dicom_node.demo.pacs import free_port
from dicom_node.observe.alarms import Condition, Remembered, decide
from dicom_node.observe.intake import note_stopped, receiving
from dicom_node.receive.certificates import make_test_certificates
from dicom_node.settings import Settings
from dicom_node.store.alarms import AlarmBook
from dicom_node.store.canary import CanaryLog
from dicom_node.store.database import open_database
from dicom_node.store.operator import Operator
from dicom_node.upkeep.alarms import Alarms, Watch, channels_of
from tests.builders.worklist import Site

NOW = datetime(2026, 1, 5, 8, 0, tzinfo=UTC)
DAY = timedelta(days=1)
PLENTY = 1 << 50

levels = st.dictionaries(st.sampled_from("abc"), st.integers(1, 3))


def conditions(found: dict[str, int]) -> list[Condition]:
    return [Condition(key, f"{key} is wrong", "mend it", level) for key, level in found.items()]


@given(st.lists(levels, max_size=12))
def test_every_alarm_is_told_once_and_called_off_once(history: list[dict[str, int]]) -> None:
    remembered: dict[str, Remembered] = {}
    told: set[str] = set()
    for found in history:
        notices, remembered = decide(conditions(found), remembered, NOW, DAY)
        for one in notices:
            if one.what == "began":
                assert one.key not in told
                told.add(one.key)
            elif one.what == "over":
                told.remove(one.key)
            else:
                assert one.what == "worse"
                assert one.key in told
        assert told == set(found) == set(remembered)


def test_what_lasts_is_told_again_after_a_while_and_what_gets_worse_at_once() -> None:
    _, remembered = decide(conditions({"a": 1}), {}, NOW, DAY)
    assert decide(conditions({"a": 1}), remembered, NOW + DAY / 2, DAY)[0] == []
    (worse,), _ = decide(conditions({"a": 2}), remembered, NOW + DAY / 2, DAY)
    assert (worse.what, worse.since) == ("worse", NOW)
    (again,), after = decide(conditions({"a": 1}), remembered, NOW + DAY, DAY)
    assert (again.what, again.since) == ("lasts", NOW)
    assert decide(conditions({"a": 1}), after, NOW + DAY + DAY / 2, DAY)[0] == []


class Mailbox:
    """What a mail server took."""

    def __init__(self) -> None:
        self.mails: list[Any] = []
        self.users: list[str] = []

    async def handle_DATA(self, server: SMTP, session: Any, envelope: Any) -> str:  # noqa: N802
        self.mails.append((envelope.rcpt_tos, envelope.content.decode()))
        return "250 OK"

    def authenticate(self, *arguments: Any) -> AuthResult:
        data = arguments[-1]
        assert isinstance(data, LoginPassword)
        self.users.append(data.login.decode())
        return AuthResult(success=data.password == b"secret")


@contextmanager
def mail_server(tls: ssl.SSLContext | None = None) -> Iterator[tuple[Mailbox, int]]:
    box, port = Mailbox(), free_port()
    more = {"authenticator": box.authenticate, "auth_required": True, "require_starttls": True}
    controller = Controller(
        box,
        hostname="127.0.0.1",
        port=port,
        server_kwargs={} if tls is None else more | {"tls_context": tls},
    )
    controller.start()
    try:
        yield box, port
    finally:
        controller.stop()


@contextmanager
def webhook() -> Iterator[tuple[list[Any], list[int], str]]:
    taken: list[Any] = []
    answers: list[int] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            status = answers.pop(0) if answers else 200
            if status == 200:
                taken.append((self.headers.get("Authorization"), json.loads(body)))
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Quiet."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield taken, answers, f"http://127.0.0.1:{server.server_port}/hook"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Looks:
    """A node with alarms, and its disk in hand."""

    def __init__(self, folder: Path, alerts: dict[str, Any], **values: Any) -> None:
        self.settings = Settings(
            data_dir=folder / "data", alerts={"pause_seconds": 0, **alerts}, **values
        )
        self.settings.spool_dir.mkdir(parents=True)
        self.engine = open_database(self.settings.effective_database_url)
        self.book = AlarmBook(self.engine)
        self.site = Site(self.engine, folder)
        self.free = PLENTY
        self.alarms = self.another()

    def another(self) -> Alarms:
        """As another process would look."""
        canary = self.settings.canary
        runs = CanaryLog(self.engine, canary.ae_title, canary.late_seconds)
        watch = Watch(self.settings, self.book, runs, lambda: self.free)
        return Alarms(self.settings.alerts, self.book, watch, channels_of(self.settings))


def test_mail_says_what_waits_and_when_it_is_over_and_names_no_patient(tmp_path: Path) -> None:
    with mail_server() as (box, port):
        to = {"email_to": ["pacs@example.org", "it@example.org"], "smtp_host": "127.0.0.1"}
        looks = Looks(tmp_path, to | {"smtp_port": port})
        looks.alarms.look()
        assert box.mails == []
        looks.site.one_of_each()
        looks.alarms.look()
        looks.another().look()
        looks.alarms.look()
        ((recipients, mail),) = box.mails
        assert recipients == ["pacs@example.org", "it@example.org"]
        assert "Subject: DICOM_NODE: ALARM: 1 series held" in mail
        assert "2 results not delivered to pacs" in mail
        assert "1 job failed; studies" in mail
        studies = looks.book.held()[1]
        assert studies[0] in mail
        for number in range(12):
            assert f"PID{number:04d}" not in mail
            assert f"1.2.826.0.1.{number}" not in mail
        operator = Operator(looks.engine)
        assert operator.revive() == 2
        assert operator.release("1.2.826.0.1.6") == 1
        looks.alarms.look()
        assert len(box.mails) == 2
        assert "OVER: 1 series held" in box.mails[1][1]
        assert sorted(looks.book.open()) == ["failed"]
        looks.engine.dispose()


def test_mail_goes_by_starttls_with_a_password(tmp_path: Path) -> None:
    pair = make_test_certificates(tmp_path / "tls", ("127.0.0.1",))["127.0.0.1"]
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(pair.certificate, pair.key)
    with mail_server(server) as (box, port):
        alerts = {
            "email_to": ["it@example.org"],
            "smtp_host": "127.0.0.1",
            "smtp_port": port,
            "smtp_tls": "starttls",
            "smtp_ca": tmp_path / "tls" / "ca.pem",
            "smtp_user": "node",
            "smtp_password": "secret",
        }
        looks = Looks(tmp_path, alerts)
        looks.free = 0
        looks.alarms.look()
        assert box.users == ["node"]
        assert "intake stopped: 0.0 GiB of disk are free" in box.mails[0][1]
        looks.engine.dispose()


def test_the_command_sends_a_message_to_try_it(tmp_path: Path) -> None:
    with webhook() as (taken, answers, url):
        config = tmp_path / "node.toml"
        config.write_text(f'data_dir = "{tmp_path / "data"}"\n[alerts]\nwebhook_url = "{url}"\n')
        runner = CliRunner()
        done = runner.invoke(app, ["alerts", "-c", str(config)])
        assert (done.exit_code, done.stdout) == (0, "webhook: sent\n")
        assert taken[0][1]["notices"][0]["what"] == "test"
        answers.append(500)
        refused = runner.invoke(app, ["alerts", "-c", str(config)])
        assert refused.exit_code == 1
        assert "HTTPStatusError" in refused.stdout


def test_a_webhook_that_is_away_gets_everything_later_and_in_order(tmp_path: Path) -> None:
    with webhook() as (taken, answers, url):
        secret = tmp_path / "secret"
        secret.write_text("Bearer x\n")
        looks = Looks(tmp_path, {"webhook_url": url, "webhook_authorization_file": secret})
        answers += [503, 503]
        looks.free = 0
        looks.alarms.look()
        looks.free = PLENTY
        looks.alarms.look()
        assert taken == []
        looks.alarms.look()
        assert [who for who, _ in taken] == ["Bearer x", "Bearer x"]
        assert [(n["what"], n["key"]) for _, body in taken for n in body["notices"]] == [
            ("began", "intake.disk"),
            ("over", "intake.disk"),
        ]
        assert taken[0][1]["node"] == "DICOM_NODE"
        assert "ALARM: intake stopped" in taken[0][1]["text"]
        looks.engine.dispose()


def test_between_two_messages_there_is_a_pause(tmp_path: Path) -> None:
    with webhook() as (taken, _, url):
        looks = Looks(tmp_path, {"webhook_url": url, "pause_seconds": 3600})
        looks.free = 0
        looks.alarms.look()
        looks.site.one_of_each()
        looks.alarms.look()
        assert len(taken) == 1
        eager = replace_pause(looks)
        eager.look()
        told = {n["key"] for n in taken[1][1]["notices"]}
        assert told == {"held", "failed", "dead.pacs"}
        looks.engine.dispose()


def replace_pause(looks: Looks) -> Alarms:
    looks.settings = looks.settings.model_copy(
        update={"alerts": looks.settings.alerts.model_copy(update={"pause_seconds": 0})}
    )
    return looks.another()


def test_a_peer_gone_quiet_and_an_intake_that_stopped(tmp_path: Path) -> None:
    with webhook() as (taken, _, url):
        peers = [{"ae_title": "CT1"}, {"ae_title": "NEVER"}]
        looks = Looks(tmp_path, {"webhook_url": url, "quiet_hours": 1e-9}, peer=peers)
        looks.site.study(1)
        alive = receiving(looks.settings.spool_dir)
        note_stopped(looks.settings.spool_dir, "the spool failed")
        looks.alarms.look()
        assert {n["key"] for n in taken[0][1]["notices"]} == {"quiet.CT1", "intake.spool"}
        alive.close()
        looks.alarms.look()
        assert len(taken) == 1, "a receiver that is just started again is no alarm"
        looks.alarms.look()
        assert [n["key"] for n in taken[1][1]["notices"]] == ["intake.receiver"]
        looks.engine.dispose()
