"""A model on a folder of DICOM files, without a node: no listener, no queue, no database.

What comes in: files of any number of series. What goes out: result objects in a folder, a report for each
series always among them. The objects are those that a node would have made of the same bytes, but for their
UIDs, which derive from these files and this way of running.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from dicom_node import __version__
from dicom_node.catalogue import ModelDescription
from dicom_node.compose.context import DEFAULT_KINDS, ComposeContext
from dicom_node.compose.part10 import write
from dicom_node.errors import ReadError
from dicom_node.files import dicom_files
from dicom_node.infer.answer import Answer, answer, composed
from dicom_node.infer.engine import LocalEngine
from dicom_node.read.header import read_header
from dicom_node.read.part10 import raw_instance
from dicom_node.records import RawInstance, ResultObject
from dicom_node.settings import Settings


@dataclass(frozen=True, slots=True)
class SeriesRun:
    """What became of one series of the folder.

    Attributes:
        series_uid: which.
        description: its Series Description, or its modality.
        instances: how many files it has.
        answer: outcome, reason, prediction.
        results: the files that were written.
    """

    series_uid: str
    description: str
    instances: int
    answer: Answer
    results: tuple[ResultObject, ...]


def run_on_folder(
    description: ModelDescription,
    folder: Path,
    out: Path,
    settings: Settings | None = None,
    *,
    kinds: Iterable[str] = DEFAULT_KINDS,
    tell: Callable[[SeriesRun], None] | None = None,
) -> list[SeriesRun]:
    """Run a model on every series of a folder, and write its results.

    Args:
        description: the model.
        folder: searched for DICOM files, with its subfolders; or a single file.
        out: results go to `out/<n>/`, one folder a series, in the order of their UIDs.
        settings: device, threads, serial number; default: a node's defaults.
        kinds: which kinds of result are wanted.
        tell: called when a series is done.

    Raises:
        ReadError: the folder holds no DICOM image that can be grouped into a series.
    """
    settings = settings or Settings()
    engine = LocalEngine(settings.infer)
    paths = dicom_files([folder])
    series = series_of(paths)
    if not series:
        raise ReadError(f"{folder}: {_why_none(paths)}")
    done = []
    for number, (uid, instances) in enumerate(sorted(series.items()), start=1):
        given = answer(engine, description, instances)
        context = _context(description, instances, settings, frozenset(kinds))
        given, files = composed(context, given)
        results = tuple(write(files, out / str(number)))
        done.append(SeriesRun(uid, _name(instances[0]), len(instances), given, results))
        if tell is not None:
            tell(done[-1])
    return done


def series_of(paths: Iterable[Path]) -> dict[str, list[RawInstance]]:
    """Files by Series Instance UID; what is no DICOM data set is left out."""
    found: dict[str, list[RawInstance]] = {}
    for path in paths:
        try:
            uid, instance = _identified(path)
        except Exception:
            continue  # a folder may hold anything; only what reads as DICOM counts
        found.setdefault(uid, []).append(instance)
    return found


def _identified(path: Path) -> tuple[str, RawInstance]:
    instance = raw_instance(path)
    return read_header(instance.data, instance.transfer_syntax_uid).series_uid, instance


def _why_none(files: Sequence[Path]) -> str:
    """Why no series was found, in words about the first file."""
    for path in files[:1]:
        try:
            _identified(path)
        except Exception as error:
            return f"none of its {len(files)} DICOM files can be read ({path.name}: {error})"
    return "no DICOM files"


def _context(
    description: ModelDescription,
    instances: Sequence[RawInstance],
    settings: Settings,
    kinds: frozenset[str],
) -> ComposeContext:
    key = hashlib.sha256(f"run\0{description.name}\0{description.digest}\0".encode())
    for digest in sorted(hashlib.sha256(one.data).hexdigest() for one in instances):
        key.update(digest.encode())
    return ComposeContext(
        model=description,
        job_key=key.hexdigest(),
        node_version=__version__,
        created_at=datetime.now(UTC),
        not_for_clinical_use=settings.not_for_clinical_use,
        device_serial=settings.institution_serial,
        kinds=kinds,
    )


def _name(instance: RawInstance) -> str:
    attributes = read_header(instance.data, instance.transfer_syntax_uid).attributes
    return str(attributes.get("series_description") or attributes.get("modality") or "")
