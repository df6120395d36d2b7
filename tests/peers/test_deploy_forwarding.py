"""The set-up of deploy/compose.yaml acted out with plain processes: Orthanc forwards by the very script that
is shipped, the results come back to it, what the node made is not forwarded again, and OHIF shows it all."""

import json
import os
import time
import urllib.request
from pathlib import Path

import pytest

from ai_models.phantoms.dicom import write_ct_series
from ai_models.phantoms.thorax import thorax
from dicom_node.deliver import scu
from dicom_node.demo.pacs import orthanc_pacs
from dicom_node.settings import BUNDLED_MODELS
from tests.harness import node, settled
from tests.peers import ohif_viewer

pytestmark = [
    pytest.mark.peer("orthanc"),
    pytest.mark.xdist_group("forwarding"),
    pytest.mark.slow,
    pytest.mark.skipif(
        not (BUNDLED_MODELS / "ct_structures" / "models" / "model.safetensors").exists(),
        reason="ct_structures has no weights",
    ),
]

DEPLOY = Path(__file__).resolve().parent.parent.parent / "deploy"
TOML = """
[[peer]]
ae_title = "{pacs.ae_title}"
[destination.orthanc]
ae_title = "{pacs.ae_title}"
host = "127.0.0.1"
port = {pacs.port}
confirm = "query"
[infer]
threads = 1
[receive]
port = 0
[[route]]
name = "ct-structures"
models = ["ct_structures"]
destinations = ["orthanc"]
[route.match]
modality = ["CT"]
"""


def test_orthanc_forwards_and_gets_its_results_and_sends_none_of_them_back(tmp_path: Path) -> None:
    shipped = json.loads((DEPLOY / "compose" / "orthanc.json").read_text())
    further = {
        key: shipped[key]
        for key in ("DicomAlwaysAllowEcho", "UnknownSopClassAccepted", "OverwriteInstances")
    }
    viewable = ohif_viewer.missing() is None
    further |= ohif_viewer.dicom_web() if viewable else {}
    further |= {"LuaScripts": [str(DEPLOY / "compose" / "forward.lua")], "StableAge": 2}
    with (
        orthanc_pacs(tmp_path / "orthanc", **further) as pacs,
        node(tmp_path / "node", TOML.format(pacs=pacs)) as running,
    ):
        modality = {
            "AET": running.address.ae_title,
            "Host": running.address.host,
            "Port": running.address.port,
        }
        request = urllib.request.Request(
            f"http://127.0.0.1:{pacs.http_port}/modalities/node",
            data=json.dumps(modality).encode(),
            method="PUT",
        )
        urllib.request.urlopen(request, timeout=10).close()
        files = write_ct_series(
            thorax((24, 96, 96), (10.0, 3.6, 3.6), seed=3), tmp_path / "scanner", seed=3
        )
        scanner = scu.Address("127.0.0.1", pacs.port, pacs.ae_title, "CT1")
        assert {answer.status for _, answer in scu.store(scanner, files)} == {0}
        series = running.wait_for(settled(1))
        (row,) = series
        assert row["calling_ae"] == pacs.ae_title
        results = row["jobs"][0]["results"]
        assert {result["kind"] for result in results} == {"seg", "sr"}
        assert all(result["delivery"] == "CONFIRMED" for result in results)
        assert {result["sop_instance_uid"] for result in results} <= set(pacs.received())
        _wait_until_stable(pacs.http_port, 3)
        assert len(running.series()) == 1, "nothing that the node made came back to it"
        if viewable:
            _look(pacs.url, row["study_uid"])
        elif os.environ.get("DICOM_NODE_REQUIRE_PEERS"):
            pytest.fail(str(ohif_viewer.missing()))


def _look(orthanc: str, study_uid: str) -> None:
    """A radiologist opens the study in OHIF as it is configured in compose.yaml."""
    shipped = (DEPLOY / "compose" / "ohif.js").read_text()
    config = shipped.replace(
        "option: 'always'", "option: 'never'"
    )  # a notice that a person clicks away
    assert config != shipped
    with ohif_viewer.ohif(orthanc, config) as viewer:
        told = viewer.show(study_uid, ["SEG", "SR"], expected=3)
    assert told["errors"] == []
    (segmentation,) = told["series"]["SEG"]["segmentations"]
    assert "Left lung" in [segment["label"] for segment in segmentation["segments"]]
    assert sum(segmentation["counts"].values()) > 1000


def _wait_until_stable(http_port: int, count: int) -> None:
    """Orthanc has called its script for so many series."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with urllib.request.urlopen(
            f"http://127.0.0.1:{http_port}/series?expand", timeout=10
        ) as answer:
            series = json.load(answer)
        if len(series) == count and all(one["IsStable"] for one in series):
            return
        time.sleep(0.2)
    raise AssertionError("Orthanc's series do not become stable")
