"""The processes of a node on one machine: starts each role, and starts again what died.

What comes in: settings and the configuration file that the children read too. What goes out: a running
node, `node.json` in the data folder that says where it listens, and after a signal, silence. SIGHUP reads the
configuration anew. It owns the listening socket, so that connections wait, rather than fail, while a receiver
is started again. A child ends by itself when the supervisor is gone, which holds the other end of its
standard input.
"""

import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

from dicom_node.app.checks import check_all
from dicom_node.app.run import on_record, worker_died
from dicom_node.app.stretch import Role
from dicom_node.errors import ConfigurationError
from dicom_node.observe.audit import Kind
from dicom_node.observe.logging import get_logger
from dicom_node.observe.metrics import FOLDER_VARIABLE, counting_folder
from dicom_node.observe.reload import Reload, forget_reloads, last_reload
from dicom_node.reload import first_snapshot, reloaded
from dicom_node.settings import Settings
from dicom_node.store.database import open_database
from dicom_node.web.listen import bind, url_of

log = get_logger(__name__)

BACKLOG = 128
STOP_SECONDS = 20.0
RESTART_FIRST_SECONDS = 0.5
RESTART_LONGEST_SECONDS = 30.0
RELOAD_SECONDS = 30.0
HEALTHY_SECONDS = 60.0
"""A child that lived so long starts again at once when it dies."""


@dataclass(frozen=True, slots=True)
class RunningNode:
    """What `node.json` says of a node that runs."""

    pid: int
    ae_title: str
    host: str
    port: int
    page: str | None = None
    """The address of the page, where it is served."""


@dataclass(slots=True)
class _Child:
    role: Role
    number: int
    metrics: Path
    listener: socket.socket | None = None
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    restart_at: float = 0.0
    deaths: int = 0

    def __str__(self) -> str:
        return f"{self.role.value}-{self.number}"


def running_node(data_dir: Path) -> RunningNode | None:
    """The node that runs on this data folder; None if there is none."""
    try:
        with (data_dir / "lock").open("r") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return None  # nobody holds the lock
    except FileNotFoundError:
        return None
    except OSError:
        try:
            return RunningNode(**json.loads((data_dir / "node.json").read_text()))
        except (OSError, ValueError, TypeError):
            return None  # it has just begun to start, or has just ended


def ports_of(node: RunningNode | None) -> set[int]:
    """The ports that a node that runs holds."""
    if node is None:
        return set()
    page = urlsplit(node.page).port if node.page else None
    return {node.port} | ({page} if page else set())


def reload_running(data_dir: Path) -> Reload:
    """Have the node on this folder read its configuration anew; returns what came of it.

    Raises:
        ConfigurationError: no node runs there, or it does not answer.
    """
    node, before = running_node(data_dir), last_reload(data_dir)
    if node is None:
        raise ConfigurationError(f"data_dir: no node runs on {data_dir}")
    os.kill(node.pid, signal.SIGHUP)
    until = time.monotonic() + RELOAD_SECONDS
    while time.monotonic() < until:
        if (found := last_reload(data_dir)) is not None and found != before:
            return found
        time.sleep(0.05)
    raise ConfigurationError("the node has not answered; its log says more")


def tell_findings(settings: Settings) -> None:
    """Log what the quick checks have to say against this machine; nothing keeps the node from starting."""
    # imported here: the roles begin in this module too, and need none of it
    from dicom_node.doctor import Verdict, examine_quickly

    for one in examine_quickly(settings):
        if one.verdict is Verdict.FAILED:
            log.error("start-up check failed", check=one.id, found=one.told, hint=one.hint)
        elif one.verdict is Verdict.WARNING:
            log.warning("start-up check warns", check=one.id, found=one.told, hint=one.hint)


