"""One role in this process: run until told to stop, and go over to other settings when there are any.

What comes in: a role, its settings, where further settings come from: the supervisor's file, or, for a role
that runs alone, the configuration and SIGHUP. What goes out: the role, running. A receiver adopts settings
while its associations stay open; the others finish what they hold in hand and begin again in this same
process; none does anything about settings that are not its own.
"""

import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from dicom_node.app.checks import check_all
from dicom_node.app.run import on_record, run_role
from dicom_node.app.stretch import Adoption, Role
from dicom_node.errors import NodeError
from dicom_node.observe.audit import Kind
from dicom_node.observe.logging import get_logger
from dicom_node.reload import Snapshot, first_snapshot, reloaded
from dicom_node.settings import Settings
from dicom_node.settings.change import changes

log = get_logger(__name__)

LOOK_SECONDS = 0.25
OWN = {
    Role.RECEIVE: {"receive", "peer"},
    Role.INFER: {
        *("infer", "models_dir", "models", "destination", "route", "canary", "share"),
        *("not_for_clinical_use", "institution_serial"),
    },
    Role.DELIVER: {"deliver", "destination", "peer", "receive", "canary"},
}
"""The settings that concern a role, where that is not all of them."""


def concerns(role: Role, changed: tuple[str, ...]) -> bool:
    """Whether a role has to do anything about settings that changed. Pure."""
    own = OWN.get(role)
    return bool(changed) and (own is None or bool(own & {n.partition(".")[0] for n in changed}))


class Tenant:
    """A role that runs on one set of settings after the other."""

    def __init__(
        self,
        role: Role,
        snapshot: Snapshot,
        listener: socket.socket | None,
        ask_reload: Callable[[], None],
    ) -> None:
        self._role = role
        self._snapshot = snapshot
        self._listener = listener
        self._ask_reload = ask_reload
        self._adoption = Adoption()
        self._lock = threading.Lock()
        self._ended = False
        self._stop = threading.Event()
        """Of the stretch that runs now."""

    @property
    def snapshot(self) -> Snapshot:
        """What it runs on, or is about to."""
        return self._snapshot

    def end(self) -> None:
        """Stop for good; safe in a signal handler."""
        self._ended = True
        self._stop.set()

    def change_to(self, new: Snapshot) -> None:
        """Go over to other settings."""
        with self._lock:
            old, self._snapshot = self._snapshot, new
            changed = changes(old.settings, new.settings)
            if old.models != new.models:
                changed = (*changed, "models")
            if not concerns(self._role, changed):
                return
            adopt = self._adoption.act
            if adopt is None:
                self._stop.set()
                return
        try:
            adopt(new.settings)
        except (NodeError, OSError) as error:
            log.error("settings not adopted", role=self._role.value, reason=str(error))
        else:
            log.info("settings adopted", role=self._role.value, changed=changed)

    def run(self) -> None:
        """Run until `end`."""
        while self._begins():
            # a stretch closes its socket; the next one listens on the same
            listener = None if self._listener is None else self._listener.dup()
            run_role(
                self._role,
                self._snapshot.settings,
                self._stop,
                listener,
                self._adoption,
                self._ask_reload,
            )
            log.debug("role ends this stretch", role=self._role.value)

    def _begins(self) -> bool:
        """Prepare the next stretch; False where it was told to stop, also while this was done."""
        with self._lock:
            self._stop = threading.Event()
        return not self._ended


def run_supervised(role: Role, config: Path, listen_fd: int | None) -> None:
    """Run one role under a supervisor, whose file `config` is, until a signal or until it is gone."""
    listener = None if listen_fd is None else socket.socket(fileno=listen_fd)
    supervisor = os.getppid()
    seen = config.stat().st_mtime_ns
    tenant = Tenant(
        role, Snapshot.read(config), listener, lambda: os.kill(supervisor, signal.SIGHUP)
    )
    ended = threading.Event()

    def watch() -> None:
        nonlocal seen
        while not ended.wait(LOOK_SECONDS):
            try:
                if (now := config.stat().st_mtime_ns) != seen:
                    tenant.change_to(Snapshot.read(config))
                    seen = now
            except (NodeError, OSError, ValueError) as error:
                log.error("settings not read", error=type(error).__name__)

    _end_on_signals(tenant)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # the supervisor's business
    threading.Thread(target=_wait_for_orphanhood, args=(tenant,), daemon=True).start()
    threading.Thread(target=watch, daemon=True).start()
    tenant.run()


def run_alone(role: Role, settings: Settings, config: Path | None) -> None:
    """Run one role until a signal; SIGHUP reloads the configuration."""
    told = threading.Event()
    tenant = Tenant(role, first_snapshot(settings, check_all(settings)), None, told.set)

    def watch() -> None:
        while told.wait():
            told.clear()
            tenant.change_to(reloaded(tenant.snapshot, config))

    _end_on_signals(tenant)
    signal.signal(signal.SIGHUP, lambda *_: told.set())
    threading.Thread(target=watch, daemon=True).start()
    on_record(settings, Kind.START)
    try:
        tenant.run()
    finally:
        on_record(settings, Kind.STOP)


def _end_on_signals(tenant: Tenant) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: tenant.end())


def _wait_for_orphanhood(tenant: Tenant) -> None:
    while os.read(sys.stdin.fileno(), 1):
        pass
    tenant.end()
