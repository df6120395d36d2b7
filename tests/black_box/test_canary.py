"""The canary: the node sends itself a phantom, works on it, delivers it to itself, and says so."""

from pathlib import Path

import pytest

from dicom_node.app.opened import canary_log
from dicom_node.demo.pacs import free_port
from dicom_node.store.database import open_database
from tests.builders.bundles import write_bundle
from tests.harness import node

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("killed_node")]

TOML = """
models_dir = "{models}"
[receive]
port = {port}
[[peer]]
ae_title = "DN_CANARY"
[[peer]]
ae_title = "DICOM_NODE"
[assemble]
settle_seconds = 0.5
idle_seconds = 1.0
[infer]
device = "cpu"
threads = 1
[web]
enabled = false
[destination.self]
ae_title = "DICOM_NODE"
host = "127.0.0.1"
port = {port}
[canary]
every_seconds = 3600
models = ["bright"]
destinations = ["self"]
"""


def test_the_canary_arrives(tmp_path: Path) -> None:
    write_bundle(tmp_path / "models" / "bright")
    toml = TOML.format(models=tmp_path / "models", port=free_port())
    with node(tmp_path / "node", toml) as running:
        log = canary_log(running.settings, open_database(running.settings.effective_database_url))
        running.wait_for(lambda _: (run := log.last()) is not None and run.outcome == "delivered")
        # what it made came back, and was not processed once more
        rows = running.wait_for(
            lambda rows: len([row for row in rows if row["state"] == "NO_ROUTE"]) == 2
        )
    (run,) = log.runs()
    assert run.reason == ""
    assert run.seconds is not None
    assert 0 < run.seconds < run.age
    ours = [row for row in rows if row["state"] == "NO_ROUTE"]
    assert ["own output" in row["reason"] for row in ours] == [True, True]
    assert {row["patient_id"] for row in rows} == {"PHANTOM-CANARY"}
    assert len(rows) == 3
