"""Looks at the node and tells people what waits for them, by e-mail and webhook.

What comes in: the store's answers, the disk, the listener. What goes out: messages, each at least once, none
with patient data: studies are named by the hash that logs and the page know. While the database is away
nothing is told from here; `/readyz` and Prometheus say so then.
"""

import shutil
import smtplib
import ssl
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from email.message import EmailMessage
from email.utils import format_datetime, make_msgid
from functools import partial
from typing import Any, Protocol

import httpx

from dicom_node.observe.alarms import Condition, decide
from dicom_node.observe.intake import nobody_receives, stopped_intake
from dicom_node.observe.logging import get_logger
from dicom_node.settings import AlertSettings, Settings
from dicom_node.store.alarms import AlarmBook
from dicom_node.store.canary import CanaryLog
from dicom_node.store.database import utc_now

log = get_logger(__name__)

TIMEOUT_SECONDS = 10.0
KEPT = timedelta(days=7)
"""A message that could not be sent for so long is dropped."""
MEGABYTE = 1 << 20
WORDS = {"test": "TEST", "began": "ALARM", "worse": "WORSE", "lasts": "STILL", "over": "OVER"}

FAILURES = (OSError, httpx.HTTPError, smtplib.SMTPException)

Message = tuple[datetime, Sequence[Mapping[str, Any]]]


class Watch:
    """What is wrong with this node now."""

    def __init__(
        self,
        settings: Settings,
        book: AlarmBook,
        canary: CanaryLog,
        free_octets: Callable[[], int] | None = None,
    ) -> None:
        """Args:
        settings: the configuration.
        book: questions.
        canary: what became of canaries.
        free_octets: of the disk of the data folder.
        """
        self._settings = settings
        self._book = book
        self._canary = canary
        self._alone = False
        """Whether nobody received at the last look."""
        self._free = free_octets or (lambda: shutil.disk_usage(settings.data_dir).free)

    def conditions(self) -> Iterator[Condition]:
        """Everything that somebody should be told of."""
        yield from self._studies()
        yield from self._intake()
        yield from self._canaries()
        yield from self._quiet()

    def _studies(self) -> Iterator[Condition]:
        count, studies = self._book.held()
        if count:
            told = f"{count} series held; studies {', '.join(studies)}"
            yield Condition("held", told, "the page says why, and releases them", count)
        count, studies = self._book.failed()
        if count:
            told = f"{_some(count, 'job')} failed; studies {', '.join(studies)}"
            yield Condition("failed", told, "the page says why, and tries again", count)
        for name, count in self._book.dead().items():
            told = f"{_some(count, 'result')} not delivered to {name}"
            yield Condition(f"dead.{name}", told, "dicom-node dead; then dicom-node retry", count)

    def _intake(self) -> Iterator[Condition]:
        free, receive = self._free(), self._settings.receive
        told = f"{free / 2**30:.1f} GiB of disk are free"
        if free < receive.disk_reserve_mb * MEGABYTE:
            yield Condition("intake.disk", f"intake stopped: {told}", "free space", level=2)
        elif free < self._settings.retention.keep_free_mb * MEGABYTE:
            yield Condition("disk", f"the disk fills up: {told}", "free space, or a larger disk")
        for reason in stopped_intake(self._settings.spool_dir):
            hint = "look at the disk, then restart the node"
            yield Condition("intake.spool", f"intake stopped: {reason}", hint)
        before, self._alone = self._alone, nobody_receives(self._settings.spool_dir)
        if before and self._alone:  # one that was just started again is no alarm
            yield Condition("intake.receiver", "intake stopped: no receiver lives", "the log")

    def _canaries(self) -> Iterator[Condition]:
        if self._settings.canary.every_seconds is None:
            return
        last = self._canary.last()
        due = self._settings.canary.every_seconds + self._settings.canary.late_seconds
        if last is not None and last.outcome == "delivered" and last.age > due:
            told = f"no canary came in since {last.age / 60:.0f} minutes"
            yield Condition("canary", told, "what it met, a patient's study meets too")
        elif last is not None and last.outcome in ("failed", "late"):
            told = f"the canary is {last.outcome}: {last.reason}"
            yield Condition("canary", told, "what it met, a patient's study meets too")

    def _quiet(self) -> Iterator[Condition]:
        hours = self._settings.alerts.quiet_hours
        if hours is None:
            return
        contacts, now = self._book.last_contacts(), utc_now()
        for peer in self._settings.peer:
            last = contacts.get(peer.ae_title)
            if last is not None and now - last > timedelta(hours=hours):
                told = f"{peer.ae_title} has sent nothing since {last:%Y-%m-%d %H:%M} UTC"
                yield Condition(
                    f"quiet.{peer.ae_title}", told, "is it on, and does it still forward?"
                )


class Channel(Protocol):
    """A way to tell people."""

    name: str

    def send(self, message: Message) -> None:
        """Send it.

        Raises:
            OSError, httpx.HTTPError, smtplib.SMTPException: it did not arrive.
        """


