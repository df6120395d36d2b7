"""Each role, wired to the store and run in this process until it is told to stop.

What comes in: settings. What goes out: a role that runs. The processes of a whole node are `supervisor`'s
business. What only one role needs is imported by it alone: a receiver has no use for torch.
"""

import json
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING

from dicom_node.app.checks import check
from dicom_node.app.opened import canary_log, opened_database
from dicom_node.app.stretch import Adoption, Role, Stretch, nobody_reloads
from dicom_node.assemble.loop import Assembler
from dicom_node.errors import DatabaseAway, PeerUnreachable
from dicom_node.observe.audit import Kind, message
from dicom_node.observe.exchange import application
from dicom_node.observe.logging import get_logger
from dicom_node.observe.recording import recording
from dicom_node.settings import Settings
from dicom_node.store.alarms import AlarmBook
from dicom_node.store.assembly import Assembly
from dicom_node.store.audit import AuditOutbox
from dicom_node.store.bell import Bell
from dicom_node.store.database import Engine, open_database
from dicom_node.store.deliveries import Outbox
from dicom_node.store.duties import Duty
from dicom_node.store.folders import Folders
from dicom_node.store.intake import Intake
from dicom_node.store.jobs import JobQueue
from dicom_node.store.patience import patient, patiently
from dicom_node.store.retention import Retention
from dicom_node.store.tally import Tally
from dicom_node.store.workers import Workers
from dicom_node.upkeep.alarms import Alarms, Watch, channels_of
from dicom_node.upkeep.audit import AuditCourier, sink_of
from dicom_node.upkeep.hosts import if_held, our_folder, reach_of, share_token, while_held
from dicom_node.upkeep.leases import LeaseWatch, take_back_from, worker_name
from dicom_node.upkeep.retention import Sweeper
from dicom_node.upkeep.timers import run_together, timers
from dicom_node.web.listen import bind

if TYPE_CHECKING:
    from dicom_node.infer.engine import Engine as InferenceEngine

log = get_logger(__name__)

LEASE_SWEEP_SECONDS = 1.0
AUDIT_SECONDS = 5.0
DEVICE_SECONDS = 15.0
TALLY_SECONDS = 30.0
WORKER_LOOKS_SECONDS = 2.0
"""How often a worker looks for jobs by itself while it can be woken."""
COURIER_LOOKS_SECONDS = 0.5
"""As above; retries fall due without a bell."""


def run_role(
    role: Role,
    settings: Settings,
    stop: threading.Event,
    listen_socket: socket.socket | None = None,
    adoption: Adoption | None = None,
    ask_reload: Callable[[], None] = nobody_reloads,
) -> None:
    """Run one role until `stop` is set.

    Args:
        role: which.
        settings: what it begins with.
        stop: ends it.
        listen_socket: where it listens, if a supervisor listens for it.
        adoption: gets the hand by which it takes over other settings, if it can while it runs.
        ask_reload: asks for the configuration to be read anew.
    """
    adoption = adoption or Adoption()
    adoption.act = None
    for folder in (settings.spool_dir, settings.results_dir):
        folder.mkdir(parents=True, exist_ok=True)
    try:
        engine = patiently(lambda: open_database(settings.effective_database_url), stop)
        try:
            write = patient(AuditOutbox(engine), stop).add
            with recording(write, settings.receive.ae_title):
                _PARTS[role](Stretch(settings, engine, stop, listen_socket, adoption, ask_reload))
        finally:
            engine.dispose()
    except DatabaseAway as error:
        # what was not written down yet is found again at the next start
        if not stop.is_set():
            raise
        log.warning("stopped while the database was away", reason=str(error))


def on_record(settings: Settings, kind: Kind) -> None:
    """Put on record that the node started, or stopped."""
    try:
        with opened_database(settings) as engine:
            ae_title = settings.receive.ae_title
            AuditOutbox(engine).add(message(application(ae_title, kind), ae_title))
    except DatabaseAway as error:
        log.error("not on record", event_id=kind.value[0], reason=str(error))


def worker_died(settings: Settings, pid: int, code: int) -> None:
    """Give what a dead inference worker held to the next one, or call it POISON after too many deaths."""
    reason = f"worker {worker_name(pid)} died ({_signal_name(code)})"
    try:
        with opened_database(settings) as engine:
            take_back_from(JobQueue(engine), worker_name(pid), reason)
    except DatabaseAway as error:
        # its lease runs out
        log.warning("dead worker not told of", reason=str(error))


