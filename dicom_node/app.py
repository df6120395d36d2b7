"""The composition root: the one place that knows every stage, and wires it to the store.

What comes in: settings. What goes out: a role that runs in this process until it is told to stop. The
processes of a whole node are `supervisor`'s business.
"""

import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, Any

from apscheduler.schedulers.background import BackgroundScheduler

from dicom_node.assemble.loop import Assembler
from dicom_node.assemble.route import miss
from dicom_node.catalogue import ModelDescription, catalogue
from dicom_node.errors import ConfigurationError, DatabaseAway, PeerUnreachable
from dicom_node.observe.logging import get_logger
from dicom_node.records import InstanceFacts, OpenSeries, SeriesKey
from dicom_node.settings import DestinationSettings, Settings
from dicom_node.store.accounts import Accounts
from dicom_node.store.alarms import AlarmBook
from dicom_node.store.assembly import Assembly
from dicom_node.store.audit import AuditOutbox
from dicom_node.store.bell import Bell
from dicom_node.store.canary import CanaryLog
from dicom_node.store.database import Engine, open_database, utc_now
from dicom_node.store.deliveries import Outbox
from dicom_node.store.duties import Duty
from dicom_node.store.folders import Folders
from dicom_node.store.intake import Intake
from dicom_node.store.jobs import JobQueue
from dicom_node.store.metering import Metering
from dicom_node.store.operator import Operator
from dicom_node.store.overview import Overview
from dicom_node.store.patience import patient, patiently
from dicom_node.store.retention import Retention
from dicom_node.store.tally import Tally
from dicom_node.store.workers import Workers
from dicom_node.store.worklist import Worklist
from dicom_node.upkeep.alarms import Alarms, Watch, channels_of
from dicom_node.upkeep.audit import AuditCourier, sink_of
from dicom_node.upkeep.hosts import if_held, our_folder, reach_of, share_token, while_held
from dicom_node.upkeep.leases import LeaseWatch, take_back_from, worker_name
from dicom_node.upkeep.retention import Sweeper
from dicom_node.web.listen import bind, check_web

if TYPE_CHECKING:
    from dicom_node.infer.engine import Engine as InferenceEngine
    from dicom_node.web.parts import Parts, RouteVerdict

log = get_logger(__name__)

LEASE_SWEEP_SECONDS = 1.0
AUDIT_SECONDS = 5.0
CLOCK_SECONDS = 1.0
CLOCK_JUMP_SECONDS = 2.0
DEVICE_SECONDS = 15.0
COUNTS_SECONDS = 1.0
TALLY_SECONDS = 30.0
WORKER_LOOKS_SECONDS = 2.0
"""How often a worker looks for jobs by itself while it can be woken."""
COURIER_LOOKS_SECONDS = 0.5
"""As above; retries fall due without a bell."""


class Role(Enum):
    """What a process of the node does. Each may run alone, on a host of its own."""

    RECEIVE = "receive"
    ASSEMBLE = "assemble"
    INFER = "infer"
    DELIVER = "deliver"
    SHARE = "share"
    WEB = "web"


def check(settings: Settings) -> dict[str, ModelDescription]:
    """What can be known before anything starts: the catalogue reads, and routes name known models.

    Raises:
        ConfigurationError: a route names a model that there is not, or that is off.
        BundleRefused: a model's description is wrong.
    """
    check_web(settings.web)
    models = catalogue(settings.models_dir)
    wanted = [(f"route {one.name!r}", one.models) for one in settings.route]
    for who, names in [*wanted, ("the canary", settings.canary.models)]:
        for name in names:
            if name not in models:
                known = ", ".join(models) or "none"
                raise ConfigurationError(f"{who} runs {name!r}, which is no model (known: {known})")
    return models


def check_all(settings: Settings) -> dict[str, ModelDescription]:
    """As `check`, and what a listener would refuse: access rules and certificates."""
    from dicom_node.receive.admit import AccessRules
    from dicom_node.receive.tls import server_context

    AccessRules.of(settings)
    if settings.receive.tls is not None:
        server_context(settings.receive.tls)
    return check(settings)


@dataclass(slots=True)
class Adoption:
    """How a role that runs takes over other settings; empty where it has to begin again."""

    act: Callable[[Settings], None] | None = None


@dataclass(frozen=True, slots=True)
class Stretch:
    """What a role has from here until it is told to stop, or to go on with other settings."""

    settings: Settings
    engine: Engine
    stop: threading.Event
    listen_socket: socket.socket | None
    adoption: Adoption
    ask_reload: Callable[[], None]


def _nobody_reloads() -> None:
    raise ConfigurationError("this process does not reload its configuration")


