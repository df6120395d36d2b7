"""The configuration of a node that runs is read anew: nobody is cut off, and nothing broken takes effect."""

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import psutil
import pytest
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian
from pynetdicom import AE

from dicom_node.deliver import scu
from dicom_node.errors import PeerRefused
from dicom_node.observe.reload import Reload
from dicom_node.supervisor import reload_running
from tests.builders.datasets import ct_slice
from tests.harness import Node, node

pytestmark = pytest.mark.xdist_group("reload")

PEERS = """
[receive]
port = 0
{receive}

[log]
format = "json"
"""
SCANNER = '[[peer]]\nae_title = "SCANNER"\n'
OTHER = '[[peer]]\nae_title = "OTHER"\n'


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with node(tmp_path_factory.mktemp("reload"), PEERS.format(receive="") + SCANNER) as started:
        yield started


def write(node: Node, *peers: str, receive: str = "", further: str = "") -> None:
    head = f'data_dir = "{node.settings.data_dir}"\n{further}\n'
    node.config.write_text(head + PEERS.format(receive=receive) + "".join(peers))


def command(node: Node) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "dicom_node", "reload", "--config", str(node.config)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def reload(node: Node) -> Reload:
    """What the command does, without starting a program for it."""
    return reload_running(node.settings.data_dir)


def address(node: Node, calling: str) -> scu.Address:
    return scu.Address("127.0.0.1", node.address.port, "DICOM_NODE", calling)


def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.05)


def echoes(node: Node, calling: str) -> bool:
    try:
        scu.echo(address(node, calling))
    except PeerRefused:
        return False
    return True


@contextmanager
def open_association(node: Node, calling: str) -> Iterator[Any]:
    ae = AE(calling)
    ae.add_requested_context(CTImageStorage, ExplicitVRLittleEndian)
    association = ae.associate("127.0.0.1", node.address.port, ae_title="DICOM_NODE")
    assert association.is_established
    try:
        yield association
    finally:
        association.release()


def sent() -> Dataset:
    made = ct_slice()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return made


def test_an_open_association_goes_on_and_a_new_peer_may_come(running: Node) -> None:
    assert not echoes(running, "OTHER")
    with open_association(running, "SCANNER") as association:
        assert association.send_c_store(sent()).Status == 0
        write(running, OTHER)
        done = command(running)
        assert done.returncode == 0, done.stderr
        assert done.stdout == "Changed: peer\n"
        until(lambda: echoes(running, "OTHER"))
        assert not echoes(running, "SCANNER")  # it is no peer any more, and still goes on
        assert association.send_c_store(sent()).Status == 0
    running.wait_for(lambda series: sum(one["instances"] for one in series) == 2)
    write(running, SCANNER)
    assert reload(running).changed == ("peer",)
    until(lambda: echoes(running, "SCANNER"))


def test_a_broken_file_changes_nothing_also_for_a_process_that_starts_anew(running: Node) -> None:
    running.config.write_text("[receive\n")
    refused = command(running)
    assert refused.returncode == 3
    assert "node.toml" in reload(running).error
    assert echoes(running, "SCANNER")
    (receiver,) = [
        child
        for child in psutil.Process(running.process.pid).children()
        if "receive" in child.cmdline()
    ]
    receiver.kill()
    receiver.wait(10)
    # the socket is the supervisor's: who comes meanwhile waits, and finds the peers of before
    assert echoes(running, "SCANNER")
    assert not echoes(running, "OTHER")
    write(running, SCANNER)
    assert reload(running).error == ""


def test_what_only_a_restart_changes_is_named_and_stays(running: Node) -> None:
    write(running, SCANNER, receive="processes = 2", further='database_url = "sqlite:////gone/x"')
    assert reload(running).waiting == ("database_url", "receive.processes")
    assert echoes(running, "SCANNER")
    assert running.series() is not None
    in_effect = json.loads((running.settings.data_dir / "config-in-effect.json").read_text())
    assert in_effect["settings"]["receive"]["processes"] == running.settings.receive.processes
    assert in_effect["settings"]["database_url"] is None
    write(running, SCANNER)
    assert reload(running).changed == ()


def test_a_refused_rule_is_found_before_any_listener_sees_it(running: Node) -> None:
    write(running, SCANNER, '[[peer]]\nae_title = "X"\naddress = "no address"\n')
    assert "is no address" in reload(running).error
    assert echoes(running, "SCANNER")


def shown_at(client: httpx.Client, path: str) -> str:
    """A page; while its process begins again with other settings it may be away, which shows nothing new."""
    try:
        return client.get(path).text
    except httpx.TransportError:
        return "reload-state unknown"


def test_an_admin_reloads_from_the_page_and_sees_why_not(running: Node) -> None:
    assert running.address.page
    first_password = running.settings.data_dir / "first-password"
    until(first_password.is_file)  # the page's process writes it in its own time
    given = first_password.read_text().strip()
    with httpx.Client(base_url=running.address.page, timeout=30) as client:
        client.post("/login", data={"name": "admin", "password": given})
        csrf = re.search(r'name="csrf" value="(\w+)"', client.get("/password").text)
        assert csrf
        chosen = "a password of my own"
        changed = {"old": given, "new": chosen, "csrf": csrf[1]}
        assert client.post("/password", data=changed).status_code == 303
        client.post("/login", data={"name": "admin", "password": chosen})
        shown = client.get("/configuration").text
        csrf = re.search(r'name="csrf" value="(\w+)"', shown)
        assert csrf
        running.config.write_text("data_dri = 1\n")
        assert client.post("/configuration/reload", data={"csrf": "forged"}).status_code == 403
        told = client.post("/configuration/reload", data={"csrf": csrf[1]}, follow_redirects=True)
        assert "did you mean &#39;data_dir&#39;?" in told.text
        assert "goes on with the one before it" in client.get("/").text
        assert "dicom_node_configuration_reload_ok 0.0" in client.get("/metrics").text
        write(running, SCANNER, OTHER)
        again = client.post("/api/v1/reload", headers={"X-CSRF-Token": csrf[1]})
        assert again.json()["error"] == ""
        assert again.json()["changed"] == ["peer"]
        until(lambda: "reload-state" not in shown_at(client, "/"))
        assert "dicom_node_configuration_reload_ok 1.0" in client.get("/metrics").text
    until(lambda: echoes(running, "OTHER"))
    log = running.log.read_text()
    assert "configuration kept" in log
    assert [line for line in log.splitlines() if "process died" in line and "-9" not in line] == []
