"""The store as a whole, driven at random: whatever happens in whatever order, the invariants hold.

Receivers send, abort and send again; the assembler judges and routes; workers claim, die, come too late;
the courier sends, is refused, is asked; an operator orders, and the disk is cleared. After every step the
rules of the design are looked up in the tables. `DICOM_NODE_SOAK=1` runs it for longer.
"""

import os
import tempfile
from collections import defaultdict
from datetime import timedelta
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from sqlalchemy import func, select

from dicom_node.assemble.completeness import Hold, judge
from dicom_node.errors import StaleLease
from dicom_node.lifecycle import MOVES, DeliveryState, InstanceState, JobState, SeriesState
from dicom_node.records import ClaimedJob, DueDelivery, Ending, Outcome, ResultObject
from dicom_node.settings import AssembleSettings
from dicom_node.store.assembly import Assembly
from dicom_node.store.database import open_database, reading
from dicom_node.store.deliveries import Outbox
from dicom_node.store.intake import Intake
from dicom_node.store.jobs import JobQueue
from dicom_node.store.operator import Operator
from dicom_node.store.overview import Overview
from dicom_node.store.retention import Retention
from dicom_node.store.tables import (
    association,
    delivery,
    instance,
    job,
    job_input,
    result,
    series,
    transition,
)
from dicom_node.store.tally import Tally
from tests.builders.store import BEGINNING, SCANNER, new_job, received

SOAK = bool(os.environ.get("DICOM_NODE_SOAK"))
TABLES = {"instance": instance, "series": series, "job": job, "delivery": delivery}