def run_role(
    role: Role,
    settings: Settings,
    stop: threading.Event,
    listen_socket: socket.socket | None = None,
    adoption: Adoption | None = None,
    ask_reload: Callable[[], None] = _nobody_reloads,
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
            _PARTS[role](Stretch(settings, engine, stop, listen_socket, adoption, ask_reload))
        finally:
            engine.dispose()
    except DatabaseAway as error:
        # what was not written down yet is found again at the next start
        if not stop.is_set():
            raise
        log.warning("stopped while the database was away", reason=str(error))


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


@contextmanager
def timers(*jobs: tuple[Callable[[], None], float]) -> Iterator[None]:
    """Call each at once and then every so many seconds; a run that was missed is made up for once."""
    scheduler = BackgroundScheduler(timezone="UTC")
    for call, seconds in jobs:
        scheduler.add_job(
            call,
            "interval",
            seconds=seconds,
            next_run_time=utc_now(),
            coalesce=True,
            misfire_grace_time=None,
            max_instances=1,
        )
    scheduler.start()
    ended = threading.Event()
    watch = threading.Thread(target=_mind_the_clock, args=(scheduler, ended), daemon=True)
    watch.start()
    try:
        yield
    finally:
        ended.set()
        scheduler.shutdown()


def _mind_the_clock(scheduler: BackgroundScheduler, ended: threading.Event) -> None:
    """Run every timer when the wall clock was set: APScheduler would wait until it is what it was."""
    known = time.time() - time.monotonic()
    while not ended.wait(CLOCK_SECONDS):
        now = time.time() - time.monotonic()
        if abs(now - known) > CLOCK_JUMP_SECONDS:
            log.warning("the wall clock was set", by_seconds=round(now - known, 1))
            for job in scheduler.get_jobs():
                job.modify(next_run_time=utc_now())
        known = now


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
        _run_together(loops, stop)


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


def canary_log(settings: Settings, engine: Engine) -> CanaryLog:
    """What became of the canaries; for a metric, an alarm and the page."""
    return CanaryLog(engine, settings.canary.ae_title, settings.canary.late_seconds)


def _own_port(settings: Settings) -> int:
    """The listener's port; where the configuration left it open, the supervisor's file says it."""
    if settings.receive.port:
        return settings.receive.port
    try:
        return int(json.loads((settings.data_dir / "node.json").read_text())["port"])
    except (OSError, ValueError, KeyError) as error:
        raise PeerUnreachable("the listener's port is not known yet") from error


def _web(to: Stretch) -> None:
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


def page_parts(
    settings: Settings, engine: Engine, ask_reload: Callable[[], None] = _nobody_reloads
) -> "Parts":
    """What the page may ask and do: the store, and the hands of other stages."""
    from dicom_node.deliver import scu
    from dicom_node.web.parts import Parts
    from dicom_node.web.recent import Recent

    def echo(destination: DestinationSettings) -> None:
        calling = settings.deliver.ae_title or settings.receive.ae_title
        address = scu.Address(destination.host, destination.port, destination.ae_title, calling)
        scu.echo(address)

    return Parts(
        settings=settings,
        models=check(settings),
        worklist=Worklist(engine),
        counts=Recent(Worklist(engine).counts, COUNTS_SECONDS),
        overview=Overview(engine),
        metering=Metering(engine),
        accounts=Accounts(engine),
        audit=AuditOutbox(engine),
        workers=Workers(engine),
        alarms=AlarmBook(engine),
        operator=partial(Operator, engine),
        echo=echo,
        routes_of=partial(_routes_of, settings),
        ask_reload=ask_reload,
    )


def _routes_of(
    settings: Settings,
    attributes: Mapping[str, Any],
    calling_ae: str,
    called_ae: str,
    instances: int,
) -> "list[RouteVerdict]":
    """What each route says of a series with these header values and so many instances."""
    from dicom_node.web.parts import RouteVerdict

    facts = InstanceFacts(0, "", "", "", "", {}, None)
    series = OpenSeries(
        id=0,
        key=SeriesKey("", ""),
        revision=1,
        patient_id="",
        calling_ae=calling_ae,
        called_ae=called_ae,
        attributes=attributes,
        instances=(facts,) * instances,
        sending=False,
        released=True,
    )
    return [RouteVerdict(one.name, miss(one, series)) for one in settings.route]


def _run_together(
    loops: Iterable[Callable[[threading.Event], None]], stop: threading.Event
) -> None:
    """Run loops in threads until `stop`; one that breaks ends the process, so that it is restarted."""
    failures: list[BaseException] = []

    def guarded(loop: Callable[[threading.Event], None]) -> None:
        try:
            loop(stop)
        except BaseException as error:
            failures.append(error)
            stop.set()

    threads = [threading.Thread(target=guarded, args=(loop,)) for loop in loops]
    for thread in threads:
        thread.start()
    stop.wait()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


@contextmanager
def opened_accounts(settings: Settings) -> Iterator[Accounts]:
    """Who may log in, whether the node runs or not."""
    engine = open_database(settings.effective_database_url)
    try:
        yield Accounts(engine)
    finally:
        engine.dispose()


@contextmanager
def opened_database(settings: Settings) -> Iterator[Engine]:
    """A node's database, whether the node runs or not.

    Raises:
        ConfigurationError: there is no database yet.
    """
    if settings.database_url is None and not (settings.data_dir / "node.sqlite").exists():
        raise ConfigurationError(f"data_dir: no node has run on {settings.data_dir} yet")
    engine = open_database(settings.effective_database_url)
    try:
        yield engine
    finally:
        engine.dispose()


@contextmanager
def opened_overview(settings: Settings) -> Iterator[Overview]:
    """Questions about a node's state; errors as `opened_database`."""
    with opened_database(settings) as engine:
        yield Overview(engine)
