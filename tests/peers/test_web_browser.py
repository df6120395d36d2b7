"""The page as people use it: Chromium, both themes, a phone's width, the keyboard; axe-core finds nothing."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, ConsoleMessage, expect, sync_playwright
from playwright.sync_api import Page as Tab
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from dicom_node.store.accounts import UserRole
from tests.builders.worklist import HOLD_REASON, NASTY, Site
from tests.conftest import program
from tests.page import PASSWORD, Page, served, violations

pytestmark = [pytest.mark.peer("chromium"), pytest.mark.xdist_group("page")]

REFUSED = re.compile("status of 4(00|09)")
DESK, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}
STUDY = "/studies/1.2.826.0.1.4"
PAGES = (
    "/",
    STUDY,
    f"{STUDY}/retry",
    "/queue",
    "/peers",
    "/models",
    "/models/ct_structures",
    "/routes",
    "/accounts",
    "/configuration",
    "/password",
)
SETTINGS: dict[str, Any] = {
    "destination": {"pacs": {"ae_title": "PACS", "host": "127.0.0.1", "port": 1}},
    "route": [
        {
            "name": "ct",
            "models": ["ct_structures"],
            "destinations": ["pacs"],
            "match": {"modality": ["CT"], "min_instances": 10},
        }
    ],
}


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    folder = tmp_path_factory.mktemp("page")
    with served(folder / "data", **SETTINGS) as running:
        Site(running.engine, folder).one_of_each()
        running.parts.workers.seen("host/1", "GPU of a test", "cuda", 8 << 30, 6 << 30)
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(
            executable_path=program("chromium"), args=["--no-sandbox"]
        )
        yield launched
        launched.close()


@pytest.fixture
def tab(browser: Browser, page: Page) -> Iterator[Tab]:
    yield from opened(browser, page)


def opened(
    browser: Browser, page: Page, role: UserRole = UserRole.ADMIN, **context: Any
) -> Iterator[Tab]:
    """A tab that is logged in; it fails the test where the browser complains."""
    complaints: list[str] = []

    def note(message: ConsoleMessage) -> None:
        # a refusal that a test asks for is no complaint of the page's
        if message.type in ("error", "warning") and not REFUSED.search(message.text):
            complaints.append(message.text)

    with browser.new_context(viewport=context.pop("viewport", DESK), **context) as made:
        tab = made.new_page()
        tab.set_default_timeout(15_000)
        tab.on("console", note)
        tab.on("pageerror", lambda error: complaints.append(str(error)))
        tab.goto(page.url)
        tab.get_by_label("Name").fill(page.account(role))
        tab.get_by_label("Password").fill(PASSWORD)
        tab.get_by_role("main").get_by_role("button", name="Log in").click()
        tab.wait_for_url(f"{page.url}/")
        yield tab
    assert not complaints


@pytest.mark.parametrize("scheme", ["dark", "light"])
@pytest.mark.parametrize("viewport", [DESK, PHONE], ids=["desk", "phone"])
def test_axe_finds_nothing_and_nothing_sticks_out(
    browser: Browser, page: Page, scheme: str, viewport: dict[str, int]
) -> None:
    context = {"color_scheme": scheme, "viewport": viewport}
    for tab in opened(browser, page, **context):
        for path in PAGES:
            tab.goto(page.url + path)
            assert not violations(tab), path


@pytest.mark.parametrize("scheme", ["dark", "light"])
@pytest.mark.parametrize("viewport", [DESK, PHONE], ids=["desk", "phone"])
def test_axe_finds_nothing_before_the_login(
    browser: Browser, page: Page, scheme: str, viewport: dict[str, int]
) -> None:
    with browser.new_context(color_scheme=scheme, viewport=viewport) as context:  # type: ignore[arg-type]
        tab = context.new_page()
        tab.goto(f"{page.url}/login")
        assert not violations(tab)


def test_the_worklist_filters_and_searches(tab: Tab, page: Page) -> None:
    rows = tab.locator("table.worklist tbody tr")
    expect(rows).to_have_count(10)
    tab.get_by_role("link", name="Needs attention 3").click()
    expect(rows).to_have_count(3)
    expect(tab.locator(".badge")).to_have_text(["held", "failed", "failed"])
    expect(tab.get_by_text(HOLD_REASON)).to_be_visible()
    tab.get_by_role("searchbox").fill("PID0006")
    expect(rows).to_have_count(1)
    assert "search=PID0006" in tab.url
    assert "state=attention" in tab.url
    tab.reload()
    expect(rows).to_have_count(1)


def test_names_that_are_html_stay_text(tab: Tab) -> None:
    expect(tab.get_by_role("link", name=f"{NASTY}, Bobby").first).to_be_visible()
    assert tab.locator("main script").count() == 0


def test_a_study_tells_its_story(tab: Tab) -> None:
    tab.get_by_role("link", name="O'Neil, Sue Q").nth(1).click()
    expect(tab.get_by_role("heading", level=1)).to_have_text("O'Neil, Sue Q")
    story = tab.locator("ol.story li")
    expect(story).to_have_count(8)
    expect(story.first).to_contain_text("first instance")
    expect(story.last).to_contain_text("dead")
    expect(story.last).to_contain_text("A900")


def test_the_list_keeps_up_without_a_reload(tab: Tab, page: Page, tmp_path: Path) -> None:
    rows = tab.locator("table.worklist tbody tr")
    before = rows.count()
    Site(page.engine, tmp_path).study(77)
    expect(rows).to_have_count(before + 1)


def test_the_keyboard_reaches_everything(tab: Tab) -> None:
    tab.keyboard.press("Tab")
    expect(tab.get_by_role("link", name="Skip to the content")).to_be_focused()
    tab.keyboard.press("Enter")
    tab.keyboard.press("Tab")
    expect(tab.get_by_role("searchbox")).to_be_focused()
    for _ in range(20):
        tab.keyboard.press("Tab")
        if tab.evaluate("document.activeElement.closest('tbody') !== null"):
            break
    outlined = tab.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outlined == "solid", "who uses the keyboard sees where they are"
    tab.keyboard.press("Enter")
    expect(tab.get_by_role("heading", name="Story")).to_be_visible()


def test_focus_survives_a_refresh(tab: Tab) -> None:
    link = tab.locator("table.worklist tbody a").first
    link.focus()
    with tab.expect_response(lambda answer: answer.request.headers.get("hx-request") == "true"):
        pass
    expect(link).to_be_focused()


def test_the_theme_is_a_choice_that_lasts(tab: Tab) -> None:
    back = "getComputedStyle(document.body).backgroundColor"
    before = tab.evaluate(back)
    tab.get_by_role("button", name="Dark or light").click()
    after = tab.evaluate(back)
    assert after != before
    tab.reload()
    assert tab.evaluate(back) == after


def test_echo_says_what_the_destination_says(tab: Tab, page: Page) -> None:
    tab.goto(f"{page.url}/peers")
    tab.get_by_role("button", name="Echo pacs").click()
    expect(tab.locator("#echo")).to_contain_text("does not answer")


def test_a_file_tells_which_route_it_takes_and_why(tab: Tab, page: Page, tmp_path: Path) -> None:
    from tests.builders.datasets import ct_slice

    file = tmp_path / "slice.dcm"
    data_set = ct_slice()
    data_set.file_meta = FileMetaDataset()
    data_set.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data_set.save_as(file, enforce_file_format=True)
    tab.goto(f"{page.url}/routes")
    tab.get_by_label("DICOM file").set_input_files(file)
    tab.get_by_role("button", name="Try").click()
    expect(tab.locator("main").get_by_role("status")).to_contain_text("takes ct")
    tab.get_by_label("DICOM file").set_input_files(file)
    tab.get_by_label("Images in the series").fill("2")
    tab.get_by_role("button", name="Try").click()
    expect(tab.locator("main").get_by_role("status")).to_contain_text("fewer than 10")
    file.write_bytes(b"no DICOM" * 100)
    tab.get_by_label("DICOM file").set_input_files(file)
    tab.get_by_role("button", name="Try").click()
    expect(tab.get_by_role("alert")).to_contain_text("no DICOM file")


def test_a_viewer_sees_stand_ins(browser: Browser, page: Page) -> None:
    for tab in opened(browser, page, UserRole.VIEWER):
        expect(tab.locator("table.worklist tbody tr").first).to_contain_text("patient ")
        assert "Neil" not in tab.content()


def test_logging_out(tab: Tab, page: Page) -> None:
    tab.get_by_role("button", name="Log out").click()
    expect(tab.get_by_role("heading", name="Log in")).to_be_visible()
    tab.goto(page.url)
    expect(tab.get_by_role("heading", name="Log in")).to_be_visible()


def test_an_admin_asks_for_the_configuration_and_is_told_where_nobody_can_read_it(
    tab: Tab, page: Page
) -> None:
    tab.goto(f"{page.url}/configuration")
    tab.get_by_role("button", name="Read it anew").click()
    expect(tab.get_by_role("alert")).to_contain_text("does not reload its configuration")


def test_results_are_sent_again_from_the_page(tab: Tab, page: Page) -> None:
    tab.goto(f"{page.url}/studies/1.2.826.0.1.2")
    tab.get_by_role("link", name="Send again").click()
    expect(tab.locator("main")).to_contain_text("once more, for one that has lost them")
    tab.get_by_label("Why").fill("the PACS was restored")
    tab.get_by_role("button", name="Send again").click()
    expect(tab.locator(".summary .badge")).to_have_text("delivering")
    expect(tab.locator(".story")).to_contain_text("sent again by admin: the PACS was restored")
