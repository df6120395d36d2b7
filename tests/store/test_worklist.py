"""What the page asks of the store, on both databases: worklist, searches, metrics, accounts, audit trail."""

from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine, insert, update

from dicom_node.errors import ConfigurationError
from dicom_node.observe.logging import hashed
from dicom_node.store.accounts import Accounts, UserRole
from dicom_node.store.audit import AuditOutbox
from dicom_node.store.database import utc_now, writing
from dicom_node.store.metering import Cursor, Metering
from dicom_node.store.page_tables import login
from dicom_node.store.tables import transition
from dicom_node.store.worklist import COUNTED, Shown, Worklist
from tests.builders.worklist import Site

STUDY = "1.2.826.0.1."
IDLE = timedelta(minutes=30)


@pytest.fixture
def worklist(engine: Engine, tmp_path: Path) -> Worklist:
    Site(engine, tmp_path).one_of_each()
    return Worklist(engine)


def numbers(worklist: Worklist, *arguments: object, **more: object) -> list[int]:
    """The studies of a page, by their number."""
    page = worklist.page(*arguments, **more)  # type: ignore[arg-type]
    return [int(study["study_uid"].removeprefix(STUDY)) for study in page.studies]


FILTERED = {
    Shown.ALL: [10, 9, 8, 7, 6, 5, 4, 3, 2, 1],
    Shown.ATTENTION: [6, 4, 3],
    Shown.RECEIVING: [10],
    Shown.QUEUED: [9],
    Shown.RUNNING: [8],
    Shown.DELIVERING: [5],
    Shown.DELIVERED: [2, 1],
    Shown.NO_ROUTE: [7],
}
FOUND = {
    "PID0004": [4],
    "pid0004": [4],
    "acc000006": [6],
    "meier": [10, 5],
    "öztürk": [6, 1],
    "ÖZTÜRK": [6, 1],
    f"{STUDY}7": [7],
    f"{STUDY}1": [10, 1],
    f"{STUDY}7.1": [7],
    "CT0 meier": [],
    "CT2 meier": [5],
    hashed(f"{STUDY}8"): [8],
    "%": [],
    "_": [],
    "\\": [],
}


def test_each_filter_shows_what_is_so(worklist: Worklist) -> None:
    assert {shown: numbers(worklist, shown) for shown in Shown} == FILTERED
    assert worklist.counts() == {shown: len(FILTERED[shown]) for shown in COUNTED}


def test_searches(worklist: Worklist) -> None:
    assert {search: numbers(worklist, search=search) for search in FOUND} == FOUND


def test_who_may_not_see_patients_does_not_find_them(worklist: Worklist) -> None:
    for search in ("PID0004", "meier", "acc000006"):
        assert numbers(worklist, search=search, identities=False) == []
    assert numbers(worklist, search=f"{STUDY}7", identities=False) == [7]


def test_pages_follow_each_other_without_gap_or_overlap(worklist: Worklist) -> None:
    seen: list[int] = []
    before = None
    while True:
        page = worklist.page(before=before, limit=3)
        seen += [int(study["study_uid"].removeprefix(STUDY)) for study in page.studies]
        before = page.older
        if before is None:
            break
    assert seen == [10, 9, 8, 7, 6, 5, 4, 3, 2, 1]


def test_one_study_with_its_deliveries(worklist: Worklist) -> None:
    study = worklist.study(f"{STUDY}4")
    assert study is not None
    (series,) = study["series"]
    (job,) = series["jobs"]
    (result,) = job["results"]
    assert [one["state"] for one in result["deliveries"]] == ["DEAD"]
    assert worklist.study("1.2") is None
    assert len(worklist.inputs(job["id"])) == 3
    assert worklist.result(result["id"])["job_id"] == job["id"]  # type: ignore[index]


def test_peers_and_queue(worklist: Worklist) -> None:
    senders = worklist.senders()
    assert sum(one["open"] for one in senders) == 1
    assert senders[0]["calling_ae"] == "CT1"
    assert worklist.destinations()["pacs"]["states"]["CONFIRMED"] == 2
    assert [job["state"] for job in worklist.queue()] == ["RUNNING", "QUEUED"]
    assert worklist.ages()["job"] is not None