class StoreMachine(RuleBasedStateMachine):
    """One node's store, and everybody who uses it."""

    @initialize()
    def start(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.engine = open_database(f"sqlite:///{Path(self.folder.name) / 'node.sqlite'}")
        self.intake, self.assembly = Intake(self.engine), Assembly(self.engine)
        self.queue, self.outbox = JobQueue(self.engine), Outbox(self.engine)
        self.opened: list[str] = []
        self.count = 0
        self.claims: list[ClaimedJob] = []
        self.begun: list[DueDelivery] = []
        self.inputs: dict[int, frozenset[int]] = {}

    def teardown(self) -> None:
        if hasattr(self, "engine"):
            self.engine.dispose()
            self.folder.cleanup()

    # --- receive

    @rule(
        which=st.integers(1, 2),
        numbers=st.lists(st.integers(0, 5), min_size=1, max_size=4),
        other=st.integers(0, 14).map(lambda n: "other" if n == 0 else ""),
        reuse=st.booleans(),
    )
    def receive(self, which: int, numbers: list[int], other: str, reuse: bool) -> None:
        if not (reuse and self.opened):
            self.count += 1
            self.opened.append(f"a{self.count}")
            name = self.opened[-1]
            at = received(name).received_at
            self.intake.association_opened(name, SCANNER, f"{name}.segment", at)
        name = self.opened[-1]
        batch = [received(name, f"1.2.3.{which}", n, content=other) for n in numbers]
        self.intake.index(name, batch, 1)

    @precondition(lambda self: self.opened)
    @rule(ending=st.sampled_from(Ending))
    def end_association(self, ending: Ending) -> None:
        self.intake.association_ended(self.opened.pop(0), ending)

    # --- assemble

    @rule(quiet=st.sampled_from([4.0, 100.0]))
    def judge(self, quiet: float) -> None:
        for revision in self.assembly.waiting():
            if revision.state is SeriesState.OPEN:
                verdict = judge(self.assembly.load(revision.id), quiet, AssembleSettings())
                if isinstance(verdict, Hold):
                    self.assembly.hold(revision.id, revision.instances, verdict.reason)
                elif hasattr(verdict, "reason"):
                    self.assembly.stable(revision.id, revision.instances, verdict.reason)

    @rule(routed=st.booleans())
    def route(self, routed: bool) -> None:
        for revision in self.assembly.waiting():
            if revision.state is SeriesState.STABLE and routed:
                self.assembly.queue(revision.id, [new_job(), new_job("n")], "route")
            elif revision.state is SeriesState.STABLE:
                self.assembly.no_route(revision.id, "none")

    # --- infer

    @rule()
    def claim(self) -> None:
        if got := self.queue.claim("worker"):
            self.claims.append(got)

    @precondition(lambda self: self.claims)
    @rule(data=st.data(), good=st.booleans())
    def finish(self, data: Any, good: bool) -> None:
        got = data.draw(st.sampled_from(self.claims))
        made = [_object(got, kind) for kind in ("seg", "sr")]
        try:
            if good and not got.report_only:
                self.queue.finish(got.lease, Outcome.SUCCEEDED, "done", {"p": made, "q": made[1:]})
            else:
                self.queue.fail(got.lease, "broken", {"p": made[1:]})
        except StaleLease:
            self.claims.remove(got)  # that worker was slow or dead, and now knows

    @precondition(lambda self: self.claims)
    @rule(data=st.data())
    def die(self, data: Any) -> None:
        # the claim stays: the worker may be alive after all, and come too late
        self.queue.take_back(data.draw(st.sampled_from(self.claims)).lease, "silent")

    @precondition(lambda self: self.claims)
    @rule(data=st.data())
    def beat(self, data: Any) -> None:
        got = data.draw(st.sampled_from(self.claims))
        try:
            self.queue.beat(got.lease)
        except StaleLease:
            self.claims.remove(got)

    # --- deliver

    @rule(destination=st.sampled_from("pq"))
    def begin(self, destination: str) -> None:
        for due in self.outbox.due(destination, 600.0)[:2]:
            superseded = self._revision_of(due) is SeriesState.SUPERSEDED
            begun = self.outbox.begin(due)
            assert (begun is None) == superseded
            if begun is not None:
                self.begun.append(begun)

    @precondition(lambda self: self.begun)
    @rule(what=st.sampled_from(["accepted", "sent", "retry", "dead", "killed"]))
    def answer(self, what: str) -> None:
        begun = self.begun.pop(0)
        if self._delivery(begun.id) is not begun.state or what == "killed":
            return  # another try of the same, begun twice, was answered first
        if what == "accepted":
            self.outbox.accepted(begun, "0000")
        elif what == "sent":
            self.outbox.sent(begun, "0000")
        elif what == "retry":
            self.outbox.retry(begun, "A700", 0.0)
        else:
            self.outbox.dead(begun, "C000")

    @rule(kept=st.booleans())
    def confirm(self, kept: bool) -> None:
        sent = self.outbox.unconfirmed("p", 600.0)
        if sent and kept:
            self.outbox.confirmed(sent[0], "listed")
        elif sent:
            self.outbox.asked(sent, 0.0, "1.2.9")
            uid = sent[0].sop_instance_uid
            self.outbox.reported("1.2.9", set(), {uid: "0112"}, lambda n: 0.0 if n < 3 else None)

    # --- operator and upkeep

    @rule(order=st.sampled_from(["hold", "release", "complete", "cancel", "retry", "revive"]))
    def order(self, order: str) -> None:
        operator = Operator(self.engine)
        if order == "revive":
            operator.revive()
        else:
            getattr(operator, order)("1.2.3")

    @rule(destination=st.sampled_from(["p", "q", None]))
    def resend(self, destination: str | None) -> None:
        Operator(self.engine).resend("1.2.3", destination)

    @rule(model=st.sampled_from("mn"))
    def rerun(self, model: str) -> None:
        Operator(self.engine).rerun("1.2.3", model)

    @rule()
    def purge(self) -> None:
        retention = Retention(self.engine)
        for one in retention.purgeable(BEGINNING + timedelta(days=1)):
            assert retention.purge(one.key, "old") == one.instances

    @rule()
    def compact(self) -> None:
        Tally(self.engine).compact()

    # --- what must always hold

    @invariant()
    def only_the_last_revision_counts(self) -> None:
        if not hasattr(self, "engine"):
            return
        revisions = defaultdict(list)
        for row in self._rows(select(series).order_by(series.c.revision)):
            revisions[row.series_uid].append(row)
        for rows in revisions.values():
            assert [row.revision for row in rows] == list(range(1, len(rows) + 1))
            assert all(row.state is SeriesState.SUPERSEDED for row in rows[:-1])
            assert rows[-1].state is not SeriesState.SUPERSEDED
            if rows[-1].state is SeriesState.OPEN:
                assert rows[-1].instances == self._received(rows[-1].series_uid)

    @invariant()
    def what_is_tallied_is_what_counting_finds(self) -> None:
        if not hasattr(self, "engine"):
            return
        counted = {
            name: {
                state.value: number
                for state, number in self._rows(
                    select(table.c.state, func.count()).group_by(table.c.state)
                )
            }
            for name, table in TABLES.items()
        }
        still_open = len(self._rows(select(association.c.id).where(association.c.ending.is_(None))))
        assert Overview(self.engine).counts() == counted | {"association": {"OPEN": still_open}}

    @invariant()
    def every_move_is_legal_and_on_record(self) -> None:
        if not hasattr(self, "engine"):
            return
        last: dict[tuple[str, int], str] = {}
        for row in self._rows(select(transition).order_by(transition.c.id)):
            key = (row.entity, row.entity_id)
            # an instance is received without a row of its own: there are too many of them
            assert row.old == last.get(key, "RECEIVED" if row.entity == "instance" else None)
            last[key] = row.new
            if row.old is not None:
                states = type(_state_of(row.entity, row.new))
                assert states(row.new) in MOVES[states(row.old)]  # type: ignore[index]
        for name in ("series", "job", "delivery"):
            table = TABLES[name]
            for row in self._rows(select(table.c.id, table.c.state)):
                assert last[name, row.id] == row.state.value

    @invariant()
    def input_is_frozen_and_jobs_follow_their_revision(self) -> None:
        if not hasattr(self, "engine"):
            return
        inputs: dict[int, set[int]] = defaultdict(set)
        for row in self._rows(select(job_input)):
            inputs[row.job_id].add(row.instance_id)
        for row in self._rows(
            select(
                job.c.id, job.c.state, series.c.state.label("revision"), series.c.instances
            ).join(series, series.c.id == job.c.series_id)
        ):
            found = frozenset(inputs[row.id])
            assert self.inputs.setdefault(row.id, found) == found
            assert len(found) == row.instances
            if row.revision is SeriesState.SUPERSEDED:
                assert row.state not in (JobState.QUEUED, JobState.RUNNING)

    @invariant()
    def results_come_with_their_job_and_their_deliveries(self) -> None:
        if not hasattr(self, "engine"):
            return
        ended = (JobState.STORED, JobState.FAILED, JobState.POISON)
        with_results = set()
        for row in self._rows(
            select(result.c.id, job.c.id.label("job_id"), job.c.state, func.count(delivery.c.id))
            .join(job, job.c.id == result.c.job_id)
            .outerjoin(delivery, delivery.c.result_id == result.c.id)
            .group_by(result.c.id, job.c.id, job.c.state)
        ):
            assert row.state in ended
            assert row.count >= 1
            with_results.add(row.job_id)
        for row in self._rows(
            select(job).where(job.c.state.in_((JobState.STORED, JobState.FAILED)))
        ):
            assert row.id in with_results
        for row in self._rows(select(delivery).where(delivery.c.state == DeliveryState.CONFIRMED)):
            assert row.attempts >= 1
            assert row.confirmed_at is not None

    def _rows(self, query: Any) -> list[Any]:
        with reading(self.engine) as connection:
            return list(connection.execute(query).all())

    def _received(self, series_uid: str) -> int:
        query = select(func.count()).where(
            instance.c.series_uid == series_uid, instance.c.state == InstanceState.RECEIVED
        )
        return int(self._rows(query)[0][0])

    def _delivery(self, row_id: int) -> DeliveryState:
        state: DeliveryState = self._rows(select(delivery.c.state).where(delivery.c.id == row_id))[
            0
        ][0]
        return state

    def _revision_of(self, due: DueDelivery) -> SeriesState:
        query = (
            select(series.c.state)
            .join(job, job.c.series_id == series.c.id)
            .join(result, result.c.job_id == job.c.id)
            .join(delivery, delivery.c.result_id == result.c.id)
            .where(delivery.c.id == due.id)
        )
        state: SeriesState = self._rows(query)[0][0]
        return state


def _state_of(entity: str, value: str) -> Any:
    kinds = {"instance": InstanceState, "series": SeriesState, "job": JobState}
    return kinds.get(entity, DeliveryState)(value)


def _object(got: ClaimedJob, kind: str) -> ResultObject:
    uid = f"1.2.{int(got.job_key[:12], 16)}.{len(kind)}"
    return ResultObject(
        Path(f"/results/{uid}"),
        "0" * 64,
        kind,
        "1.2.840.1",
        uid,
        "1.2.3.9",
        got.key.study_uid,
        "AI",
    )


StoreMachine.TestCase.settings = settings(
    max_examples=400 if SOAK else 12,
    stateful_step_count=80 if SOAK else 40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
TestStore = StoreMachine.TestCase
