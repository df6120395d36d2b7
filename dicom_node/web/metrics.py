"""`/metrics`: the node in numbers, for Prometheus. No patient data: peers, models and states are labels.

What comes in: a scrape. What goes out: the text format. Most numbers are asked of the database, which knows
the truth of all processes and outlives them; a counter begins at zero when the page's process starts, and
Prometheus allows for that. What only the processes know (what they logged) is read from the folder where
they count.
"""

import os
import shutil
import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil
from fastapi import APIRouter, Request
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.multiprocess import MultiProcessCollector
from starlette.responses import Response

from dicom_node import __version__
from dicom_node.observe.metrics import FOLDER_VARIABLE
from dicom_node.observe.reload import last_reload
from dicom_node.store.database import utc_now
from dicom_node.store.worklist import as_utc
from dicom_node.web.parts import Parts

router = APIRouter(include_in_schema=False)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
BUCKETS = (0.1, 0.25, 0.5, 1, 2, 3, 5, 8, 13, 20, 30, 60, 120, 300, 900, 3600)
"""Seconds; close together where the bar is: five from the last image to the PACS."""


@router.get("/metrics")
def metrics(request: Request) -> Response:
    """Every number."""
    return Response(request.app.state.meter.text(), media_type=CONTENT_TYPE)


class _Histogram:
    def __init__(self) -> None:
        self.counts = [0] * len(BUCKETS)
        self.count, self.sum = 0, 0.0

    def observe(self, seconds: float) -> None:
        self.count += 1
        self.sum += seconds
        for index, bound in enumerate(BUCKETS):
            self.counts[index] += seconds <= bound

    def buckets(self) -> list[tuple[str, float]]:
        bounds = [(f"{bound:g}", float(n)) for bound, n in zip(BUCKETS, self.counts, strict=True)]
        return [*bounds, ("+Inf", float(self.count))]


@dataclass(frozen=True, slots=True)
class Received:
    """What came in, by sender."""

    since: datetime
    totals: dict[str, tuple[int, int]]
    """Calling AE title -> instances, bytes."""


