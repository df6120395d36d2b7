"""Takes the screenshots of the documentation: `python -m docs.screenshots`, into docs/screenshots.

The worklist and a study come from a store with a study in every state; the picture from a whole node that
answers a phantom's CT. Needs Chromium, and the weights of ct_structures.
"""

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
from playwright.sync_api import Page as Tab
from playwright.sync_api import sync_playwright

from ai_models.phantoms.dicom import write_ct_series
from ai_models.phantoms.thorax import thorax
from dicom_node.deliver import scu
from dicom_node.demo.pacs import folder_pacs
from dicom_node.store.accounts import UserRole
from tests.builders.worklist import Site
from tests.conftest import program
from tests.harness import ct_to, node, settled
from tests.page import PASSWORD, served

OUT = Path(__file__).resolve().parent / "screenshots"
DESK, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}
PACS = {"ae_title": "PACS", "host": "127.0.0.1", "port": 1}
MATCH = {"modality": ["CT"], "min_instances": 10}
ROUTE = {"name": "ct", "models": ["ct_structures"], "destinations": ["pacs"], "match": MATCH}


@contextmanager
def tab_of(scheme: str, viewport: dict[str, int]) -> Iterator[Tab]:
    """A browser's tab."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=program("chromium"), args=["--no-sandbox"]
        )
        yield browser.new_page(color_scheme=scheme, viewport=viewport)  # type: ignore[arg-type]
        browser.close()


def log_in(tab: Tab, url: str, name: str, password: str) -> None:
    """Log in as a person does."""
    tab.goto(url)
    tab.get_by_label("Name").fill(name)
    tab.get_by_label("Password").fill(password)
    tab.get_by_role("main").get_by_role("button", name="Log in").click()
    tab.wait_for_url(re.compile(r"/$|/password$"))


def pages(folder: Path) -> None:
    """The pages over a store with a study in every state."""
    with served(folder / "data", destination={"pacs": PACS}, route=[ROUTE]) as page:
        Site(page.engine, folder).one_of_each()
        name = page.account(UserRole.ADMIN)
        for scheme, viewport, tag in (("dark", DESK, "dark"), ("light", PHONE, "phone")):
            with tab_of(scheme, viewport) as tab:
                log_in(tab, page.url, name, PASSWORD)
                for path, told in (("/", "worklist"), ("/studies/1.2.826.0.1.4", "study")):
                    tab.goto(page.url + path)
                    tab.screenshot(path=OUT / f"{told}-{tag}.png", full_page=True)
        with tab_of("light", DESK) as tab:
            log_in(tab, page.url, name, PASSWORD)
            for path, told in (("/peers", "peers"), ("/models", "models"), ("/routes", "routes")):
                tab.goto(page.url + path)
                tab.screenshot(path=OUT / f"{told}.png", full_page=True)


def picture(folder: Path) -> None:
    """A result as a picture, from a whole node."""
    files = write_ct_series(
        thorax((60, 256, 256), (4.0, 1.4, 1.4), seed=7, nodules=3), folder / "scanner", seed=7
    )
    with folder_pacs(folder / "pacs") as pacs, node(folder, ct_to(pacs)) as running:
        address = scu.Address(
            running.address.host, running.address.port, running.address.ae_title, "CT1"
        )
        assert {answer.status for _, answer in scu.store(address, files)} == {0}
        running.wait_for(settled(1))
        url = str(running.address.page).rstrip("/")
        first = (running.settings.data_dir / "first-password").read_text().strip()
        _choose(url, first)
        with tab_of("dark", DESK) as tab:
            log_in(tab, url, "admin", PASSWORD)
            tab.locator("table.worklist tbody a").first.click()
            tab.get_by_role("link", name="SEG").click()
            tab.locator("canvas[data-drawn]").wait_for(timeout=60_000)
            tab.wait_for_load_state("networkidle")
            tab.screenshot(path=OUT / "picture.png", full_page=True)


def _choose(url: str, first: str) -> None:
    """Change the first password, as the page demands."""
    with httpx.Client(base_url=url, timeout=30) as client:
        client.post("/login", data={"name": "admin", "password": first})
        found = re.search(r'name="csrf" value="(\w+)"', client.get("/password").text)
        assert found
        client.post("/password", data={"old": first, "new": PASSWORD, "csrf": found[1]})


if __name__ == "__main__":
    OUT.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as made:
        pages(Path(made) / "pages")
        picture(Path(made) / "node")
