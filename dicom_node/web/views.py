"""What the page and the API show: shapes of their own, so that neither shows a column by accident.

What comes in: dictionaries of the store. What goes out: pydantic models. It owns one rule: a patient's
name, ID and accession number leave only for a role that may see them; others see a stand-in that is the
same for the same patient.
"""

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from dicom_node.store.accounts import UserRole
from dicom_node.store.worklist import as_utc
from dicom_node.web.state import TONES_OF_STATES, Stage, standing_of_series, standing_of_study


class View(BaseModel):
    """Something that is shown."""

    model_config = ConfigDict(frozen=True)


class DeliveryView(View):
    """A result on its way to a destination."""

    id: int
    destination: str
    state: str
    tone: str
    reason: str
    attempts: int
    sent_at: datetime | None
    confirmed_at: datetime | None


class ResultView(View):
    """A DICOM object that was made."""

    id: int
    kind: str
    description: str
    sop_instance_uid: str
    created_at: datetime
    deliveries: list[DeliveryView]


class JobView(View):
    """One model on one series."""

    id: int
    model: str
    route: str
    state: str
    tone: str
    outcome: str | None
    reason: str
    attempts: int
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    results: list[ResultView]


class SeriesView(View):
    """A revision of a series."""

    id: int
    series_uid: str
    revision: int
    current: bool = Field(description="False where a later revision replaced it.")
    state: str
    stage: Stage
    tone: str
    reason: str
    modality: str
    description: str
    number: str
    body_part: str
    instances: int
    calling_ae: str
    called_ae: str
    first_received_at: datetime
    received_at: datetime
    jobs: list[JobView]


class StudyView(View):
    """A study, with its series."""

    study_uid: str
    hash: str = Field(description="How logs name this study.")
    patient: str = Field(description="Name; a stand-in where the role may not see it.")
    patient_id: str = Field(description="ID; empty where the role may not see it.")
    accession_number: str
    study_date: str
    description: str
    modalities: list[str]
    calling_ae: str
    instances: int
    received_at: datetime
    stage: Stage
    tone: str
    reason: str
    series: list[SeriesView]


@dataclass(frozen=True, slots=True)
class StudyRow:
    """A study as a line of the worklist; as `StudyView`, without what a line does not show."""

    study_uid: str
    hash: str
    patient: str
    patient_id: str
    accession_number: str
    study_date: str
    description: str
    modalities: list[str]
    calling_ae: str
    instances: int
    received_at: datetime
    stage: Stage
    tone: str
    reason: str


class StudyList(View):
    """A stretch of the worklist, newest first."""

    studies: list[StudyView]
    older: int | None = Field(description="Pass it as `before` for what is older; null at the end.")


class MoveView(View):
    """A state that was entered."""

    at: datetime
    entity: str
    entity_id: int
    what: str
    old: str | None
    new: str
    tone: str
    reason: str


class StoryView(View):
    """Everything that happened to a study."""

    study: StudyView
    moves: list[MoveView]


