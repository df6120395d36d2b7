"""Days of sendings in minutes: how soon is a series judged complete, and is each revision queued once?

    python -m benchmarks.assembly.replay --hours 72

Scanners and PACS send to a real store and a real assembler; only the clock is simulated. They shuffle
slices, pause, interleave series, send twice, break off and begin again, open an association for each image,
and send a half, the last half or every second image first and the rest on a further association. Printed:
seconds from the last instance of a series to its job, and how often a series was judged too early and had to
be judged again; both also for each habit.
"""

from __future__ import annotations

import argparse
import heapq
import json
import random
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from sqlalchemy import func, select

from dicom_node.assemble.loop import Assembler
from dicom_node.catalogue import catalogue
from dicom_node.lifecycle import SeriesState
from dicom_node.observe.logging import configure
from dicom_node.records import Ending, Peer
from dicom_node.settings import LogSettings, Settings
from dicom_node.store.assembly import Assembly
from dicom_node.store.database import open_database, reading
from dicom_node.store.intake import Intake
from dicom_node.store.tables import job, series, transition
from tests.builders.store import BEGINNING, LENGTH, received, slice_attributes

SIDECAR = """
[model]
name = "alpha"
title = "T"
version = "1"
task = "denoising"
limits = "None."
[input]
modality = ["CT"]
dimensions = 3
"""
HABITS = (
    "plain",
    "shuffled",
    "paused",
    "interleaved",
    "twice",
    "broken",
    "two associations",
    "uneven",
    "an image each",
    "last half first",
    "odd then even",
)


@dataclass(order=True)
class Event:
    """Something that a sender does at a time."""

    at: float
    number: int
    what: str = field(compare=False)
    association: str = field(compare=False, default="")
    peer: str = field(compare=False, default="")
    series_uid: str = field(compare=False, default="")
    slice: int = field(compare=False, default=0)
    even: bool = field(compare=False, default=True)


