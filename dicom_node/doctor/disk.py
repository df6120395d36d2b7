"""The disk of the data folder: room, kind, speed, and whether a sync is one.

Status 0000 promises that bytes survive a power cut. That rests on `fdatasync`, which some disks answer
without writing. A program cannot see that from inside, but one lie shows: no medium that keeps its
content makes a write durable in less than about 10 µs, not even a controller with a battery behind it.
"""

import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from dicom_node.doctor.finding import Finding, failed, passed, skipped, warning
from dicom_node.settings import Settings

MEGABYTE = 1 << 20
PROBE_WRITES = 40
PROBE_BYTES = 32 << 20
PROBE_SECONDS = 3.0
IMPLAUSIBLE_SYNC_SECONDS = 10e-6
SLOW_SYNC_SECONDS = 0.05
SLOW_BYTES_A_SECOND = 30e6
IN_MEMORY = frozenset({"tmpfs", "ramfs", "devtmpfs"})
OVER_A_NETWORK = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "fuse.sshfs"})
CARELESS = ("nobarrier", "barrier=0", "data=writeback", "nosync")


@dataclass(frozen=True, slots=True)
class Measured:
    """What the disk did."""

    sync_seconds: float
    """Median of a 4 KiB write with `fdatasync`."""
    bytes_a_second: float
    """Of a long write that ends with `fdatasync`."""


def room(settings: Settings) -> Iterator[Finding]:
    """Whether anything would be taken."""
    disk = shutil.disk_usage(_existing(settings.data_dir))
    free = disk.free / MEGABYTE
    reserve, keep = settings.receive.disk_reserve_mb, settings.retention.keep_free_mb
    told = f"{free / 1024:.1f} GiB of {disk.total / 2**30:.1f} GiB free"
    if free < reserve:
        yield failed(
            "disk.free",
            f"{told}: below receive.disk_reserve_mb ({reserve}), so every image is refused",
            "free space, or move data_dir to a larger disk",
        )
    elif free < keep:
        yield warning(
            "disk.free",
            f"{told}: below retention.keep_free_mb ({keep}), so delivered images go early",
            "a larger disk, or a smaller retention.days",
        )
    else:
        yield passed("disk.free", told)


def kind(settings: Settings) -> Iterator[Finding]:
    """Whether the file system is one that keeps what it was given."""
    found = filesystem(_existing(settings.data_dir))
    if found is None:
        yield skipped("disk.filesystem", "the system does not say what file system this is")
        return
    name, options = found
    embedded = settings.database_url is None
    careless = [option for option in options if option in CARELESS]
    if name in IN_MEMORY:
        yield failed(
            "disk.filesystem",
            f"data_dir lies in memory ({name}): what is acknowledged is gone after a restart",
            "set data_dir to a folder on a disk",
        )
    elif name in OVER_A_NETWORK and embedded:
        yield failed(
            "disk.filesystem",
            f"data_dir lies on a network share ({name}), where SQLite's locks do not hold",
            "a local disk, or database_url with PostgreSQL",
        )
    elif careless:
        yield failed(
            "disk.filesystem",
            f"{name} is mounted with {', '.join(careless)}: a sync does not reach the disk",
            "mount it without that option",
        )
    else:
        yield passed("disk.filesystem", name)


def speed(settings: Settings) -> Iterator[Finding]:
    """How quickly a write is durable, and whether that can be true."""
    measured = measure(_existing(settings.data_dir))
    micro = measured.sync_seconds * 1e6
    took = f"{micro / 1000:.2f} ms" if micro >= 100 else f"{micro:.1f} µs"
    if measured.sync_seconds < IMPLAUSIBLE_SYNC_SECONDS:
        yield failed(
            "disk.sync",
            f"a synced write takes {took}: no disk can do that, so syncs are not honoured",
            "a disk that keeps what it acknowledges; look at the hypervisor's cache mode",
        )
    elif measured.sync_seconds > SLOW_SYNC_SECONDS:
        yield warning(
            "disk.sync",
            f"a synced write takes {took}; every image waits for one",
            "an SSD, or a controller whose cache has a battery",
        )
    else:
        yield passed("disk.sync", f"a synced write takes {took}")
    rate = f"{measured.bytes_a_second / 1e6:.0f} MB/s written durably"
    if measured.bytes_a_second < SLOW_BYTES_A_SECOND:
        yield warning("disk.speed", rate, "a faster disk: a CT of 500 images is about 260 MB")
    else:
        yield passed("disk.speed", rate)


def measure(folder: Path) -> Measured:
    """Write into a file without a name, so that nothing of it is left."""
    block = os.urandom(MEGABYTE)
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        descriptor, until = file.fileno(), time.monotonic() + PROBE_SECONDS
        taken: list[float] = []
        while len(taken) < PROBE_WRITES and time.monotonic() < until:
            began = time.perf_counter()
            os.write(descriptor, block[:4096])
            os.fdatasync(descriptor)
            taken.append(time.perf_counter() - began)
        written, began = 0, time.perf_counter()
        while written < PROBE_BYTES and time.monotonic() < until:
            written += os.write(descriptor, block)
        os.fdatasync(descriptor)
        seconds = time.perf_counter() - began
    return Measured(statistics.median(taken), written / seconds if written else 0.0)


def filesystem(folder: Path) -> tuple[str, tuple[str, ...]] | None:
    """Type and mount options of the file system that a folder lies on; None where they are not told."""
    place = folder.resolve()
    holding = [
        mount
        for mount in psutil.disk_partitions(all=True)
        if place.is_relative_to(mount.mountpoint)
    ]
    if not holding:
        return None
    # of two mounts on one point the later hides the earlier
    nearest = max(enumerate(holding), key=lambda one: (len(one[1].mountpoint), one[0]))[1]
    return nearest.fstype, tuple(nearest.opts.split(","))


def _existing(folder: Path) -> Path:
    """The folder, or what of its path exists already."""
    return next(place for place in (folder, *folder.parents) if place.is_dir())
