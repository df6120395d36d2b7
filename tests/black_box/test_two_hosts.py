"""Two hosts on one PostgreSQL: one study over two receivers, a worker that sees half of it, a host lost."""

import os
import signal
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from pydicom import dcmread
from sqlalchemy import select

from dicom_node.deliver import scu
from dicom_node.demo.pacs import FolderPacs, folder_pacs
from dicom_node.records import Ending
from dicom_node.store.database import Engine, connect, reading
from dicom_node.store.tables import association, duty, instance, transition
from tests.black_box.test_killed_node import scans
from tests.builders.bundles import write_bundle
from tests.builders.postgresql import postgresql_server
from tests.harness import Node, node, settled

pytestmark = [
    pytest.mark.peer("postgresql"),
    pytest.mark.xdist_group("two_hosts"),
    pytest.mark.slow,
]

TOML = """
database_url = "{url}"
models_dir = "{models}"
[receive]
port = 0
accept_any_peer = true
[assemble]
settle_seconds = 2.0
idle_seconds = 2.0
ceiling_seconds = 4.0
[infer]
device = "cpu"
threads = 1
processes = {workers}
[share]
port = 0
[web]
enabled = false
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


class Hosts:
    """Two nodes, each with a data folder of its own; only the second infers."""

    def __init__(self, first: Node, second: Node, pacs: FolderPacs, engine: Engine) -> None:
        self.first, self.second, self.pacs, self.engine = first, second, pacs, engine

    def rows(self, query: object) -> list[object]:
        with reading(self.engine) as connection:
            return list(connection.execute(query).scalars())  # type: ignore[call-overload]


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    place = tmp_path_factory.mktemp("hosts")
    write_bundle(place / "models" / "bright")
    with postgresql_server() as server, folder_pacs(place / "pacs") as pacs:
        assert isinstance(pacs, FolderPacs)
        url = server.new_database()

        def toml(workers: int) -> str:
            return TOML.format(url=url, models=place / "models", pacs=pacs, workers=workers)

        with node(place / "a", toml(0)) as first, node(place / "b", toml(1)) as second:
            engine = connect(url)
            yield Hosts(first, second, pacs, engine)
            engine.dispose()


def study(folder: Path) -> tuple[list[Path], str]:
    folder.mkdir()
    (files,) = scans(folder, 1)
    return files, str(dcmread(files[0]).StudyInstanceUID)


def send(to: Node, files: list[Path]) -> None:
    address = scu.Address(to.address.host, to.address.port, to.address.ae_title, "SCANNER")
    assert [answer.status for _, answer in scu.store(address, files)] == [0] * len(files)


def test_a_study_over_two_receivers_becomes_one_job_where_half_of_it_is_not_seen(
    hosts: Hosts, tmp_path: Path
) -> None:
    files, uid = study(tmp_path / "scan")
    send(hosts.first, files[::2])
    send(hosts.second, files[1::2])
    rows = hosts.second.wait_for(
        lambda rows: settled(1)([row for row in rows if row["study_uid"] == uid])
    )
    (last,) = [row for row in rows if row["study_uid"] == uid and row["state"] == "QUEUED"]
    assert last["instances"] == len(files)
    (job,) = last["jobs"]
    assert (job["state"], job["outcome"]) == ("STORED", "succeeded"), job
    folders = hosts.rows(
        select(association.c.folder_id)
        .join(instance, instance.c.association_id == association.c.id)
        .where(instance.c.study_uid == uid)
        .distinct()
    )
    assert len(set(folders)) == 2
    made = {one["sop_instance_uid"] for one in job["results"]}
    assert {str(hosts.pacs.read(each).StudyInstanceUID) for each in made} == {uid}
    assert all(
        one["path"].startswith(str(hosts.second.settings.data_dir)) for one in job["results"]
    )
    assert sent_twice(hosts) == []
    # what only one may do has one holder
    assert len(hosts.rows(select(duty.c.name).where(duty.c.name == "census"))) == 1


def sent_twice(hosts: Hosts) -> list[object]:
    """Deliveries that a PACS took more than once; there are some that it took."""
    moves = hosts.rows(
        select(transition.c.entity_id).where(
            transition.c.entity == "delivery", transition.c.new == "SENT"
        )
    )
    assert moves
    return [one for one, times in Counter(moves).items() if times > 1]


def kill_receiver(of: Node) -> None:
    for child in psutil.Process(of.process.pid).children():
        if "receive" in child.cmdline():
            os.kill(child.pid, signal.SIGKILL)


def open_ones(hosts: Hosts) -> list[object]:
    return hosts.rows(select(association.c.ending).where(association.c.ending.is_(None)))


def wait(condition: object, seconds: float = 30.0) -> None:
    """Until a condition holds."""
    ticks = threading.Event()
    for _ in range(int(seconds / 0.1)):
        if condition():  # type: ignore[operator]
            return
        ticks.wait(0.1)
    raise AssertionError("it never came to be")


def test_a_receiver_lost_with_its_association_open_loses_nothing_and_its_neighbour_leaves_it_alone(
    hosts: Hosts, tmp_path: Path
) -> None:
    files, uid = study(tmp_path / "scan")
    sent, go_on = threading.Event(), threading.Event()

    def slowly() -> None:
        to = hosts.first.address
        address = scu.Address(to.host, to.port, to.ae_title, "SCANNER", timeout=60.0)
        try:
            for number, _ in enumerate(scu.store(address, files)):
                if number == 2:
                    sent.set()
                    go_on.wait(60)
        except Exception:
            pass  # its peer is killed

    scanner = threading.Thread(target=slowly)
    scanner.start()
    assert sent.wait(30)
    wait(lambda: len(open_ones(hosts)) == 1)
    # the neighbour's receiver begins anew, and recovers: its own, nothing else
    kill_receiver(hosts.second)
    with socket.create_connection((hosts.second.address.host, hosts.second.address.port), 30):
        pass
    other, other_uid = study(tmp_path / "other")
    send(hosts.second, other)
    hosts.second.wait_for(
        lambda rows: settled(1)([row for row in rows if row["study_uid"] == other_uid])
    )
    assert len(open_ones(hosts)) == 1
    kill_receiver(hosts.first)
    go_on.set()
    scanner.join(60)
    wait(lambda: not open_ones(hosts))
    acknowledged = hosts.rows(
        select(instance.c.sop_instance_uid).where(instance.c.study_uid == uid)
    )
    assert {str(dcmread(path).SOPInstanceUID) for path in files[:3]} <= set(acknowledged)
    assert Ending.LOST in hosts.rows(select(association.c.ending))
    assert sent_twice(hosts) == []