class Hospital:
    """Makes the events of a study, after one of the habits."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._events = 0
        self._studies = 0

    def study(self, at: float) -> Iterator[Event]:
        """One study, sent after one habit."""
        self._studies += 1
        habit = self._rng.choice(HABITS)
        count = self._rng.randint(8, 40)
        uids = [f"1.2.{self._studies}.{n}" for n in range(2 if habit == "interleaved" else 1)]
        slices = [(uid, number) for number in range(count) for uid in uids]
        if habit in ("shuffled", "interleaved"):
            self._rng.shuffle(slices)
        first, rest = slices[: count // 2], slices[count // 2 :]
        parts = {
            "twice": [slices, slices],
            "broken": [first, slices],
            "two associations": [first, rest],
            "last half first": [rest, first],
            "odd then even": [slices[1::2], slices[::2]],
            "an image each": [[one] for one in slices],
        }.get(habit, [slices])
        for part, members in enumerate(parts):
            breaks = habit == "broken" and part == 0
            at = yield from self._association(habit, part, members, at, breaks)
            at += self._rng.uniform(0.1, 1.0 if habit == "an image each" else 8.0)

    def _association(
        self, habit: str, part: int, members: list[tuple[str, int]], at: float, breaks: bool
    ) -> Iterator[Event]:
        name, peer = f"a{self._studies}-{part}", habit[:16]
        yield self._event(at, "open", name, peer)
        pause_at = self._rng.randrange(len(members)) if habit == "paused" else -1
        for index, (uid, number) in enumerate(members):
            at += self._rng.expovariate(20.0)
            if index == pause_at:
                at += self._rng.uniform(1.0, 20.0)
            event = self._event(at, "store", name, peer)
            event.series_uid, event.slice, event.even = uid, number, habit != "uneven"
            yield event
        at += 0.05
        yield self._event(at, "abort" if breaks else "release", name, peer)
        return at

    def _event(self, at: float, what: str, association: str, peer: str) -> Event:
        self._events += 1
        return Event(at, self._events, what, association, peer)


def simulate(hours: float, seed: int, studies_an_hour: float, folder: Path) -> dict[str, object]:
    """Run it; returns what is printed."""
    rng = random.Random(seed)
    model = folder / "models" / "alpha"
    model.mkdir(parents=True)
    (model / "dicom.toml").write_text(SIDECAR)
    pacs = {"ae_title": "P", "host": "h", "port": 104}
    route = {"name": "r", "models": ["alpha"], "destinations": ["p"]}
    settings = Settings(data_dir=folder, destination={"p": pacs}, route=(route,))  # type: ignore[dict-item, arg-type]
    engine = open_database(f"sqlite:///{folder / 'node.sqlite'}")
    intake, assembly = Intake(engine), Assembly(engine)
    clock = _Clock()
    assembler = Assembler(settings, catalogue(folder / "models"), assembly, clock)
    last_instance: dict[str, float] = {}
    queued: dict[str, float] = {}
    events = _events(rng, hours, studies_an_hour)
    began = time.perf_counter()
    while events:
        clock.now = events[0].at
        while events and events[0].at <= clock.now:
            _happen(heapq.heappop(events), intake, last_instance)
        following = events[0].at if events else clock.now + 120.0
        while assembly.waiting() and clock.now < following:
            clock.now = min(clock.now + settings.assemble.poll_seconds, following)
            assembler.sweep()
            _note_queued(engine, queued, clock.now)
    result = _summary(engine, last_instance, queued)
    engine.dispose()
    return result | {"hours": hours, "wall_s": round(time.perf_counter() - began, 1)}


class _Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def _events(rng: random.Random, hours: float, studies_an_hour: float) -> list[Event]:
    hospital = Hospital(rng)
    events: list[Event] = []
    at = 0.0
    while (at := at + rng.expovariate(studies_an_hour / 3600.0)) < hours * 3600.0:
        events += hospital.study(at)
    heapq.heapify(events)
    return events


def _happen(event: Event, intake: Intake, last_instance: dict[str, float]) -> None:
    if event.what == "open":
        opened = BEGINNING + timedelta(seconds=event.at)
        peer = Peer(event.peer, "NODE", "10.0.0.1")
        intake.association_opened(event.association, peer, f"{event.association}.segment", opened)
    elif event.what == "store":
        one = received(
            event.association,
            event.series_uid,
            event.slice,
            study=event.series_uid.rsplit(".", 1)[0],
            at=event.at,
            attributes=_attributes(event),
        )
        intake.index(event.association, [one], LENGTH * (event.slice + 1))
        last_instance.setdefault(f"{event.series_uid}.{event.slice}", event.at)
    else:
        ending = Ending.ABORTED if event.what == "abort" else Ending.RELEASED
        ended = BEGINNING + timedelta(seconds=event.at)
        intake.association_ended(event.association, ending, ended)


def _attributes(event: Event) -> dict[str, object]:
    attributes = slice_attributes(event.slice)
    if not event.even:  # one slice is missing for good: geometry proves nothing
        attributes["position"] = [0.0, 0.0, 2.0 * event.slice + (2.0 if event.slice > 3 else 0.0)]
    return attributes


def _note_queued(engine: object, queued: dict[str, float], now: float) -> None:
    with reading(engine) as connection:  # type: ignore[arg-type]
        last = queued.get("", 0.0)
        rows = connection.execute(
            select(transition.c.id, series.c.series_uid)
            .join(series, series.c.id == transition.c.entity_id)
            .where(
                transition.c.entity == "series",
                transition.c.new == SeriesState.QUEUED.value,
                transition.c.id > last,
            )
        ).all()
    for row in rows:
        queued[row.series_uid] = now
        queued[""] = max(queued.get("", 0.0), row.id)


def _summary(
    engine: object, last_instance: dict[str, float], queued: dict[str, float]
) -> dict[str, object]:
    ends: dict[str, float] = {}
    for instance_uid, at in last_instance.items():
        series_uid = instance_uid.rsplit(".", 1)[0]
        ends[series_uid] = max(ends.get(series_uid, 0.0), at)
    waits = sorted(queued[uid] - at for uid, at in ends.items() if uid in queued)
    habits: dict[str, list[tuple[float, int]]] = defaultdict(list)
    with reading(engine) as connection:  # type: ignore[arg-type]
        revisions = connection.execute(select(func.count()).select_from(series)).scalar_one()
        rows = connection.execute(
            select(series.c.calling_ae, series.c.series_uid, func.max(series.c.revision)).group_by(
                series.c.calling_ae, series.c.series_uid
            )
        )
        for habit, uid, revision in rows:
            habits[habit].append((queued[uid] - ends[uid], revision))
        per_revision = connection.execute(
            select(func.count(job.c.id))
            .select_from(series)
            .outerjoin(job, job.c.series_id == series.c.id)
            .where(series.c.state == SeriesState.QUEUED)
            .group_by(series.c.id)
        ).scalars()
        jobs = set(per_revision)
    return {
        "series": len(ends),
        "series_queued": len(waits),
        "revisions": revisions,
        "judged_too_early_percent": round(100.0 * (revisions - len(ends)) / len(ends), 1),
        "jobs_a_current_revision": sorted(jobs),
        "wait_median_s": round(statistics.median(waits), 2),
        "wait_p95_s": round(waits[int(0.95 * (len(waits) - 1))], 2),
        "wait_max_s": round(waits[-1], 2),
        "by_habit": {habit: _of_habit(found) for habit, found in sorted(habits.items())},
    }


def _of_habit(found: list[tuple[float, int]]) -> dict[str, float]:
    waits = sorted(wait for wait, _ in found)
    return {
        "wait_median_s": round(statistics.median(waits), 2),
        "wait_max_s": round(waits[-1], 2),
        "too_early_percent": round(100.0 * sum(n - 1 for _, n in found) / len(found), 1),
    }


def main() -> None:
    """Print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hours", type=float, default=72.0)
    parser.add_argument("--studies-an-hour", type=float, default=20.0)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    configure(LogSettings(level="ERROR"))
    memory = Path("/dev/shm")  # what a disk's sync costs is another benchmark's business
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        print(
            json.dumps(
                simulate(given.hours, given.seed, given.studies_an_hour, Path(folder)), indent=2
            )
        )


if __name__ == "__main__":
    main()
