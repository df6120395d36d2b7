"""What `dicom-node export` does: takes cases out of a node, and files out of a folder, without identities.

What comes in: settings, and which studies. What goes out: a folder of copies, and the audit trail's word of
each. The node may run meanwhile; nothing of it is changed. How an object is cleaned is `privacy`'s business.
"""

import getpass
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from dicom_node.app.opened import opened_database
from dicom_node.errors import ConfigurationError, ReadError
from dicom_node.files import dicom_files
from dicom_node.observe.audit import Action, Actor, AuditEvent, Event, message
from dicom_node.privacy.deidentify import read
from dicom_node.privacy.export import Candidate, Export, Report
from dicom_node.privacy.pictures import Rule
from dicom_node.privacy.pseudonyms import Project
from dicom_node.privacy.rules import Option
from dicom_node.records import StoredInstance
from dicom_node.settings import Settings
from dicom_node.store.audit import AuditOutbox
from dicom_node.store.cases import Cases
from dicom_node.store.database import Engine, utc_now
from dicom_node.store.spool import RecordMeta, part10

EXPORT_FOLDER = "export"
"""Of the data folder: keys and tables of export projects. Never of what is exported."""


def exported_cases(
    settings: Settings,
    studies: Sequence[str],
    model: str | None,
    to: Path,
    project: str,
    options: frozenset[Option],
    rules: Sequence[Rule],
    results: bool,
) -> Report:
    """De-identified copies of studies that the node received, and of its results; each is in the audit trail.

    Raises:
        ConfigurationError: a study is not known here, or the folder or the project cannot be used.
    """
    with opened_database(settings) as engine:
        cases = Cases(engine)
        wanted = dict.fromkeys((*studies, *(cases.studies(model) if model else ())))
        export = Export(to, _project(settings, project), options, rules)
        for study in wanted:
            received = cases.instances(study)
            if not received:
                raise ConfigurationError(f"{study}: nothing of this study is here")
            objects = [Candidate(partial(_bytes, settings, one)) for one in received]
            if results:
                paths = (path for path in cases.results(study) if path.exists())
                objects += [Candidate(path.read_bytes, own=True) for path in paths]
            before = export.report.written
            export.add(objects)
            _audit(engine, settings, study, export.report.written - before, project)
    return export.report


def exported_folder(
    settings: Settings,
    folder: Path,
    to: Path,
    project: str,
    options: frozenset[Option],
    rules: Sequence[Rule],
) -> Report:
    """De-identified copies of the DICOM files of a folder, whoever made them."""
    export = Export(to, _project(settings, project), options, rules)
    studies: dict[str, list[Candidate]] = defaultdict(list)
    for path in dicom_files([folder]):
        try:
            study = str(read(path.read_bytes()).StudyInstanceUID)
        except ReadError:
            study = f"unreadable {path}"  # refused with its reason when its turn comes
        studies[study].append(Candidate(path.read_bytes))
    for objects in studies.values():
        export.add(objects)
    return export.report


def _project(settings: Settings, name: str) -> Project:
    return Project(settings.data_dir / EXPORT_FOLDER, name)


def _bytes(settings: Settings, one: StoredInstance) -> bytes:
    meta = RecordMeta(one.sop_class_uid, one.sop_instance_uid, one.transfer_syntax_uid, utc_now())
    return part10(settings.spool_dir, meta, one.address)


def _audit(engine: Engine, settings: Settings, study: str, count: int, project: str) -> None:
    """PS3.15 A.5.3.5: who exported what."""
    node = settings.receive.ae_title
    event = AuditEvent(
        event=Event.EXPORT,
        action=Action.READ,
        at=utc_now(),
        actors=(Actor(getpass.getuser(), requestor=True), Actor(node, requestor=False)),
        study_uid=study,
        instances=count,
        details={"project": project, "profile": "PS3.15 Annex E, de-identified"},
    )
    AuditOutbox(engine).add(message(event, node))
