"""What the command line opens of a node whether it runs or not: orders, clearing up, trying the routes.

What comes in: settings. What goes out: a view of the store for the length of a `with` block, or answers
about files. Nothing here starts a process or speaks to a peer.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from dicom_node.app.checks import check
from dicom_node.app.opened import opened_database
from dicom_node.assemble.explain import Explanation, explain
from dicom_node.files import dicom_files
from dicom_node.read.header import read_header
from dicom_node.read.part10 import raw_instance
from dicom_node.records import InstanceFacts, Peer, RawInstance, SeriesKey
from dicom_node.settings import Settings
from dicom_node.store.checking import problems
from dicom_node.store.copying import TableCopy, copy_database
from dicom_node.store.database import connect, open_database, schema_of, upgrade
from dicom_node.store.folders import folder_id
from dicom_node.store.operator import Operator
from dicom_node.store.overview import Overview
from dicom_node.store.retention import Retention
from dicom_node.store.spool import open_data_set
from dicom_node.store.worklist import Worklist
from dicom_node.upkeep.retention import Sweeper


@contextmanager
def opened_operator(settings: Settings, name: str) -> Iterator[Operator]:
    """Orders of one person, named in every reason.

    Raises:
        ConfigurationError: there is no database yet.
    """
    with opened_database(settings) as engine:
        yield Operator(engine, name)


@contextmanager
def opened_sweeper(settings: Settings) -> Iterator[Sweeper]:
    """What clears the disk, and says beforehand what it would delete.

    Raises:
        ConfigurationError: there is no database yet.
    """
    with opened_database(settings) as engine:
        yield Sweeper(settings, Retention(engine))


def upgraded(settings: Settings) -> tuple[str | None, str | None]:
    """Bring the database up to date; the schema before and after."""
    engine = connect(settings.effective_database_url)
    try:
        before = schema_of(engine)
        upgrade(engine)
        return before, schema_of(engine)
    finally:
        engine.dispose()


def database_problems(settings: Settings, *, content: bool) -> Iterator[str]:
    """What is wrong with the database, or between it and the files; see `store.checking`."""
    engine = connect(settings.effective_database_url)
    try:
        here = folder_id(settings.data_dir)
        yield from problems(engine, settings.spool_dir, here, content=content)
    finally:
        engine.dispose()


def copied(settings: Settings, to: str) -> list[TableCopy]:
    """Every row of the node's database in another, empty one; see `store.copying`.

    Raises:
        ConfigurationError: there is no database yet, or the other cannot take its rows.
    """
    with opened_database(settings) as source:
        target = open_database(to)
        try:
            return copy_database(source, target)
        finally:
            target.dispose()


def explained(settings: Settings, paths: Iterable[Path], calling_ae: str) -> list[Explanation]:
    """What would become of files if `calling_ae` sent them, series by series.

    Raises:
        ReadError, CannotUnderstand: a file is no DICOM that can be read.
    """
    peer = Peer(calling_ae, settings.receive.ae_title, "localhost")
    return explain(map(_facts, dicom_files(paths)), peer, settings, check(settings))


def _facts(path: Path) -> tuple[SeriesKey, InstanceFacts]:
    raw = raw_instance(path)
    header = read_header(raw.data, raw.transfer_syntax_uid)
    facts = InstanceFacts(
        id=0,
        sop_instance_uid=raw.sop_instance_uid,
        sop_class_uid=raw.sop_class_uid,
        sha256="",
        patient_id=header.patient_id,
        attributes=header.attributes,
        quarantine=header.oddities,
    )
    return SeriesKey(header.study_uid, header.series_uid), facts


def results_of(settings: Settings, study_uid: str) -> list[tuple[Path, list[RawInstance]]]:
    """The result files of a study that are still here, each with the images it was made from."""
    with opened_database(settings) as engine:
        jobs = [job for row in Overview(engine).studies(study_uid) for job in row["jobs"]]
        worklist = Worklist(engine)
        found: dict[Path, list[RawInstance]] = {}
        for job in jobs:
            source = [
                RawInstance(
                    open_data_set(settings.spool_dir, one.address),
                    one.transfer_syntax_uid,
                    one.sop_class_uid,
                    one.sop_instance_uid,
                )
                for one in worklist.inputs(job["id"])
            ]
            paths = (Path(result["path"]) for result in job["results"])
            found |= {path: source for path in paths if path.exists()}
        return list(found.items())
