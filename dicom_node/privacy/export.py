"""Many objects, study by study, into a folder that can be handed out.

What comes in: the objects of a study, each with the word whether this node made it. What goes out: files
under pseudonyms, a manifest, and the project's table that leads back. It owns the invariants that nothing in
the folder names a patient, that the table is written before the files are, and that what is refused is told.
"""

import csv
import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dicom_node.errors import ConfigurationError, ReadError
from dicom_node.privacy.deidentify import Deidentified, Origin, deidentified, read
from dicom_node.privacy.pictures import Region, Rule
from dicom_node.privacy.pseudonyms import Project
from dicom_node.privacy.rules import Option
from dicom_node.privacy.words import Identity

MANIFEST = "manifest.csv"
_COLUMNS = ("file", "patient", "study", "series", "instance", "modality", "sop_class", "sha256")


@dataclass(frozen=True, slots=True)
class Candidate:
    """An object that may be exported; its bytes are read when they are needed."""

    load: Callable[[], bytes]
    own: bool = False
    """This node made it."""


@dataclass(slots=True)
class Report:
    """What became of an export."""

    written: int = 0
    blacked_out: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    """How many objects were not exported, by reason."""


class Export:
    """Writes the cases of one project to one folder."""

    def __init__(
        self,
        folder: Path,
        project: Project,
        options: frozenset[Option],
        rules: Sequence[Rule] = (),
    ) -> None:
        """Open a folder for what is to be exported.

        Raises:
            ConfigurationError: something lies in it already, or it would hold the project's key.
        """
        folder = folder.resolve()
        if folder in project.key_file.resolve().parents:
            raise ConfigurationError(f"{folder}: the key of the project lies in it; choose another")
        if folder.exists() and any(folder.iterdir()):
            raise ConfigurationError(
                f"{folder}: something lies there already; choose an empty folder"
            )
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._project = project
        self._options = options
        self._rules = rules
        self._seen: set[str] = set()
        self.report = Report()

    def add(self, study: Iterable[Candidate]) -> None:
        """Export the objects of one study: what was received before what was made from it."""
        objects = sorted(study, key=lambda one: one.own)
        identity = Identity(self._options)
        for one in objects:
            try:
                identity.learn(read(one.load()))
            except (ReadError, OSError):
                continue  # refused below, with its reason
        blacked_out: dict[str, tuple[Region, ...]] = {}
        for one in objects:
            try:
                self._export(one, identity, blacked_out)
            except (ReadError, OSError) as error:
                told = (
                    error.strerror or "cannot be read" if isinstance(error, OSError) else str(error)
                )
                self.report.refused[told] = self.report.refused.get(told, 0) + 1

    def _export(
        self, one: Candidate, identity: Identity, blacked_out: dict[str, tuple[Region, ...]]
    ) -> None:
        dataset = read(one.load())
        original = str(dataset.SOPInstanceUID)
        origin = Origin(one.own, blacked_out)
        pseudonyms = self._project.pseudonyms
        made = deidentified(dataset, self._options, pseudonyms, identity, self._rules, origin)
        blacked_out[original] = made.regions
        if made.sop_instance_uid in self._seen:
            return  # sent twice
        self._seen.add(made.sop_instance_uid)
        self._project.remember(set(made.links))
        self._write(made)

    def _write(self, made: Deidentified) -> None:
        place = Path(
            made.pseudonym, _short(made.study_uid), f"{made.modality}-{_short(made.series_uid)}"
        )
        path = self._folder / place / f"{_short(made.sop_instance_uid)}.dcm"
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        partial.write_bytes(made.content)
        partial.replace(path)
        manifest = self._folder / MANIFEST
        begun = manifest.exists()
        with manifest.open("a", newline="", encoding="utf-8") as file:
            rows = csv.writer(file)
            if not begun:
                rows.writerow(_COLUMNS)
            rows.writerow(
                (
                    path.relative_to(self._folder),
                    made.pseudonym,
                    made.study_uid,
                    made.series_uid,
                    made.sop_instance_uid,
                    made.modality,
                    made.sop_class_uid,
                    hashlib.sha256(made.content).hexdigest(),
                )
            )
        self.report.written += 1
        self.report.blacked_out += bool(made.regions)


def _short(uid: str) -> str:
    """A name for a file: never a text that a peer sent."""
    return hashlib.sha256(uid.encode()).hexdigest()[:16]