class Meter:
    """What was counted since this process began; one for each application."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._lock = threading.Lock()
        self._cursor = parts.metering.cursor()
        self._began = utc_now()
        self._moves: dict[tuple[str, str], int] = defaultdict(int)
        self._instances: dict[str, list[int]] = defaultdict(lambda: [0, 0])
        self._stages: dict[tuple[str, str], _Histogram] = defaultdict(_Histogram)

    def text(self) -> bytes:
        """The answer to a scrape."""
        registry = CollectorRegistry(auto_describe=False)
        registry.register(self)
        folder = os.environ.get(FOLDER_VARIABLE)
        if folder and Path(folder).is_dir():
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return generate_latest(registry)

    def received(self) -> Received:
        """Who sent how much since this process began."""
        with self._lock:
            self._catch_up()
            totals = {ae: (count, size) for ae, (count, size) in self._instances.items()}
        return Received(self._began, totals)

    def collect(self) -> Iterable[Metric]:
        """Every metric of the database and of this machine."""
        with self._lock:
            self._catch_up()
            yield from self._counted()
        yield from self._states()
        yield from self._peers()
        yield from self._machine()

    def _catch_up(self) -> None:
        news = self._parts.metering.news(self._cursor)
        self._cursor = news.until
        for key, count in news.moves.items():
            self._moves[key] += count
        for ae_title, (count, size) in news.instances.items():
            self._instances[ae_title][0] += count
            self._instances[ae_title][1] += size
        for stage, model, seconds in news.durations:
            self._stages[stage, model].observe(seconds)

    def _counted(self) -> Iterator[Metric]:
        moves = CounterMetricFamily(
            "dicom_node_moves", "States that were entered.", labels=("entity", "state")
        )
        for key, count in self._moves.items():
            moves.add_metric(key, count)
        yield moves
        came = CounterMetricFamily(
            "dicom_node_instances", "Instances received.", labels=("calling_ae",)
        )
        size = CounterMetricFamily(
            "dicom_node_received_bytes", "Bytes of data sets received.", labels=("calling_ae",)
        )
        for ae_title, (count, sum_of_bytes) in self._instances.items():
            came.add_metric((ae_title,), count)
            size.add_metric((ae_title,), sum_of_bytes)
        yield from (came, size)
        stages = HistogramMetricFamily(
            "dicom_node_stage_seconds", "How long each stage took.", labels=("stage", "model")
        )
        for stage, histogram in self._stages.items():
            stages.add_metric(stage, histogram.buckets(), histogram.sum)
        yield stages

    def _states(self) -> Iterator[Metric]:
        states = GaugeMetricFamily(
            "dicom_node_entities", "How many are in each state.", labels=("entity", "state")
        )
        for key, count in self._parts.metering.states().items():
            states.add_metric(key, count)
        yield states
        studies = GaugeMetricFamily(
            "dicom_node_studies",
            "Studies as the worklist filters them; `attention` is what waits for a person.",
            labels=("state",),
        )
        for shown, count in self._parts.worklist.counts().items():
            studies.add_metric((shown.value,), count)
        yield studies
        oldest = GaugeMetricFamily(
            "dicom_node_oldest_waiting_seconds",
            "Since when the oldest queued job or undelivered result waits.",
            labels=("entity",),
        )
        for entity, since in self._parts.worklist.ages().items():
            oldest.add_metric((entity,), (utc_now() - since).total_seconds() if since else 0.0)
        yield oldest
        ended = GaugeMetricFamily(
            "dicom_node_associations",
            "Associations that stored something, by how they ended.",
            labels=("ending",),
        )
        for ending, count in self._parts.metering.endings().items():
            ended.add_metric((ending,), count)
        yield ended

    def _peers(self) -> Iterator[Metric]:
        silence = GaugeMetricFamily(
            "dicom_node_peer_silence_seconds",
            "Since a sender opened its last association.",
            labels=("calling_ae",),
        )
        last: dict[str, Any] = {}
        for row in self._parts.worklist.senders():
            when = as_utc(row["last_contact"])
            last[row["calling_ae"]] = max(filter(None, (when, last.get(row["calling_ae"]))))
        for ae_title, when in last.items():
            silence.add_metric((ae_title,), (utc_now() - when).total_seconds())
        yield silence

    def _machine(self) -> Iterator[Metric]:
        settings = self._parts.settings
        disk = shutil.disk_usage(settings.data_dir)
        yield GaugeMetricFamily(
            "dicom_node_disk_free_bytes", "Free disk where the spool lies.", value=disk.free
        )
        yield GaugeMetricFamily(
            "dicom_node_disk_reserve_bytes",
            "Free disk below which nothing more is accepted.",
            value=settings.receive.disk_reserve_mb * 2**20,
        )
        reload = last_reload(settings.data_dir)
        yield GaugeMetricFamily(
            "dicom_node_configuration_reload_ok",
            "0 where the configuration was changed and cannot be used.",
            value=0 if reload and reload.error else 1,
        )
        yield GaugeMetricFamily(
            "dicom_node_configuration_waiting",
            "Settings that were changed and wait for a restart.",
            value=len(reload.waiting) if reload else 0,
        )
        info = GaugeMetricFamily("dicom_node_info", "Version.", labels=("version", "ae_title"))
        info.add_metric((__version__, settings.receive.ae_title), 1)
        yield info
        memory = GaugeMetricFamily(
            "dicom_node_device_memory_bytes",
            "Memory of each worker's device, as the worker sees it.",
            labels=("worker", "device", "kind"),
        )
        for one in self._parts.workers.alive():
            memory.add_metric((one.owner, one.device, "total"), one.total_bytes)
            memory.add_metric((one.owner, one.device, "free"), one.free_bytes)
        yield memory
        alarms = GaugeMetricFamily(
            "dicom_node_alarms", "Alarms that people were told of and that last.", labels=("key",)
        )
        for key in self._parts.alarms.open():
            alarms.add_metric((key,), 1)
        yield alarms
        yield from _processes()


def _processes() -> Iterator[Metric]:
    memory = GaugeMetricFamily(
        "dicom_node_process_resident_bytes", "Memory of each process.", labels=("role", "pid")
    )
    seconds = CounterMetricFamily(
        "dicom_node_process_cpu_seconds", "CPU time of each process.", labels=("role", "pid")
    )
    for process in _family():
        try:
            with process.oneshot():
                labels = (_role_of(process.cmdline()), str(process.pid))
                used = process.cpu_times()
                memory.add_metric(labels, process.memory_info().rss)
                seconds.add_metric(labels, used.user + used.system)
        except psutil.Error:
            continue  # it ended meanwhile
    yield from (memory, seconds)


def _family() -> list[psutil.Process]:
    """This process and, under a supervisor, those beside it."""
    me = psutil.Process()
    try:
        parent = me.parent()
        if parent and "dicom_node" in " ".join(parent.cmdline()):
            return [parent, *parent.children(recursive=True)]
    except psutil.Error:
        pass
    return [me]


def _role_of(command: list[str]) -> str:
    return command[command.index("--role") + 1] if "--role" in command[:-1] else "supervisor"