def _signal_name(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def _receive(to: Stretch) -> None:
    from dicom_node.receive.scp import Receiver

    here = our_folder(to.settings, to.engine, to.stop)
    patient(Folders(to.engine), to.stop).adopt(here, to.settings.spool_dir)
    receiver = Receiver(to.settings, Intake(to.engine, here), listen_socket=to.listen_socket)
    to.adoption.act = receiver.adopt
    receiver.start()
    to.stop.wait()
    receiver.stop()


def _assemble(to: Stretch) -> None:
    settings, engine, stop = to.settings, to.engine, to.stop
    models = check(settings)
    leases = LeaseWatch(patient(JobQueue(engine), stop), settings.infer.lease_seconds)
    outbox = patient(AuditOutbox(engine), stop)
    audit = AuditCourier(outbox, sink_of(settings.audit, settings.data_dir))
    sweeper = Sweeper(
        settings, patient(Retention(engine, our_folder(settings, engine, stop)), stop)
    )
    with (
        Duty(engine, "audit", worker_name(os.getpid())) as duty,
        Bell(engine, "series", settings.assemble.poll_seconds) as bell,
        timers(
            (leases.sweep, LEASE_SWEEP_SECONDS),
            (sweeper.sweep, settings.retention.sweep_seconds),
            (if_held(duty, audit.send), AUDIT_SECONDS),
            (Tally(engine).compact, TALLY_SECONDS),
            *_alarms(settings, engine, stop),
        ),
    ):
        Assembler(settings, models, patient(Assembly(engine), stop), pause=bell.pause).run(stop)


def _alarms(
    settings: Settings, engine: Engine, stop: threading.Event
) -> list[tuple[Callable[[], None], float]]:
    """What tells people, where the configuration names any."""
    channels = channels_of(settings)
    if not channels:
        return []

    book = patient(AlarmBook(engine), stop)
    watch = Watch(settings, book, patient(canary_log(settings, engine), stop))
    alarms = Alarms(settings.alerts, book, watch, channels)
    return [(alarms.look, settings.alerts.look_seconds)]


def _infer(to: Stretch) -> None:
    from dicom_node.infer.device import memory_of, name_of
    from dicom_node.infer.engine import choose_device
    from dicom_node.infer.worker import Worker

    settings, engine, stop = to.settings, to.engine, to.stop
    owner = worker_name(os.getpid())
    here = our_folder(settings, engine, stop)
    queue = patient(JobQueue(engine, here), stop)
    reach = reach_of(settings, engine, here, stop)
    device = choose_device("cpu" if settings.infer.engine == "ray" else settings.infer.device)
    workers = patient(Workers(engine), stop)

    def tell_device() -> None:
        free, total = memory_of(device)
        workers.seen(owner, name_of(device), device.type, total, free)

    with (
        Bell(engine, "job", WORKER_LOOKS_SECONDS) as bell,
        timers((tell_device, DEVICE_SECONDS)),
    ):
        worker = Worker(
            settings,
            check(settings),
            queue,
            owner=owner,
            pause=bell.pause,
            reach=reach,
            engine=_engine(settings),
        )
        worker.run(stop)


def _engine(settings: Settings) -> "InferenceEngine":
    from dicom_node.infer.cluster import RayEngine
    from dicom_node.infer.engine import LocalEngine

    compiled = settings.data_dir / "compiled"
    if settings.infer.engine == "ray":
        return RayEngine(settings.infer, compiled)
    return LocalEngine(settings.infer, compiled_dir=compiled)


def _deliver(to: Stretch) -> None:
    from dicom_node.deliver.census import Census
    from dicom_node.deliver.loop import Courier, listening_for_reports

    settings, engine, stop = to.settings, to.engine, to.stop
    here, we = our_folder(settings, engine, stop), worker_name(os.getpid())
    outbox = patient(Outbox(engine, here), stop)
    outbox.abandon_unknown(settings.destination)
    with ExitStack() as opened:
        loops = []
        for name, destination in settings.destination.items():
            # each host delivers what lies in its own folder; where several share one, one of them does
            duty = opened.enter_context(Duty(engine, f"deliver {name} from {here}", we))
            bell = opened.enter_context(Bell(engine, "delivery", COURIER_LOOKS_SECONDS))
            fenced = patient(Outbox(engine, here, duty.fence), stop)
            pause = while_held(duty, bell.pause)
            loops.append(Courier(name, destination, settings, fenced, pause=pause).run)
        duty = opened.enter_context(Duty(engine, "census", we))
        pause = while_held(duty, threading.Event.wait)
        loops.append(Census(settings, patient(Assembly(engine), stop), pause=pause).run)
        opened.enter_context(listening_for_reports(settings, outbox))
        opened.enter_context(_canary(settings, engine, stop))
        run_together(loops, stop)


def _share(to: Stretch) -> None:
    from dicom_node.receive import share

    settings, number = to.settings, our_folder(to.settings, to.engine, to.stop)
    with share.bind(settings.share) as listener:
        address = share.address_of(settings.share, listener)
        patient(Folders(to.engine), to.stop).register(number, socket.gethostname(), address)
        log.info("serves its images", address=address)
        token = share_token(to.engine, to.stop)
        share.serve_segments(settings.spool_dir, token, settings.share, listener, to.stop)


@contextmanager
def _canary(settings: Settings, engine: Engine, stop: threading.Event) -> Iterator[None]:
    """A canary on its timer, where the configuration asks for one."""
    from dicom_node.deliver.canary import Canary

    if settings.canary.every_seconds is None:
        yield
        return
    canary = Canary(settings, canary_log(settings, engine), partial(_own_port, settings), stop)
    with timers((canary.fly, settings.canary.every_seconds)):
        yield


def _own_port(settings: Settings) -> int:
    """The listener's port; where the configuration left it open, the supervisor's file says it."""
    if settings.receive.port:
        return settings.receive.port
    try:
        return int(json.loads((settings.data_dir / "node.json").read_text())["port"])
    except (OSError, ValueError, KeyError) as error:
        raise PeerUnreachable("the listener's port is not known yet") from error


def _web(to: Stretch) -> None:
    from dicom_node.app.page import page_parts
    from dicom_node.web.server import serve_page

    listener = to.listen_socket or bind(to.settings.web)
    with listener:
        parts = page_parts(to.settings, to.engine, to.ask_reload)
        serve_page(parts, to.settings, listener, to.stop)


_PARTS: dict[Role, Callable[[Stretch], None]] = {
    Role.RECEIVE: _receive,
    Role.ASSEMBLE: _assemble,
    Role.INFER: _infer,
    Role.DELIVER: _deliver,
    Role.SHARE: _share,
    Role.WEB: _web,
}
