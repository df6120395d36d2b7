"""Orders: what fits which state, by page and by program, on record with name and reason."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from dicom_node.store.accounts import UserRole
from dicom_node.web.actions import Order, offered
from tests.builders.worklist import Site
from tests.page import Page, served

STUDY = "1.2.826.0.1."


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Page]:
    with served(tmp_path / "data") as running:
        Site(running.engine, tmp_path).one_of_each()
        yield running


def found(page: Page, number: int) -> dict[str, Any]:
    study = page.parts.worklist.study(f"{STUDY}{number}")
    assert study is not None
    return study


def token(client: httpx.Client) -> str:
    match = re.search(r'name="csrf" value="(\w+)"', client.get("/").text)
    assert match
    return match[1]


def test_only_orders_that_change_something_are_offered(page: Page) -> None:
    expected = {
        1: [Order.RESEND, Order.RERUN],
        3: [Order.RETRY],  # failed
        4: [Order.RETRY, Order.RERUN],  # dead
        6: [Order.RELEASE],  # held
        7: [Order.RELEASE],  # no route
        8: [Order.CANCEL],  # running
        9: [Order.CANCEL],  # queued
        10: [Order.COMPLETE, Order.HOLD],  # receiving
    }
    for number, orders in expected.items():
        assert offered(found(page, number)["series"]) == orders, number


@pytest.mark.parametrize(
    ("number", "order", "state"),
    [
        (6, "release", "receiving"),
        (10, "hold", "held"),
        (10, "complete", "receiving"),
        (9, "cancel", "cancelled"),
        (4, "retry", "delivering"),
        (3, "retry", "queued"),
        (1, "rerun", "queued"),
        (1, "resend", "delivering"),
    ],
)
def test_an_order_is_asked_done_and_on_record(
    page: Page, number: int, order: str, state: str
) -> None:
    path = f"/studies/{STUDY}{number}"
    with page.client() as client:
        asked = client.get(f"{path}/{order}")
        assert asked.status_code == 200
        form = {"csrf": token(client), "why": "the phone said so", "model": "ct_structures"}
        assert client.post(f"{path}/{order}", data=form).headers["location"] == path
        told = client.get(f"/api/v1{path}").json()
        assert told["study"]["stage"] == state
        reasons = [move["reason"] for move in told["moves"]]
        assert any("by operator: the phone said so" in reason for reason in reasons), reasons
        again = client.post(f"{path}/{order}", data=form)
        assert again.status_code == 409 or order == "rerun"


def test_a_viewer_orders_nothing(page: Page) -> None:
    with page.client(UserRole.VIEWER) as client:
        form = {"csrf": token(client)}
        assert client.get(f"/studies/{STUDY}6/release").status_code == 403
        assert client.post(f"/studies/{STUDY}6/release", data=form).status_code == 403
        assert "/release" not in client.get(f"/studies/{STUDY}6").text
    assert found(page, 6)["series"][0]["state"] == "HELD"


def test_a_forged_order_is_refused(page: Page) -> None:
    with page.client() as client:
        assert client.post(f"/studies/{STUDY}6/release", data={}).status_code == 403
        body = {"order": "release"}
        assert client.post(f"/api/v1/studies/{STUDY}6/orders", json=body).status_code == 403
    assert found(page, 6)["series"][0]["state"] == "HELD"


def test_a_program_orders_too(page: Page) -> None:
    with page.client() as client:
        headers = {"X-CSRF-Token": token(client)}
        path = f"/api/v1/studies/{STUDY}6/orders"
        done = client.post(path, json={"order": "release"}, headers=headers)
        assert done.json() == {"told": "1 series released"}
        assert client.post(path, json={"order": "release"}, headers=headers).status_code == 409
        assert client.post(path, json={"order": "burn"}, headers=headers).status_code == 422
        unknown = client.post("/api/v1/studies/1.2/orders", json={"order": "hold"}, headers=headers)
        assert unknown.status_code == 404


def test_a_model_that_did_not_run_is_not_run_again(page: Page) -> None:
    with page.client() as client:
        form = {"csrf": token(client), "model": "../../etc"}
        assert client.post(f"/studies/{STUDY}1/rerun", data=form).status_code == 409
