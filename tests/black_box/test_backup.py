"""The runbook's back-up and restore, walked through: a copy of a running node, while images arrive."""

import shutil
import sqlite3
from pathlib import Path

from ai_models.phantoms.dicom import write_ct_series
from ai_models.phantoms.thorax import thorax
from dicom_node.deliver import scu
from dicom_node.store.spool import part10, records
from tests.harness import Node, node, settled


def send(to: Node, folder: Path, seed: int) -> list[Path]:
    files = write_ct_series(thorax((8, 32, 32), (10.0, 8.0, 8.0), seed=seed), folder, seed=seed)
    address = scu.Address(to.address.host, to.address.port, to.address.ae_title, "CT1")
    assert {answer.status for _, answer in scu.store(address, files)} == {0}
    return files


def held(spool: Path) -> set[bytes]:
    """Every instance that lies in a spool, as a file."""
    segments = sorted(spool.glob("*.segment"))
    return {part10(spool, meta, at) for path in segments for meta, at in records(path)}


def test_what_arrives_between_the_two_copies_is_found_again(tmp_path: Path) -> None:
    """Database first, spool second, the node running: nothing that was answered with 0000 is missing."""
    kept = tmp_path / "kept"
    kept.mkdir()
    with node(tmp_path / "node", "") as running:
        data = running.settings.data_dir
        send(running, tmp_path / "first", 1)
        running.wait_for(settled(1))
        with (
            sqlite3.connect(data / "node.sqlite") as live,
            sqlite3.connect(kept / "node.sqlite") as to,
        ):
            live.backup(to)
        send(running, tmp_path / "second", 2)
        running.wait_for(settled(2))
        shutil.copytree(data / "spool", kept / "spool")
        shutil.copytree(data / "results", kept / "results")
        before = held(data / "spool")
    assert len(before) == 16
    shutil.rmtree(data)
    shutil.copytree(kept, data)
    with node(tmp_path / "node", "") as restored:
        series = restored.wait_for(settled(2))
        assert sorted(row["instances"] for row in series) == [8, 8]
        assert held(data / "spool") == before
