"""The assembler: looks at every revision that waits, and moves the ones that can be judged.

What comes in: rows of the store, a monotonic clock. What goes out: moved rows and jobs. All decisions
are in `completeness` and `route`. Silence is counted from when this process first saw a revision at
its present size, so a restart or a clock that jumps can only make it wait longer, never judge early.
"""

import threading
import time
from collections.abc import Callable, Mapping

from dicom_node.assemble.completeness import Complete, Hold, Wait, judge
from dicom_node.assemble.route import route
from dicom_node.catalogue import ModelDescription
from dicom_node.lifecycle import SeriesState
from dicom_node.observe.logging import get_logger, hashed
from dicom_node.records import OpenSeries
from dicom_node.settings import Settings
from dicom_node.store.assembly import Assembly, Revision

log = get_logger(__name__)


class Assembler:
    """Runs in one process; a second one does no harm, because every move is a compare-and-set."""

    def __init__(
        self,
        settings: Settings,
        models: Mapping[str, ModelDescription],
        assembly: Assembly,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._models = models
        self._assembly = assembly
        self._clock = clock
        self._seen: dict[int, tuple[int, float]] = {}

    def run(self, stop: threading.Event) -> None:
        """Sweep until told to stop."""
        while not stop.wait(self._settings.assemble.poll_seconds):
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
        instances, since = self._seen.get(revision.id, (-1, now))
        if instances != revision.instances:
            self._seen[revision.id] = (revision.instances, now)
            since = now
        quiet = now - since
        if quiet < min(
            self._settings.assemble.settle_seconds, self._settings.assemble.idle_seconds
        ):
            return
        series = self._assembly.load(revision.id)
        verdict = judge(series, quiet, self._settings.assemble)
        if isinstance(verdict, Wait):
            return
        if isinstance(verdict, Hold):
            if self._assembly.hold(revision.id, verdict.reason):
                self._say("series held", series, verdict.reason)
        elif isinstance(verdict, Complete) and self._assembly.stable(
            revision.id, len(series.instances), verdict.reason
        ):
            self._say("series complete", series, verdict.reason)
            self._route(revision)

    def _route(self, revision: Revision) -> None:
        series = self._assembly.load(revision.id)
        routing = route(series, self._settings, self._models)
        if not routing.jobs:
            if self._assembly.no_route(revision.id, routing.reason):
                self._say("series has no route", series, routing.reason)
        elif self._assembly.queue(revision.id, routing.jobs, routing.reason):
            self._say("series queued", series, routing.reason)

    def _say(self, what: str, series: OpenSeries, reason: str) -> None:
        log.info(
            what,
            series=hashed(series.key.series_uid),
            revision=series.revision,
            instances=len(series.instances),
            reason=reason,
        )
