"""The page on a free port, over a real store, for tests from a client's or a browser's side."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from argon2 import PasswordHasher
from sqlalchemy import Engine

from dicom_node.app.page import page_parts
from dicom_node.settings import Settings
from dicom_node.store.accounts import Accounts, UserRole
from dicom_node.store.database import open_database
from dicom_node.web.listen import bind, url_of
from dicom_node.web.parts import Parts
from dicom_node.web.server import serve_page

AXE = Path(__file__).resolve().parent / "vendor" / "axe-4.14.1.min.js"
PASSWORD = "correct horse battery staple"
# a cheap hash: what is tested is not how long it takes
_HASH = PasswordHasher(time_cost=1, memory_cost=64, parallelism=1).hash(PASSWORD)


@dataclass(frozen=True)
class Page:
    """A page that is served, with its parts."""

    url: str
    parts: Parts
    engine: Engine

    def account(self, role: UserRole, name: str = "") -> str:
        """An account with the usual password; returns its name."""
        name = name or role.value
        if self.parts.accounts.find(name) is None:
            self.parts.accounts.add(name, role, _HASH, must_change=False)
        return name

    @contextmanager
    def client(self, role: UserRole | None = UserRole.OPERATOR) -> Iterator[httpx.Client]:
        """A client, logged in unless `role` is None."""
        with httpx.Client(base_url=self.url, follow_redirects=False, timeout=30) as client:
            if role is not None:
                form = {"name": self.account(role), "password": PASSWORD}
                assert client.post("/login", data=form).status_code == 303
            yield client


@contextmanager
def served(folder: Path, **values: object) -> Iterator[Page]:
    """Serve the page for the length of the block; an admin `admin` has the usual password.

    Args:
        folder: for the data.
        values: settings beside the data folder.
    """
    web = {"port": 0, **values.pop("web", {})}  # type: ignore[dict-item]
    settings = Settings(data_dir=folder, web=web, **values)  # type: ignore[arg-type]
    folder.mkdir(parents=True, exist_ok=True)
    engine = open_database(settings.effective_database_url)
    Accounts(engine).add("admin", UserRole.ADMIN, _HASH, must_change=False)
    stop = threading.Event()
    listener = bind(settings.web)
    url, parts = url_of(settings.web, listener).rstrip("/"), page_parts(settings, engine)
    thread = threading.Thread(target=serve_page, args=(parts, settings, listener, stop))
    thread.start()
    try:
        _wait_for(url)
        yield Page(url, parts, engine)
    finally:
        stop.set()
        thread.join(10)
        listener.close()
        engine.dispose()


def violations(tab: Any) -> list[tuple[str, str, str]]:
    """What axe-core says against the page in a browser's tab, and whether it is wider than the tab."""
    tab.evaluate(AXE.read_text(encoding="utf-8"))
    found = tab.evaluate("axe.run({resultTypes: ['violations']})")
    told = [
        (one["id"], one["nodes"][0]["html"], one["nodes"][0]["failureSummary"])
        for one in found["violations"]
    ]
    wide = tab.evaluate("document.documentElement.scrollWidth") - tab.viewport_size["width"]
    return [*told, ("width", tab.url, f"{wide} pixels too wide")] if wide > 0 else told


def _wait_for(url: str) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            if httpx.get(f"{url}/healthz").status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.05)
    raise AssertionError("the page is not served")
