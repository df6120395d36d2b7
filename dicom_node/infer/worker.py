"""The inference worker: claims jobs, answers them, and commits what it made under its lease.

What comes in: jobs of the queue, whose input lies in the spool. What goes out: result files, and with them
in one transaction the job's end. One process, one device, one job at a time; models of the routes are
loaded before the first claim, so that no job waits for that.

Invariants: the bytes that a model sees are those that were received (hash checked); nothing is committed
under a lost lease; a job that takes longer than `job_seconds` ends the process, and the queue gives the
job to another, or calls it POISON.
"""

import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime

from dicom_node import __version__
from dicom_node.catalogue import ModelDescription
from dicom_node.compose.context import ComposeContext
from dicom_node.compose.part10 import write
from dicom_node.errors import DiskFull, ModelFailed, NodeError, ReadError, StaleLease
from dicom_node.infer.answer import Answer, answer, composed, without_prediction
from dicom_node.infer.engine import Engine, LocalEngine
from dicom_node.observe.logging import get_logger, hashed
from dicom_node.records import (
    ClaimedJob,
    Lease,
    Outcome,
    RawInstance,
    ResultObject,
    StoredInstance,
)
from dicom_node.settings import SegmentationEncoding, Settings
from dicom_node.store.folders import Reach
from dicom_node.store.jobs import JobQueue

log = get_logger(__name__)

POLL_SECONDS = 0.2
QUIET_SECONDS = 30.0
"""After so long without a job the worker compiles a model, each once; a job that comes meanwhile waits."""
FULL_SECONDS = 10.0
"""How long the worker waits before it tries again to keep what it makes on a full disk."""
BEATS_A_LEASE = 4
EXIT_OVERDUE = 70


