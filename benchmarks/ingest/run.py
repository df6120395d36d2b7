"""Receivers side by side: `python benchmarks/ingest/run.py [--rounds 5] [--folder /where/the/disk/is]`.

Every receiver stores the same synthetic CT slices from a sender in C that outruns them all, in turn, round
after round, so that what else the machine does hits all alike. Prints medians: rate against storescp = 1.00,
CPU seconds a GB, peak memory; and writes them as JSON beside this file with `--save`.
"""

import argparse
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median

import psutil
from receivers import FLOOR, FULL, RECEIVERS, start

HERE = Path(__file__).resolve().parent
MARK = b"999999999999"


@dataclass(frozen=True)
class Load:
    """What is sent: `side` x `side` CT slices."""

    name: str
    side: int
    count: int
    associations: int


LOADS = (
    Load("CT 525 KB, 1 association", 512, 300, 1),
    Load("CT 525 KB, 4 associations", 512, 100, 4),
    Load("16 KB, 1 association", 88, 1500, 1),
    Load("16 KB, 4 associations", 88, 500, 4),
)


@dataclass(frozen=True)
class Result:
    receiver: str
    load: str
    instances_per_second: float
    megabytes_per_second: float
    cpu_seconds_per_gb: float
    peak_mb: float
    last_to_first: float
    """Rate of the last sixth against the first sixth of an association."""


def message(folder: Path, side: int) -> tuple[list[str], int]:
    """Write command set and data set for the sender; its arguments, and the data set's length."""
    from tests.builders.datasets import ct_slice, encoded
    from tests.builders.raw_peer import command_set

    uid = b"1.2.826.0.1.3680043.10." + MARK
    ds = ct_slice("1.2.3.4", "1.2.3.4.5", shape=(side, side))
    ds.SOPInstanceUID = uid.decode()
    data, command = encoded(ds), command_set(0x0001, sop_instance=uid.decode(), data_set=True)
    for name, content in (("command", command), ("data", data)):
        (folder / name).write_bytes(content)
    offsets = f"c:{command.index(MARK)},d:{data.index(MARK)}"
    return [str(folder / "command"), str(folder / "data"), offsets], len(data)


def cpu_seconds(process: psutil.Process) -> float:
    """CPU time of a receiver and of all the children that it has and had."""
    while True:
        try:
            total = sum(process.cpu_times()[:4])
            return total + sum(sum(c.cpu_times()[:2]) for c in process.children(recursive=True))
        except psutil.NoSuchProcess:
            continue  # a child ended just now; its parent counts it from then on


def cpu_when_idle(process: psutil.Process) -> float:
    """CPU time once nothing more is done: rows that are written behind the answers count too."""
    before, seconds = -1.0, cpu_seconds(process)
    while seconds != before:
        time.sleep(0.5)
        before, seconds = seconds, cpu_seconds(process)
    return seconds


def end(process: subprocess.Popen[bytes]) -> None:
    """End a receiver."""
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def full_index(folder: Path, rows: int) -> Path:
    """The database of a node that has taken so many instances."""
    from benchmarks.scale.database import fill
    from dicom_node.settings import Settings
    from dicom_node.store.database import open_database

    url = Settings(data_dir=folder).effective_database_url
    engine = open_database(url)
    fill(engine, rows)
    engine.dispose()
    return Path(url.removeprefix("sqlite:///"))


