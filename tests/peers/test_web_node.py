"""A whole node seen through its page, and a marked patient whom no log and no metric may name."""

import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as Xml

import httpx
import pytest
from playwright.sync_api import Page as Tab
from playwright.sync_api import expect, sync_playwright
from pydicom import dcmread

from ai_models.phantoms.dicom import write_ct_series
from ai_models.phantoms.thorax import thorax
from dicom_node.deliver import scu
from dicom_node.demo.pacs import folder_pacs
from dicom_node.observe.logging import hashed
from dicom_node.settings import BUNDLED_MODELS
from tests.conftest import program
from tests.harness import Node, node, settled
from tests.page import violations

pytestmark = [
    pytest.mark.peer("chromium"),
    pytest.mark.xdist_group("page"),
    pytest.mark.slow,
    pytest.mark.skipif(
        not (BUNDLED_MODELS / "ct_structures" / "models" / "model.safetensors").exists(),
        reason="ct_structures has no weights",
    ),
]

MARK = "ZQXMARK"
FIRST = "a first password of mine"
TOML = """
[destination.pacs]
ae_title = "{pacs.ae_title}"
host = "127.0.0.1"
port = {pacs.port}

[log]
level = "DEBUG"
format = "json"

[infer]
threads = 1

[[route]]
name = "ct"
models = ["ct_structures"]
destinations = ["pacs"]
[route.match]
modality = ["CT"]
"""


@dataclass(frozen=True)
class Site:
    """A node that has answered a marked study, and failed at others."""

    node: Node
    study_uid: str
    password: str

    @property
    def url(self) -> str:
        assert self.node.address.page
        return self.node.address.page.rstrip("/")


def marked(folder: Path) -> tuple[list[Path], str]:
    """A phantom's CT whose patient and study carry the mark wherever a name may stand."""
    files = write_ct_series(thorax((24, 96, 96), (10.0, 3.6, 3.6), seed=3), folder, seed=3)
    for file in files:
        slice_ = dcmread(file)
        slice_.PatientName, slice_.PatientID = f"{MARK}^NAME", f"{MARK}-ID"
        slice_.AccessionNumber, slice_.OtherPatientNames = f"{MARK}ACC", f"{MARK}^OTHER"
        slice_.ReferringPhysicianName = f"{MARK}^DOCTOR"
        slice_.InstitutionName = f"{MARK} HOSPITAL"
        slice_.save_as(file)
    return files, str(slice_.StudyInstanceUID)


def broken(folder: Path, files: list[Path]) -> list[Path]:
    """The same patient with slices that contradict each other."""
    folder.mkdir()
    made = []
    for number, file in enumerate(files[:6]):
        slice_ = dcmread(file)
        slice_.StudyInstanceUID += ".9"
        slice_.SeriesInstanceUID += ".9"
        slice_.SOPInstanceUID += ".9"
        slice_.file_meta.MediaStorageSOPInstanceUID = slice_.SOPInstanceUID
        if number == 3:
            slice_.Rows = 7
        made.append(folder / file.name)
        slice_.save_as(made[-1])
    return made


def unreadable(file: Path) -> list[Path]:
    """A slice that names no study."""
    slice_ = dcmread(file)
    del slice_.StudyInstanceUID
    slice_.SOPInstanceUID += ".8"
    slice_.file_meta.MediaStorageSOPInstanceUID = slice_.SOPInstanceUID
    made = file.with_suffix(".odd")
    slice_.save_as(made)
    return [made]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    files, study_uid = marked(folder / "scanner")
    with folder_pacs(folder / "pacs") as pacs, node(folder, TOML.format(pacs=pacs)) as running:
        address = scu.Address(
            running.address.host, running.address.port, running.address.ae_title, "CT_MARK"
        )
        for some in (files, broken(folder / "broken", files)):
            assert [answer.status for _, answer in scu.store(address, some)] == [0] * len(some)
        assert [answer.status for _, answer in scu.store(address, unreadable(files[0]))] == [0xC000]
        running.wait_for(settled(2))
        password = (running.settings.data_dir / "first-password").read_text().strip()
        yield Site(running, study_uid, password)


@pytest.fixture(scope="module")
def cookies(site: Site) -> dict[str, str]:
    """The admin's session, after the first password was changed as the page demands."""
    form = {"name": "admin", "password": site.password}
    with httpx.Client(base_url=site.url, timeout=30) as client:
        client.post("/login", data=form)
        found = re.search(r'name="csrf" value="(\w+)"', client.get("/password").text)
        assert found
        change = {"old": site.password, "new": FIRST, "csrf": found[1]}
        assert client.post("/password", data=change).status_code == 303
        assert client.post("/login", data=form | {"password": FIRST}).status_code == 303
        return dict(client.cookies)


@contextmanager
def tab_of(site: Site, cookies: dict[str, str]) -> Iterator[Tab]:
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(
            executable_path=program("chromium"), args=["--no-sandbox"]
        )
        tab = launched.new_page(viewport={"width": 1280, "height": 900})
        tab.set_default_timeout(60_000)
        tab.context.add_cookies(
            [{"name": k, "value": v, "url": site.url} for k, v in cookies.items()]
        )
        yield tab
        launched.close()


def test_the_first_password_is_gone_once_it_was_changed(
    site: Site, cookies: dict[str, str]
) -> None:
    assert not (site.node.settings.data_dir / "first-password").exists()


