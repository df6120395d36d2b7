"""The machine: ports, descriptors, clock, device."""

import ctypes
import ctypes.util
import resource
import socket
from collections.abc import Collection, Iterator

from dicom_node.doctor.finding import Finding, failed, passed, skipped, warning
from dicom_node.errors import ConfigurationError
from dicom_node.settings import Settings
from dicom_node.web.listen import check_web

FILES_OF_A_PROCESS = 256
"""Descriptors that a receiver wants beside those of its associations: libraries, database, half-open."""
FILES_OF_AN_ASSOCIATION = 2
TIMEX_BYTES = 512  # more than struct timex of any Linux
TIME_ERROR = 5


def ports(settings: Settings, ours: Collection[int]) -> Iterator[Finding]:
    """Whether we may listen; `ours` are the ports that this node holds already."""
    wanted = [("receive.port", settings.receive.host, settings.receive.port)]
    if settings.web.enabled:
        wanted.append(("web.port", settings.web.host, settings.web.port))
    if settings.deliver.report_port is not None:
        wanted.append(("deliver.report_port", settings.receive.host, settings.deliver.report_port))
    for name, host, port in wanted:
        yield _port(f"port.{name}", name, host, port, ours)
    try:
        check_web(settings.web)
    except ConfigurationError as error:
        yield failed("web.tls", str(error), "see [web] in the configuration reference")


def _port(id: str, name: str, host: str, port: int, ours: Collection[int]) -> Finding:
    if port == 0:
        return passed(id, "takes a free one")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        if port in ours:
            return passed(id, f"{host}:{port} is held by this node")
        return failed(
            id,
            f"cannot listen on {host}:{port} ({error.strerror})",
            f"see who does: ss -ltnp 'sport = :{port}'; or set another {name}",
        )
    return passed(id, f"{host}:{port} is free")


def access(settings: Settings) -> Iterator[Finding]:
    """Who may send."""
    receive = settings.receive
    away = receive.host not in ("127.0.0.1", "::1", "localhost")
    if receive.accept_any_peer and away:
        yield warning(
            "access",
            f"everybody who reaches {receive.host}:{receive.port} may send",
            "name each sender as [[peer]] and drop receive.accept_any_peer",
        )
    elif not receive.accept_any_peer and not settings.peer:
        yield failed(
            "access",
            "no [[peer]] is named, so nobody may send",
            "name each sender as [[peer]]",
        )
    else:
        own = "this machine" if receive.accept_any_peer else f"{len(settings.peer)} named senders"
        yield passed("access", f"{own} may send")
    if not settings.route:
        yield warning("route", "there is no [[route]], so no model runs", "see deploy/example.toml")


def descriptors(settings: Settings) -> Iterator[Finding]:
    """Whether as many associations as are allowed can be open."""
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES_OF_A_PROCESS + FILES_OF_AN_ASSOCIATION * settings.receive.max_associations
    told = f"{allowed} files may be open"
    if allowed != resource.RLIM_INFINITY and allowed < wanted:
        yield warning(
            "limits.files",
            f"{told}; receive.max_associations = {settings.receive.max_associations} wants {wanted}",
            "LimitNOFILE= in the unit, or ulimit -n",
        )
    else:
        yield passed("limits.files", told)


def clock_is_kept() -> Iterator[Finding]:
    """Whether anybody keeps the clock: the kernel knows (adjtimex(2))."""
    library = ctypes.util.find_library("c")
    try:
        state = ctypes.CDLL(library).adjtimex(ctypes.create_string_buffer(TIMEX_BYTES))
    except (OSError, AttributeError):
        state = -1
    if state < 0:
        yield skipped("clock.synchronised", "the kernel does not say whether the clock is kept")
    elif state == TIME_ERROR:
        yield warning(
            "clock.synchronised",
            "nobody keeps this machine's clock",
            "run chrony or systemd-timesyncd; results and the audit trail carry its time",
        )
    else:
        yield passed("clock.synchronised", "the clock is kept")


def device(settings: Settings) -> Iterator[Finding]:
    """Whether torch has the device, and whether it computes."""
    from dicom_node.infer.device import examine_device

    try:
        found = examine_device(settings.infer)
    except ConfigurationError as error:
        yield failed("device", str(error), "nvidia-smi; the driver, and a torch built for CUDA")
        return
    if found.wrong:
        yield failed(
            "device",
            f"{found.name} computes wrongly: {found.wrong}",
            "replace it; until then set infer.device = 'cpu'",
        )
    elif found.overlooked:
        yield warning(
            "device", f"{found.name}, although {found.overlooked}", "a torch built for CUDA"
        )
    else:
        yield passed("device", f"{found.name}, {found.free_gib:.1f} GiB free")