class Email:
    """By SMTP."""

    name = "email"

    def __init__(self, settings: AlertSettings, node: str) -> None:
        self._settings = settings
        self._node = node

    def send(self, message: Message) -> None:
        """One mail to everybody; errors as in `Channel`."""
        settings, (at, notices) = self._settings, message
        mail = EmailMessage()
        mail["Subject"] = subject(self._node, notices)
        mail["From"], mail["To"] = settings.email_from, ", ".join(settings.email_to)
        mail["Date"], mail["Message-ID"] = format_datetime(at), make_msgid(domain="dicom-node")
        mail["Auto-Submitted"] = "auto-generated"  # RFC 3834: nobody's holiday answers it
        mail.set_content(text(self._node, notices))
        with self._server() as server:
            if settings.smtp_user:
                server.login(settings.smtp_user, settings.smtp_password.get_secret_value())
            server.send_message(mail)

    def _server(self) -> smtplib.SMTP:
        settings, where = self._settings, (self._settings.smtp_host, self._settings.smtp_port)
        context = ssl.create_default_context(cafile=settings.smtp_ca)
        if settings.smtp_tls == "tls":
            return smtplib.SMTP_SSL(*where, timeout=TIMEOUT_SECONDS, context=context)
        server = smtplib.SMTP(*where, timeout=TIMEOUT_SECONDS)
        if settings.smtp_tls == "starttls":
            try:
                server.starttls(context=context)
            except BaseException:
                server.close()
                raise
        return server


class Webhook:
    """By POST of JSON; `text` is what chat services show."""

    name = "webhook"

    def __init__(self, settings: AlertSettings, node: str) -> None:
        self._settings = settings
        self._node = node

    def send(self, message: Message) -> None:
        """One request; errors as in `Channel`."""
        at, notices = message
        headers = {}
        if self._settings.webhook_authorization_file is not None:
            secret = self._settings.webhook_authorization_file.read_text().strip()
            headers["Authorization"] = secret
        body = {
            "node": self._node,
            "at": at.isoformat(timespec="seconds"),
            "text": text(self._node, notices),
            "notices": list(notices),
        }
        assert self._settings.webhook_url is not None
        answer = httpx.post(
            self._settings.webhook_url, json=body, headers=headers, timeout=TIMEOUT_SECONDS
        )
        answer.raise_for_status()


class Alarms:
    """Looks, decides, tells."""

    def __init__(
        self, settings: AlertSettings, book: AlarmBook, watch: Watch, channels: Sequence[Channel]
    ) -> None:
        self._settings = settings
        self._book = book
        self._watch = watch
        self._channels = channels

    def look(self) -> None:
        """Once; what cannot be sent now is sent at a later look."""
        conditions = list(self._watch.conditions())
        told = self._book.tell(
            partial(self._decided, conditions),
            [one.name for one in self._channels],
            timedelta(seconds=self._settings.pause_seconds),
        )
        for notice in told:
            tell = log.info if notice.what == "over" else log.error
            tell("alarm", what=notice.what, key=notice.key, told=notice.told)
        for channel in self._channels:
            self._send(channel)
        self._book.forget(KEPT)

    def _decided(self, conditions: Sequence[Condition], before: Mapping[str, Any]) -> Any:
        remind = timedelta(hours=self._settings.remind_hours)
        return decide(conditions, before, utc_now(), remind)

    def _send(self, channel: Channel) -> None:
        for number, at, notices in self._book.unsent(channel.name):
            try:
                channel.send((at, notices))
            except FAILURES as error:
                log.error("alarm not sent", channel=channel.name, error=type(error).__name__)
                return
            self._book.sent(number)


def send_test(channel: Channel) -> str:
    """Send a message that says only that it came; returns what went wrong, empty where nothing did."""
    now = utc_now()
    notice = {"what": "test", "key": "test", "hint": "", "since": now.isoformat()}
    try:
        channel.send((now, [notice | {"told": "messages of this node arrive here"}]))
    except FAILURES as error:
        return f"{type(error).__name__}: {error}"
    return ""


def channels_of(settings: Settings) -> list[Channel]:
    """The ways that the configuration names."""
    node, found = settings.receive.ae_title, list[Channel]()
    if settings.alerts.email_to:
        found.append(Email(settings.alerts, node))
    if settings.alerts.webhook_url is not None:
        found.append(Webhook(settings.alerts, node))
    return found


def _some(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def subject(node: str, notices: Sequence[Mapping[str, Any]]) -> str:
    """One line: the first notice, and how many more."""
    first = notices[0]
    more = f" (and {len(notices) - 1} more)" if len(notices) > 1 else ""
    return f"{node}: {WORDS[first['what']]}: {first['told']}{more}"


def text(node: str, notices: Sequence[Mapping[str, Any]]) -> str:
    """Everything, for people."""
    lines = [f"DICOM AI node {node}", ""]
    for one in notices:
        lines.append(f"{WORDS[one['what']]}: {one['told']}")
        if one["hint"]:
            lines.append(f"    what to do: {one['hint']}")
        if one["what"] not in ("began", "test"):
            lines.append(f"    since {one['since'][:16].replace('T', ' ')} UTC")
    return "\n".join(lines) + "\n"