def test_the_result_is_a_picture_whose_segments_can_be_switched(
    site: Site, cookies: dict[str, str]
) -> None:
    with tab_of(site, cookies) as tab:
        tab.goto(f"{site.url}/studies/{site.study_uid}")
        expect(tab.locator(".summary .badge")).to_have_text("delivered")
        tab.get_by_role("link", name="SEG").click()
        canvas = tab.locator("canvas[data-drawn]")
        expect(canvas).to_be_visible(timeout=60_000)
        expect(tab.locator("#caption")).to_contain_text("lung")

        def coloured() -> int:
            count = tab.evaluate(
                """() => { const c = document.getElementById("canvas");
                const d = c.getContext("2d").getImageData(0, 0, c.width, c.height).data; let n = 0;
                for (let i = 0; i < d.length; i += 4) n += Math.abs(d[i] - d[i + 2]) > 12; return n; }"""
            )
            return int(count)

        everything = coloured()
        assert everything > 500
        tab.get_by_role("checkbox", name="Left lung").uncheck()
        expect(tab.locator("#caption")).not_to_contain_text("Left lung")
        assert 0 < coloured() < everything
        before = tab.locator("#caption").inner_text()
        tab.get_by_role("slider", name="Slice").focus()
        tab.keyboard.press("ArrowRight")
        expect(tab.locator("#caption")).not_to_have_text(before)
        tab.get_by_label("Window").select_option(label="Lung (-600 / 1500)")
        for scheme in ("dark", "light"):
            tab.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
            for width in (1280, 390):
                tab.set_viewport_size({"width": width, "height": 844})
                assert not violations(tab), (scheme, width)


def test_the_report_is_a_table(site: Site, cookies: dict[str, str]) -> None:
    with tab_of(site, cookies) as tab:
        tab.goto(f"{site.url}/studies/{site.study_uid}")
        tab.get_by_role("link", name="SR").first.click()
        table = tab.get_by_role("table")
        expect(table).to_contain_text("Imaging Measurement Report")
        expect(table).to_contain_text("Left lung")
        expect(tab.locator("main")).to_contain_text("Not for clinical use")


def test_slices_beyond_the_last_and_results_that_are_no_picture(
    site: Site, cookies: dict[str, str]
) -> None:
    with httpx.Client(base_url=site.url, cookies=cookies, timeout=60) as client:
        study = client.get(f"/api/v1/studies/{site.study_uid}").json()["study"]
        results = study["series"][0]["jobs"][0]["results"]
        ids = {result["kind"]: result["id"] for result in results}
        path = f"/api/v1/results/{ids['seg']}/picture"
        slices = client.get(path).json()["slices"]
        assert slices == 24
        assert client.get(f"{path}/{slices}/image.png").status_code == 404
        assert client.get(f"{path}/-1/image.png").status_code == 404
        assert client.get(f"{path}/0/image.png").content.startswith(b"\x89PNG")
        told = client.get(f"/api/v1/results/{ids['sr']}/picture")
        assert told.status_code == 422
        assert client.get("/api/v1/results/99999/picture").status_code == 404


def test_no_log_and_no_metric_names_the_patient(site: Site, cookies: dict[str, str]) -> None:
    with httpx.Client(base_url=site.url, cookies=cookies, timeout=30) as client:
        assert MARK in client.get("/").text, "the page does, for who may see it"
        client.get("/", params={"search": MARK})
        client.get(f"/studies/{site.study_uid}")
        metrics = client.get("/metrics").text
    log = site.node.log.read_text()
    lines = log.splitlines()
    assert len(lines) > 10
    for told in (MARK, site.study_uid):
        found = [line for line in lines if told in line]
        assert not found, found
        assert told not in metrics


def test_a_study_can_be_followed_through_the_log_from_association_to_confirmation(
    site: Site,
) -> None:
    events = [
        json.loads(line) for line in site.node.log.read_text().splitlines() if line[:1] == "{"
    ]
    known = hashed(site.study_uid)
    story = [one for one in events if one.get("study") == known]
    told = [one["event"] for one in story]
    order = ["series comes in", "series queued", "job begins", "job ends", "delivered"]
    assert [told.index(one) for one in order] == sorted(told.index(one) for one in order), told
    comes, delivered = story[0], story[told.index("delivered")]
    ended = [one for one in events if one["event"] == "association ended"]
    assert comes["association"] in {one["association"] for one in ended}
    assert delivered["confirmed"] is True
    assert comes["series"] == story[told.index("job begins")]["series"]


def test_what_went_over_dicom_is_in_the_audit_trail(site: Site) -> None:
    trail = site.node.settings.data_dir / "audit.log"
    deadline = time.monotonic() + 30
    while "Begin Transferring" not in (text := trail.read_text() if trail.exists() else ""):
        assert time.monotonic() < deadline, text
        time.sleep(0.1)
    messages = [Xml.fromstring(line) for line in text.splitlines()]
    told = [
        (
            one.find("EventIdentification/EventID").attrib["originalText"],  # type: ignore[union-attr]
            one.find("EventIdentification").attrib["EventActionCode"],  # type: ignore[union-attr]
        )
        for one in messages
    ]
    assert told[0] == ("Application Activity", "E")
    assert ("DICOM Instances Transferred", "C") in told
    came = messages[told.index(("DICOM Instances Transferred", "C"))]
    objects = [
        one.attrib["ParticipantObjectID"] for one in came.iter("ParticipantObjectIdentification")
    ]
    assert objects == [site.study_uid, f"{MARK}-ID"]
    assert [one.attrib["UserID"] for one in came.iter("ActiveParticipant")] == [
        "CT_MARK",
        site.node.address.ae_title,
    ]
    assert [one.text for one in came.iter("NumberOfInstances")] == ["24"]


def test_processes_count_what_they_log(site: Site) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        text = httpx.get(f"{site.url}/metrics", timeout=30).text
        if 'dicom_node_log_events_total{event="job ends"' in text:
            break
    assert 'stage="last_image_to_pacs"' in text
    for role in ("receive", "assemble", "infer", "deliver", "web", "supervisor"):
        assert f'role="{role}"' in text
