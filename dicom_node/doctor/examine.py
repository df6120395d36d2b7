"""Which checks there are, and running them: one that breaks is a finding, and hinders no other."""

from collections.abc import Callable, Collection, Iterator
from functools import partial

from dicom_node.doctor import disk, keys, machine, parts, peers
from dicom_node.doctor.finding import Finding, failed
from dicom_node.settings import Settings
from dicom_node.store.database import utc_now

Check = Callable[[], Iterator[Finding]]


def examine(settings: Settings, our_ports: Collection[int] = ()) -> Iterator[Finding]:
    """Everything, in the order in which it is found out; takes seconds.

    Args:
        settings: the configuration that is to be run.
        our_ports: what a node that runs with it holds already.
    """
    slow: dict[str, Check] = {
        "port": partial(machine.ports, settings, our_ports),
        "disk.sync": partial(disk.speed, settings),
        "destination": partial(peers.answers, settings),
        "device": partial(machine.device, settings),
        "models": partial(parts.models, settings),
    }
    yield from _run(_quick(settings) | slow)


def examine_quickly(settings: Settings) -> Iterator[Finding]:
    """What takes no time, for every start."""
    yield from _run(_quick(settings))


def _quick(settings: Settings) -> dict[str, Check]:
    now = utc_now()
    return {
        "access": partial(machine.access, settings),
        "disk.free": partial(disk.room, settings),
        "disk.filesystem": partial(disk.kind, settings),
        "key": partial(keys.secrets, settings),
        "certificate": partial(keys.certificates, settings, now),
        "limits.files": partial(machine.descriptors, settings),
        "clock.synchronised": machine.clock_is_kept,
        "database": partial(parts.database, settings, now),
    }


def _run(checks: dict[str, Check]) -> Iterator[Finding]:
    for id, check in checks.items():
        try:
            yield from check()
        except Exception as error:
            told = f"this check broke ({type(error).__name__})"
            yield failed(id, told, "a bug of ours: please tell us")
