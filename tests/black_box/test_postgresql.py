"""A whole node on PostgreSQL, by one setting; PostgreSQL is restarted while studies come and go."""

import urllib.error
import urllib.request
from pathlib import Path

import pytest

from dicom_node.demo.pacs import folder_pacs
from dicom_node.store.database import connect, reading
from tests.black_box.test_killed_node import scans, sending
from tests.builders.bundles import write_bundle
from tests.builders.postgresql import postgresql_server
from tests.harness import Node, node, settled

pytestmark = [
    pytest.mark.peer("postgresql"),
    pytest.mark.xdist_group("killed_node"),
    pytest.mark.slow,
]

TOML = """
database_url = "{url}"
models_dir = "{models}"
[receive]
port = 0
accept_any_peer = true
[assemble]
settle_seconds = 0.5
idle_seconds = 2.0
[infer]
device = "cpu"
threads = 1
[deliver]
retry_first_seconds = 0.2
retry_longest_seconds = 2.0
[destination.pacs]
ae_title = "{pacs.ae_title}"
host = "127.0.0.1"
port = {pacs.port}
[[route]]
name = "ct"
models = ["bright"]
destinations = ["pacs"]
[route.match]
modality = ["CT"]
"""


def page_status(of: Node) -> int:
    """What the page's API answers to a stranger."""
    request = urllib.request.Request(
        f"{of.address.page}api/v1/studies", headers={"Authorization": "Bearer dn_none"}
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_every_series_is_delivered_once_though_postgresql_restarts_twice(tmp_path: Path) -> None:
    write_bundle(tmp_path / "models" / "bright")
    (tmp_path / "scans").mkdir()
    studies = scans(tmp_path / "scans", 4)
    with postgresql_server() as server, folder_pacs(tmp_path / "pacs") as pacs:
        url = server.new_database()
        toml = TOML.format(url=url, models=tmp_path / "models", pacs=pacs)
        with node(tmp_path / "node", toml) as running:
            assert page_status(running) == 401
            with sending(running, studies):
                for wanted in (1, 2):
                    running.wait_for(lambda rows, n=wanted: len(rows) >= n)
                    server.stop()
                    assert page_status(running) == 503
                    server.start()
            rows = running.wait_for(settled(len(studies)))
            log = running.log.read_text()
        assert not (running.settings.data_dir / "node.sqlite").exists()
        with reading(connect(url)) as connection:
            assert connection.dialect.name == "postgresql"
    last = {row["series_uid"]: row for row in rows}
    assert len(last) == len(studies)
    wanted_uids = set()
    for row in last.values():
        (job,) = row["jobs"]
        assert (job["state"], job["outcome"], job["attempts"]) == ("STORED", "succeeded", 1)
        assert {(one["kind"], one["delivery"]) for one in job["results"]} == {
            ("seg", "CONFIRMED"),
            ("sr", "CONFIRMED"),
        }
        assert {one["attempts"] for one in job["results"]} == {1}
        wanted_uids |= {one["sop_instance_uid"] for one in job["results"]}
    assert wanted_uids <= set(pacs.received())
    # every role waited for it; none had to be started again
    assert "process died" not in log
    assert "database is back" in log
