"""Start-up checks against real disks, sockets, certificates, databases and peers."""

import json
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert, text

from dicom_node.demo.pacs import folder_pacs, free_port
from dicom_node.doctor import Finding, Verdict, disk, examine_quickly, keys, machine, parts, peers
from dicom_node.receive.certificates import make_test_certificates
from dicom_node.settings import BUNDLED_MODELS, Settings
from dicom_node.store.database import open_database, utc_now
from dicom_node.store.tables import transition

MEMORY = Path("/dev/shm")
in_memory = pytest.mark.skipif(
    disk.filesystem(MEMORY) is None or disk.filesystem(MEMORY)[0] != "tmpfs",  # type: ignore[index]
    reason="no file system in memory",
)


def by_id(findings: Iterator[Finding]) -> dict[str, Finding]:
    return {one.id: one for one in findings}


def settings(tmp_path: Path, **values: Any) -> Settings:
    (tmp_path / "data").mkdir(mode=0o700, exist_ok=True)
    return Settings(data_dir=tmp_path / "data", **values)


@in_memory
def test_a_folder_in_memory_is_no_disk() -> None:
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        of_memory = Settings(data_dir=Path(folder))
        kind = by_id(disk.kind(of_memory))["disk.filesystem"]
        assert kind.verdict is Verdict.FAILED
        assert "gone after a restart" in kind.told
        sync = by_id(disk.speed(of_memory))["disk.sync"]
        assert sync.verdict is Verdict.FAILED
        assert "not honoured" in sync.told
        assert list(Path(folder).iterdir()) == []


def test_the_disk_is_measured_and_left_as_it_was(tmp_path: Path) -> None:
    measured = disk.measure(tmp_path)
    assert 0 < measured.sync_seconds < disk.PROBE_SECONDS
    assert measured.bytes_a_second > 0
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_told_before_a_scanner_tells_it(tmp_path: Path) -> None:
    total = shutil.disk_usage(tmp_path).total >> 20
    low = settings(tmp_path, receive={"disk_reserve_mb": total})
    assert by_id(disk.room(low))["disk.free"].verdict is Verdict.FAILED
    early = settings(tmp_path, receive={"disk_reserve_mb": 0}, retention={"keep_free_mb": total})
    assert by_id(disk.room(early))["disk.free"].verdict is Verdict.WARNING


def test_a_port_is_free_ours_or_taken(tmp_path: Path) -> None:
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        values = settings(tmp_path, receive={"port": port}, web={"port": 0})
        foreign = by_id(machine.ports(values, ()))["port.receive.port"]
        assert foreign.verdict is Verdict.FAILED
        assert str(port) in foreign.hint
        ours = by_id(machine.ports(values, {port}))["port.receive.port"]
        assert ours.verdict is Verdict.PASSED
    free = by_id(machine.ports(values, ()))["port.receive.port"]
    assert free.verdict is Verdict.PASSED


def test_a_key_that_others_may_read_is_found(tmp_path: Path) -> None:
    pair = make_test_certificates(tmp_path / "tls", ("node",))["node"]
    web = {"certificate": pair.certificate, "private_key": pair.key}
    values = settings(tmp_path, web=web)
    assert by_id(keys.secrets(values))["key.web.private_key"].verdict is Verdict.PASSED
    pair.key.chmod(0o644)
    found = by_id(keys.secrets(values))["key.web.private_key"]
    assert found.verdict is Verdict.FAILED
    assert found.hint == f"chmod 600 {pair.key}"


def test_a_certificate_is_told_before_it_ends(tmp_path: Path) -> None:
    pairs = make_test_certificates(tmp_path / "tls", ("node", "other"))
    web = {"certificate": pairs["node"].certificate, "private_key": pairs["node"].key}
    values, now = settings(tmp_path, web=web), utc_now()

    def on_day(days: float) -> Verdict:
        found = keys.certificates(values, now + timedelta(days=days))
        return by_id(found)["certificate.web"].verdict

    assert on_day(0) is Verdict.PASSED
    assert on_day(-1) is Verdict.FAILED
    ends = next(day for day in range(1, 4000, 7) if on_day(day) is not Verdict.PASSED)
    assert on_day(ends) is Verdict.WARNING
    assert on_day(ends + 40) is Verdict.FAILED
    mixed = settings(tmp_path, web=web | {"private_key": pairs["other"].key})
    found = by_id(keys.certificates(mixed, now))["certificate.web"]
    assert found.verdict is Verdict.FAILED
    assert "does not belong" in found.told


