"""The assembler: looks at every revision that waits, and moves the ones that can be judged.

What comes in: rows of the store, a monotonic clock. What goes out: moved rows and jobs. All decisions
are in `completeness` and `route`. Silence is counted from when this process first saw a revision at
its present size, so a restart or a clock that jumps can only make it wait longer, never judge early.
"""

import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from math import inf

from dicom_node.assemble.completeness import Complete, Hold, Wait, judge
from dicom_node.assemble.join import with_others
from dicom_node.assemble.route import route
from dicom_node.catalogue import ModelDescription
from dicom_node.lifecycle import SeriesState
from dicom_node.observe.logging import get_logger, hashed
from dicom_node.records import OpenSeries
from dicom_node.settings import Settings
from dicom_node.store.assembly import Assembly, Revision

log = get_logger(__name__)


LOOK_SECONDS = 1.0
"""How often the instances of a series that waits are read: it may have thousands."""


class Assembler:
    """Runs in one process; a second one does no harm, because every move is a compare-and-set."""

    def __init__(
        self,
        settings: Settings,
        models: Mapping[str, ModelDescription],
        assembly: Assembly,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[threading.Event, float], bool] = threading.Event.wait,
    ) -> None:
        self._settings = settings
        self._models = models
        self._assembly = assembly
        self._clock = clock
        self._pause = pause
        self._seen: dict[int, tuple[int, float, float]] = {}
        """Revision -> instances, since when there are so many, when its instances were last looked at."""

    def run(self, stop: threading.Event) -> None:
        """Sweep until told to stop."""
        while not self._pause(stop, self._settings.assemble.poll_seconds):
            self.sweep()

    def sweep(self) -> None:
        """Look once at every revision that waits."""
        waiting = self._assembly.waiting()
        now = self._clock()
        ids = {revision.id for revision in waiting}
        self._seen = {key: value for key, value in self._seen.items() if key in ids}
        for revision in waiting:
            if revision.state is SeriesState.STABLE:
                self._route(revision)
            else:
                self._judge(revision, now)

    def _judge(self, revision: Revision, now: float) -> None:
        instances, since, looked = self._seen.get(revision.id, (-1, now, -inf))
        if instances != revision.instances:
            since, looked = now, -inf
        settings = self._settings.assemble
        all_here = revision.expected is not None and revision.instances >= revision.expected
        early = now - since < min(settings.settle_seconds, settings.idle_seconds)
        if (early and not all_here) or now - looked < min(LOOK_SECONDS, settings.settle_seconds):
            self._seen[revision.id] = (revision.instances, since, looked)
            return
        self._seen[revision.id] = (revision.instances, since, now)
        series = self._assembly.load(revision.id)
        verdict = judge(series, now - since, settings)
        if isinstance(verdict, Wait):
            return
        if isinstance(verdict, Hold):
            if self._assembly.hold(revision.id, revision.instances, verdict.reason):
                self._say("series held", series, verdict.reason)
        elif isinstance(verdict, Complete) and self._assembly.stable(
            revision.id, revision.instances, verdict.reason
        ):
            self._say("series complete", series, verdict.reason)
            self._route(revision)

    def _route(self, revision: Revision) -> None:
        series = self._assembly.load(revision.id)
        routing = with_others(
            route(series, self._settings, self._models),
            series,
            partial(self._assembly.study, series.key.study_uid),
            self._settings,
            self._models,
        )
        if not routing.jobs:
            if self._assembly.no_route(revision.id, routing.reason):
                self._say("series has no route", series, routing.reason)
        elif self._assembly.queue(revision.id, routing.jobs, routing.reason):
            self._say("series queued", series, routing.reason)

    def _say(self, what: str, series: OpenSeries, reason: str) -> None:
        log.info(
            what,
            study=hashed(series.key.study_uid),
            series=hashed(series.key.series_uid),
            revision=series.revision,
            instances=len(series.instances),
            reason=reason,
        )