class Worker:
    """Works on one job after the other until it is told to stop."""

    def __init__(
        self,
        settings: Settings,
        models: Mapping[str, ModelDescription],
        queue: JobQueue,
        *,
        owner: str,
        pause: Callable[[threading.Event, float], bool] = threading.Event.wait,
        reach: Reach | None = None,
        engine: Engine | None = None,
    ) -> None:
        """
        Args:
            settings: the node's configuration.
            models: the catalogue.
            queue: where jobs come from.
            owner: how leases are signed.
            pause: waits for `stop`, for so many seconds or for work, whichever comes first.
            reach: how images are read that lie on other hosts; default: all lie here.
            engine: what runs the models; default: this machine's device.
        """
        self._settings = settings
        self._models = models
        self._queue = queue
        self._owner = owner
        self._pause = pause
        self._reach = reach or Reach(settings.spool_dir)
        self._engine = engine or LocalEngine(
            settings.infer, compiled_dir=settings.data_dir / "compiled"
        )

    def run(self, stop: threading.Event) -> None:
        """Claim and answer jobs until `stop` is set."""
        self._warm_up()
        busy_at = time.monotonic()
        while not stop.is_set():
            job = self._queue.claim(self._owner, self._settings.infer.concurrency)
            if job is not None:
                if not self.work(job):
                    stop.wait(FULL_SECONDS)
                busy_at = time.monotonic()
            elif time.monotonic() - busy_at < QUIET_SECONDS or not self._engine.accelerate():
                self._pause(stop, POLL_SECONDS)

    def work(self, job: ClaimedJob) -> bool:
        """Answer one job and commit it; a lost lease is noted and nothing is committed.

        Returns:
            False if the job was given back because there is no room for its results.
        """
        began = time.monotonic()
        known = {
            "job": job.lease.job_id,
            "model": job.model,
            "study": hashed(job.key.study_uid),
            "series": hashed(job.key.series_uid),
        }
        log.info("job begins", attempt=job.attempt, instances=len(job.instances), **known)
        try:
            with _beating(self._queue, job.lease, self._settings) as still_ours:
                answered, results = self._answered(job)
                still_ours()
                self._commit(job, answered, results)
        except StaleLease:
            log.warning("lease lost", **known)
            return True
        except DiskFull as error:
            log.error("job postponed", reason=str(error), **known)
            return not self._given_back(job.lease, str(error))
        seconds = round(time.monotonic() - began, 3)
        log.info("job ends", outcome=answered.outcome.value, seconds=seconds, **known)
        return True

    def _given_back(self, lease: Lease, reason: str) -> bool:
        try:
            self._queue.give_back(lease, reason)
        except StaleLease:
            return False
        return True

    def _warm_up(self) -> None:
        wanted = {name for route in self._settings.route for name in route.models}
        for name in sorted(wanted & set(self._models)):
            began = time.monotonic()
            try:
                self._engine.load(self._models[name], self._models[name].digest)
            except NodeError as error:
                # the job that asks for it fails with the same reason, visibly
                log.error("model refused", model=name, reason=str(error))
            else:
                log.info("model loaded", model=name, seconds=round(time.monotonic() - began, 3))

    def _answered(self, job: ClaimedJob) -> tuple[Answer, dict[str, list[ResultObject]]]:
        description = self._models.get(job.model)
        if description is None:
            reason = f"{job.model}: no such model in {self._settings.models_dir}"
            return Answer(Outcome.FAILED, reason), {}
        instances: list[RawInstance] = []
        try:
            instances.extend(self._opened(stored) for stored in job.instances)
            if job.report_only is not None:
                raise ModelFailed(job.report_only)
        except NodeError as error:
            given = without_prediction(error, _by_member(job, instances)[0])
        else:
            first, *others = _by_member(job, instances)
            given = answer(self._engine, description, first, job.model_digest, others)
        return self._written(job, description, given)

    def _opened(self, stored: StoredInstance) -> RawInstance:
        """The bytes of one instance, which must be those that were received."""
        try:
            data = self._reach.open(stored.address)
        except (OSError, ValueError) as error:
            raise ReadError("an instance of the series is no longer in the spool") from error
        if hashlib.sha256(data).hexdigest() != stored.sha256:
            raise ReadError("an instance in the spool is not what was received (SHA-256)")
        return RawInstance(
            data, stored.transfer_syntax_uid, stored.sop_class_uid, stored.sop_instance_uid
        )

    def _written(
        self, job: ClaimedJob, description: ModelDescription, given: Answer
    ) -> tuple[Answer, dict[str, list[ResultObject]]]:
        """Compose once for each way of encoding that the route's destinations want, and write durably."""
        created_at = datetime.now(UTC)
        results: dict[str, list[ResultObject]] = {}
        for encoding, names in self._by_encoding(job).items():
            kinds = {kind for name in names for kind in self._settings.destination[name].objects}
            ctx = ComposeContext(
                model=description,
                job_key=job.job_key,
                node_version=__version__,
                created_at=created_at,
                not_for_clinical_use=self._settings.not_for_clinical_use,
                device_serial=self._settings.institution_serial,
                kinds=frozenset(kinds),
                segmentation=encoding,
                supersedes=job.supersedes,
            )
            given, files = composed(ctx, given)
            # a worker that lost its lease and lives may not write over what another commits
            claim = f"{job.job_key[:32]}-{job.lease.job_id}-{job.lease.token}"
            folder = self._settings.results_dir / claim / encoding
            made = write(files, folder)
            for name in names:
                taken = self._settings.destination[name].objects
                results[name] = [one for one in made if one.kind in taken]
        return given, results

    def _by_encoding(self, job: ClaimedJob) -> dict[SegmentationEncoding, list[str]]:
        """The job's destinations by how they want a segmentation; one that was removed since is left out."""
        groups: dict[SegmentationEncoding, list[str]] = {}
        for name in job.destinations:
            if name in self._settings.destination:
                groups.setdefault(self._settings.destination[name].segmentation, []).append(name)
        return groups

    def _commit(
        self, job: ClaimedJob, given: Answer, results: Mapping[str, Sequence[ResultObject]]
    ) -> None:
        if given.outcome is Outcome.FAILED:
            self._queue.fail(job.lease, given.reason, results)
        else:
            self._queue.finish(job.lease, given.outcome, given.reason, results)


def _by_member(job: ClaimedJob, instances: Sequence[RawInstance]) -> list[Sequence[RawInstance]]:
    """The instances of each series that the job takes, in the order in which the model takes them."""
    if not job.members:
        return [instances]
    # where the spool lacks some, those that were opened are the first ones
    opened = list(zip(job.instances, instances, strict=False))
    return [
        [one for stored, one in opened if stored.series_uid == series_uid]
        for _, series_uid in job.members
    ]


@contextmanager
def _beating(queue: JobQueue, lease: Lease, settings: Settings) -> Iterator[Callable[[], None]]:
    """Beat for the lease while the body runs; the value raises `StaleLease` once the lease is lost."""
    ended = threading.Event()
    lost = threading.Event()
    due = time.monotonic() + settings.infer.job_seconds

    def beat() -> None:
        while not ended.wait(settings.infer.lease_seconds / BEATS_A_LEASE):
            if time.monotonic() > due:
                # the thread that hangs cannot be stopped from here; the process can
                log.error("job overdue, the worker ends", job=lease.job_id)
                os._exit(EXIT_OVERDUE)
            try:
                queue.beat(lease)
            except StaleLease:
                lost.set()
                return
            except Exception as error:
                log.warning("beat failed", error=type(error).__name__)

    def still_ours() -> None:
        if lost.is_set():
            raise StaleLease(f"job {lease.job_id}")

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield still_ours
    finally:
        ended.set()
        thread.join()