def serve(settings: Settings, config: Path | None) -> None:
    """Run a whole node until SIGTERM or SIGINT.

    Raises:
        ConfigurationError: the port is taken, the data folder is in use, a route names no model.
    """
    snapshot = first_snapshot(settings, check_all(settings))
    stop, told = threading.Event(), threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    signal.signal(signal.SIGHUP, lambda *_: told.set())
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    with (
        _locked(settings.data_dir),
        _listening(settings) as listener,
        _page_listening(settings) as page_listener,
    ):
        forget_reloads(settings.data_dir)
        in_effect = snapshot.write()
        # migrate once, before the children
        open_database(settings.effective_database_url).dispose()
        host, port = listener.getsockname()[:2]
        metrics = counting_folder(settings.data_dir)
        page = url_of(settings.web, page_listener) if page_listener else None
        node = RunningNode(os.getpid(), settings.receive.ae_title, host, port, page)
        (settings.data_dir / "node.json").write_text(json.dumps(asdict(node)))
        children = [
            _Child(Role.RECEIVE, n, metrics, listener)
            for n in range(settings.receive.effective_processes)
        ]
        children += [_Child(role, 0, metrics) for role in (Role.ASSEMBLE, Role.DELIVER)]
        children += [_Child(Role.INFER, n, metrics) for n in range(settings.infer.processes)]
        if settings.share.port is not None:
            children.append(_Child(Role.SHARE, 0, metrics))
        if page_listener:
            children.append(_Child(Role.WEB, 0, metrics, page_listener))
        tell_findings(settings)
        on_record(settings, Kind.START)
        log.info("node starts", ae_title=node.ae_title, host=host, port=port, page=page)
        try:
            while not stop.wait(0.1):
                if told.is_set():
                    told.clear()
                    if (new := reloaded(snapshot, config)) is not snapshot:
                        snapshot = new
                        snapshot.write()
                for child in children:
                    _keep_alive(child, in_effect, settings)
        finally:
            _end_all(children)
            on_record(settings, Kind.STOP)
            (settings.data_dir / "node.json").unlink(missing_ok=True)
            shutil.rmtree(metrics, ignore_errors=True)
            in_effect.unlink(missing_ok=True)  # it holds what secrets the configuration holds
            log.info("node stopped")


@contextmanager
def _locked(data_dir: Path) -> Iterator[None]:
    """Hold the data folder: two nodes on one folder would share a spool that each believes its own."""
    lock: IO[str]
    with (data_dir / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ConfigurationError(f"data_dir: another node runs on {data_dir}") from error
        yield


@contextmanager
def _listening(settings: Settings) -> Iterator[socket.socket]:
    address = (settings.receive.host, settings.receive.port)
    family = socket.AF_INET6 if ":" in settings.receive.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(address)
        except OSError as error:
            raise ConfigurationError(
                f"receive.port: cannot listen on {address[0]}:{address[1]} ({error.strerror})"
            ) from error
        listener.listen(BACKLOG)
        yield listener


@contextmanager
def _page_listening(settings: Settings) -> Iterator[socket.socket | None]:
    if not settings.web.enabled:
        yield None
        return
    with bind(settings.web) as listener:
        yield listener


def _keep_alive(child: _Child, config: Path, settings: Settings) -> None:
    now = time.monotonic()
    if child.process is None:
        if now >= child.restart_at:
            _start(child, config)
        return
    code = child.process.poll()
    if code is None:
        return
    pid, child.process = child.process.pid, None
    if child.role is Role.INFER:
        worker_died(settings, pid, code)
    if now - child.started > HEALTHY_SECONDS:
        child.deaths = 0
    wait = min(RESTART_LONGEST_SECONDS, RESTART_FIRST_SECONDS * 2.0**child.deaths)
    child.deaths += 1
    child.restart_at = now + wait
    log.error("process died", process=str(child), code=code, restart_in=wait)


def _start(child: _Child, config: Path) -> None:
    command = [sys.executable, "-m", "dicom_node", "serve", "--role", child.role.value]
    command += ["--supervised", "--config", str(config)]
    inherited: tuple[int, ...] = ()
    if child.listener is not None:
        inherited = (child.listener.fileno(),)
        command += ["--listen-fd", str(child.listener.fileno())]
    # a session of its own: Ctrl-C reaches the supervisor alone, which then ends the children in order
    child.process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        pass_fds=inherited,
        start_new_session=True,
        env=os.environ | {FOLDER_VARIABLE: str(child.metrics)},
    )
    child.started = time.monotonic()


def _end_all(children: list[_Child]) -> None:
    """Receivers first, so that nothing new comes in while the rest finishes what it holds."""
    deadline = time.monotonic() + STOP_SECONDS
    alive = [child.process for child in children if child.process is not None]
    for process in alive:
        process.terminate()
    for process in alive:
        try:
            process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