class Viewer:
    """Shows what a role may see."""

    def __init__(self, role: UserRole, key: bytes) -> None:
        """Args:
        role: of who looks.
        key: a secret of the node, so that a stand-in cannot be found by trying IDs.
        """
        self.identities = role.may(UserRole.OPERATOR)
        self._key = key

    def study(self, row: Mapping[str, Any]) -> StudyView:
        """A study as this role sees it."""
        return StudyView(**asdict(self.row(row)), series=[_series(one) for one in row["series"]])

    def row(self, row: Mapping[str, Any]) -> StudyRow:
        """A line of the worklist as this role sees it."""
        standing = standing_of_study(row["series"])
        current = [one for one in row["series"] if one["current"]]
        modalities = {str(one["attributes"].get("modality") or "") for one in current}
        return StudyRow(
            study_uid=row["study_uid"],
            hash=row["hash"],
            patient=self._patient(row),
            patient_id=row["patient_id"] if self.identities else "",
            accession_number=row["accession_number"] if self.identities else "",
            study_date=readable_date(row["study_date"]),
            description=row["description"],
            modalities=sorted(modalities - {""}),
            calling_ae=row["calling_ae"],
            instances=sum(one["instances"] for one in current),
            received_at=row["received_at"],
            stage=standing.stage,
            tone=standing.stage.tone,
            reason=standing.reason,
        )

    def _patient(self, row: Mapping[str, Any]) -> str:
        if self.identities:
            return readable_name(row["patient_name"]) or row["patient_id"] or "unnamed"
        digest = hmac.new(self._key, str(row["patient_id"]).encode(), hashlib.sha256)
        return f"patient {digest.hexdigest()[:8]}"

    def story(self, row: Mapping[str, Any], moves: list[dict[str, Any]]) -> StoryView:
        """A study with its moves, each told in words."""
        study = self.study(row)
        names = _names(study)
        told = [
            MoveView(
                **{key: move[key] for key in ("entity", "entity_id", "old", "new", "reason")},
                at=as_utc(move["at"]),
                what=names.get((move["entity"], move["entity_id"]), move["entity"]),
                tone=TONES_OF_STATES.get(move["new"], "quiet"),
            )
            for move in moves
        ]
        return StoryView(study=study, moves=told)


def _series(row: Mapping[str, Any]) -> SeriesView:
    attributes = row["attributes"]
    stage = standing_of_series(dict(row)).stage
    return SeriesView(
        **{
            key: row[key]
            for key in (
                *("id", "series_uid", "revision", "current", "state", "reason", "instances"),
                *("calling_ae", "called_ae", "first_received_at", "received_at"),
            )
        },
        stage=stage,
        tone=stage.tone if row["current"] else "quiet",
        modality=str(attributes.get("modality") or ""),
        description=str(attributes.get("series_description") or ""),
        number=str(attributes.get("series_number") or ""),
        body_part=str(attributes.get("body_part") or ""),
        jobs=[_job(one) for one in row["jobs"]],
    )


def _job(row: Mapping[str, Any]) -> JobView:
    names = set(JobView.model_fields) - {"tone", "results"}
    results = [_result(one) for one in row["results"]]
    tone = TONES_OF_STATES.get(row["state"], "quiet")
    return JobView(**{name: row[name] for name in names}, tone=tone, results=results)


def _result(row: Mapping[str, Any]) -> ResultView:
    deliveries = [
        DeliveryView(
            **{name: one[name] for name in set(DeliveryView.model_fields) - {"tone"}},
            tone=TONES_OF_STATES.get(one["state"], "quiet"),
        )
        for one in row["deliveries"]
    ]
    names = set(ResultView.model_fields) - {"deliveries"}
    return ResultView(**{name: row[name] for name in names}, deliveries=deliveries)


def _names(study: StudyView) -> dict[tuple[str, int], str]:
    """What a person calls each thing that moves."""
    names: dict[tuple[str, int], str] = {}
    for series in study.series:
        told = " ".join(part for part in (series.modality, series.description) if part)
        revision = f", revision {series.revision}" if series.revision > 1 else ""
        names["series", series.id] = f"Series {told or series.number}{revision}"
        for job in series.jobs:
            names["job", job.id] = f"Job {job.model}"
            for result in job.results:
                for delivery in result.deliveries:
                    told = f"{result.kind.upper().replace('_', ' ')} to {delivery.destination}"
                    names["delivery", delivery.id] = told
    return names


def readable_name(value: str) -> str:
    """A person name (PS3.5 6.2.1) as people write it: family, given; the alphabetic group alone."""
    parts = [part.strip() for part in value.split("=")[0].split("^")]
    family, given = parts[0], " ".join(part for part in parts[1:3] if part)
    return ", ".join(part for part in (family, given) if part)


def readable_date(value: str) -> str:
    """A DICOM date as ISO 8601; anything else as it is."""
    return f"{value[:4]}-{value[4:6]}-{value[6:]}" if len(value) == 8 and value.isdigit() else value