def test_a_database_of_another_version_and_one_of_tomorrow(tmp_path: Path) -> None:
    values = settings(tmp_path)
    assert "none yet" in by_id(parts.database(values, utc_now()))["database.schema"].told
    assert not (values.data_dir / "node.sqlite").exists()
    engine = open_database(values.effective_database_url)
    row = {"entity": "series", "entity_id": 1, "new": "OPEN", "reason": "", "old": None}
    with engine.begin() as connection:
        connection.execute(insert(transition).values(at=utc_now(), **row))
    found = by_id(parts.database(values, utc_now()))
    assert {one.verdict for one in found.values()} == {Verdict.PASSED}
    yesterday = by_id(parts.database(values, utc_now() - timedelta(days=1)))
    assert yesterday["clock.backwards"].verdict is Verdict.FAILED
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    engine.dispose()
    newer = by_id(parts.database(values, utc_now()))["database.schema"]
    assert newer.verdict is Verdict.FAILED
    assert "9999" in newer.told


def test_a_model_that_was_changed_or_is_not_there(tmp_path: Path) -> None:
    models = tmp_path / "models"
    shutil.copytree(BUNDLED_MODELS / "ct_structures", models / "ct_structures")
    (models / "ct_structures" / "SHA256SUMS").write_text("0" * 64 + "  dicom.toml\n")
    route = {"name": "r", "models": ["ct_structures", "gone"], "destinations": ["pacs"]}
    pacs = {"pacs": {"ae_title": "P", "host": "127.0.0.1", "port": 1}}
    values = settings(tmp_path, models_dir=models, destination=pacs, route=[route])
    found = by_id(parts.models(values))
    assert found["model.gone"].verdict is Verdict.FAILED
    assert found["model.ct_structures"].verdict is Verdict.FAILED
    assert "dicom.toml" in found["model.ct_structures"].told


@contextmanager
def web_service(date: str, status: int = 200) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response_only(status)
            self.send_header("Date", date)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Quiet."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/dicom-web"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_each_peer_is_asked_and_told_by_name(tmp_path: Path) -> None:
    with (
        folder_pacs(tmp_path / "pacs") as pacs,
        web_service("Mon, 05 Jan 2015 08:00:00 GMT") as late,
        web_service("", 503) as broken,
    ):
        here = {"ae_title": pacs.ae_title, "host": "127.0.0.1", "port": pacs.port}
        values = settings(
            tmp_path,
            destination={
                "here": here,
                "away": {"ae_title": "P", "host": "127.0.0.1", "port": free_port()},
                "late": here | {"stow_url": late},
                "broken": here | {"stow_url": broken},
            },
        )
        found = by_id(peers.answers(values))
    assert found["destination.here"].verdict is Verdict.PASSED
    assert found["destination.away"].verdict is Verdict.FAILED
    assert found["destination.late"].verdict is Verdict.PASSED
    assert found["clock.destination.late"].verdict is Verdict.WARNING
    assert "behind ours" in found["clock.destination.late"].told
    assert found["destination.broken"].verdict is Verdict.FAILED


def test_what_does_not_pass_says_what_to_do(tmp_path: Path) -> None:
    found = list(examine_quickly(settings(tmp_path, receive={"host": "0.0.0.0"})))
    assert len({one.id for one in found}) == len(found)
    for one in found:
        assert (one.verdict in (Verdict.PASSED, Verdict.SKIPPED)) is not bool(one.hint), one


def test_the_command_prints_json_and_fails_where_a_check_failed(tmp_path: Path) -> None:
    config = tmp_path / "node.toml"
    port = free_port()
    config.write_text(
        f'data_dir = "{tmp_path / "data"}"\n[receive]\nport = 0\naccept_any_peer = true\n'
        f"[web]\nport = 0\n[destination.pacs]\nae_title = 'P'\nhost = '127.0.0.1'\nport = {port}\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "dicom_node", "doctor", "--json", "-c", str(config)],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    found = {one["id"]: one for one in json.loads(done.stdout)}
    assert found["destination.pacs"]["verdict"] == "failed"
    assert found["port.receive.port"]["verdict"] == "passed"
    assert found["device"]["verdict"] in ("passed", "warning")
    assert not (tmp_path / "data").exists()