def measure(
    receiver: str, load: Load, sender: Path, folder: Path, database: Path | None = None
) -> Result:
    arguments, length = message(folder, load.side)
    process, port = start(receiver, folder / "receiver", database)
    try:
        measured = psutil.Process(process.pid)
        command = [str(sender), "127.0.0.1", str(port), *arguments, str(load.count), "131072"]
        subprocess.run([*command[:-2], "12", "131072"], check=True, stdout=subprocess.DEVNULL)
        before = cpu_when_idle(measured)
        began = time.monotonic()
        senders = [
            subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            for _ in range(load.associations)
        ]
        outputs = [one.communicate(timeout=300)[0] for one in senders]
        seconds = time.monotonic() - began
        assert all(one.returncode == 0 for one in senders), f"{receiver}: a sender failed"
        peak = Path(f"/proc/{process.pid}/status").read_text()
        high = int(next(line for line in peak.splitlines() if "VmHWM" in line).split()[1]) / 1024
        cpu = cpu_when_idle(measured) - before
    finally:
        end(process)
    if load.associations == 1:
        seconds = float(outputs[0].split()[0])
    _, first, last = (median(float(o.split()[i]) for o in outputs) for i in range(3))
    sent = load.count * load.associations
    size = sent * length
    return Result(
        receiver,
        load.name,
        sent / seconds,
        size / seconds / 1e6,
        cpu / (size / 1e9),
        high,
        first / last,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where the receivers write")
    parser.add_argument("--only", nargs="*", default=[name for name in RECEIVERS if name != FULL])
    parser.add_argument(
        "--rows", type=int, default=0, help=f"measure {FULL!r} too, with so many rows"
    )
    parser.add_argument(
        "--scale", type=float, default=1.0, help="fewer instances, for a busy machine"
    )
    parser.add_argument("--loads", default="", help="only loads whose name holds this")
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that receivers are ended
    sys.path.insert(0, str(HERE.parents[1]))
    results: list[Result] = []
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        sender = folder / "sender"
        for program, source in ((sender, "sender.c"), (FLOOR, "floor.c")):
            build = ["cc", "-O2", "-o", str(program), str(HERE / source)]
            subprocess.run(build, check=True, stderr=subprocess.DEVNULL)
        database = full_index(folder, options.rows) if options.rows else None
        names = [*options.only, *([FULL] if database else [])]
        for number in range(options.rounds):
            for full in (load for load in LOADS if options.loads in load.name):
                load = replace(full, count=max(12, int(full.count * options.scale)))
                for receiver in names:
                    place = folder / "round"
                    place.mkdir()
                    results.append(measure(receiver, load, sender, place, database))
                    shutil.rmtree(place)
            print(f"round {number + 1} of {options.rounds} done", flush=True)
    FLOOR.unlink()
    rows = _medians(results)
    _print(rows)
    if options.save:
        about = {
            "machine": platform.platform(),
            "cpus": os.cpu_count(),
            "load_average": os.getloadavg(),
            "rounds": options.rounds,
            "scale": options.scale,
        }
        text = json.dumps({**about, "medians": [asdict(row) for row in rows]}, indent=1)
        (HERE / "results.json").write_text(text + "\n")


def _medians(results: list[Result]) -> list[Result]:
    keys = dict.fromkeys((r.load, r.receiver) for r in results)
    rows = []
    for load, receiver in keys:
        mine = [asdict(r) for r in results if (r.load, r.receiver) == (load, receiver)]
        names = [name for name in mine[0] if name not in ("load", "receiver")]
        rows.append(Result(receiver, load, **{n: median(one[n] for one in mine) for n in names}))
    return rows


def _print(rows: list[Result]) -> None:
    for load in dict.fromkeys(row.load for row in rows):
        mine = [row for row in rows if row.load == load]
        reference = next((r for r in mine if r.receiver == "storescp"), mine[0])
        if "4 assoc" in load:
            reference = next((r for r in mine if r.receiver == "storescp --fork"), reference)
        print(f"\n{load} ({reference.receiver} = 1.00)")
        print("| receiver | rate | instances/s | MB/s | CPU s/GB | peak MB | last/first sixth |")
        print("|---|---|---|---|---|---|---|")
        for row in mine:
            rate = row.instances_per_second / reference.instances_per_second
            print(
                f"| {row.receiver} | {rate:.2f} | {row.instances_per_second:.0f} "
                f"| {row.megabytes_per_second:.0f} | {row.cpu_seconds_per_gb:.2f} "
                f"| {row.peak_mb:.0f} | {row.last_to_first:.2f} |"
            )


if __name__ == "__main__":
    main()