def test_metering_tells_each_thing_once(worklist: Worklist, engine: Engine) -> None:
    metering = Metering(engine)
    news = metering.news(Cursor(0, 0))
    assert news.moves["job", "STORED"] == 4
    assert news.moves["job", "FAILED"] == 1
    assert sum(count for count, _ in news.instances.values()) == 30
    stages = {stage for stage, _, _ in news.durations}
    assert stages == {"assemble", "queue", "infer", "deliver", "last_image_to_pacs"}
    again = metering.news(news.until)
    assert (again.moves, again.instances, again.durations) == ({}, {}, [])
    assert metering.states()["series", "HELD"] == 1
    assert metering.endings() == {"OPEN": 1, "RELEASED": 9}


def test_accounts_and_their_logins(engine: Engine) -> None:
    accounts = Accounts(engine)
    assert accounts.add_first("admin", "hash")
    assert not accounts.add_first("second", "hash"), "there is one already"
    accounts.add("anna", UserRole.OPERATOR, "hash", must_change=False)
    with pytest.raises(ConfigurationError):
        accounts.add("anna", UserRole.ADMIN, "hash", must_change=False)
    token = accounts.open_login("anna", timedelta(hours=1))
    found = accounts.login_of(token, IDLE)
    assert found
    assert found.account.role is UserRole.OPERATOR
    assert accounts.login_of(token + "x", IDLE) is None
    for change in (
        lambda: accounts.set_disabled("anna", True),
        lambda: accounts.set_password("anna", "other"),
        lambda: accounts.set_role("anna", UserRole.VIEWER),
        lambda: accounts.remove("anna"),
    ):
        accounts.set_disabled("anna", False)
        token = accounts.open_login("anna", timedelta(hours=1))
        assert accounts.login_of(token, IDLE)
        change()
        assert accounts.login_of(token, IDLE) is None, "a change ends every login"
    assert accounts.secret("a") == Accounts(engine).secret("a") != accounts.secret("b")


def test_a_login_ends_by_age_and_by_silence(engine: Engine) -> None:
    accounts = Accounts(engine)
    accounts.add("anna", UserRole.VIEWER, "hash", must_change=False)
    assert accounts.login_of(accounts.open_login("anna", timedelta(seconds=-1)), IDLE) is None
    session = accounts.open_login("anna", timedelta(hours=12))
    token = accounts.open_login("anna", timedelta(days=90), "token")
    with writing(engine) as connection:
        connection.execute(update(login).values(seen_at=utc_now() - timedelta(minutes=31)))
    assert accounts.login_of(session, IDLE) is None
    assert accounts.login_of(token, IDLE), "a program may be silent"


def test_the_audit_trail_keeps_its_order(engine: Engine) -> None:
    outbox = AuditOutbox(engine)
    for number in range(5):
        outbox.add(f"<m>{number}</m>")
    waiting = outbox.unsent(3)
    assert [text for _, _, text in waiting] == ["<m>0</m>", "<m>1</m>", "<m>2</m>"]
    outbox.sent([number for number, _, _ in waiting])
    assert outbox.waiting() == 2
    assert outbox.forget(timedelta(days=1)) == 0
    assert outbox.forget(timedelta(seconds=-1)) == 3


def test_a_page_is_made_anew_also_when_an_earlier_number_commits_later(engine: Engine) -> None:
    if engine.dialect.name == "sqlite":
        pytest.skip("one writer: numbers are committed in their order")
    metering = Metering(engine)
    move = {"entity": "series", "entity_id": 1, "new": "OPEN", "reason": "", "old": None}
    values = insert(transition).values(at=utc_now(), **move)
    with engine.connect() as slow, slow.begin():
        slow.execute(values)
        with writing(engine) as quick:
            quick.execute(values)
        seen, cursor = metering.version(), metering.cursor()
        assert metering.version() == seen
    assert metering.cursor() == cursor
    assert metering.version() != seen
