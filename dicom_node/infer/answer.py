"""A model's answer to a series: prediction, "not applicable: why", or "failed: why". Never silence.

What comes in: the bytes of a series' instances and a model. What goes out: an `Answer`, and from it the
DICOM files of its results, a report always among them. It knows no queue and no database, so the worker
and `run_on_folder` share it.

Invariant: every error becomes an outcome with a reason; reasons and logs hold no patient data, since an
unexpected error is told by its type and place, never by its message.
"""

import traceback
from collections.abc import Sequence
from dataclasses import dataclass, replace

from pydicom import Dataset

from dicom_node.catalogue import ModelDescription
from dicom_node.compose.context import ComposeContext, DicomFile
from dicom_node.compose.registry import compose, compose_report_only
from dicom_node.errors import NodeError, NotApplicable
from dicom_node.infer.engine import Engine
from dicom_node.observe.logging import get_logger
from dicom_node.read.elements import data_set, walk
from dicom_node.read.header import read_header
from dicom_node.read.uneven import check_denoising, evened, on_scanned_slices
from dicom_node.read.volume import read_image
from dicom_node.records import Image, Outcome, Prediction, RawInstance, Volume

log = get_logger(__name__)

UNEXPECTED = "an unexpected error ({}); the log of the node says where"


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a series at a model.

    Attributes:
        reason: one sentence for people; with a prediction, what was unusual, or empty.
        image: with a prediction, what it was made on.
        headers: of source instances, for a report without a prediction; empty where none can be read.
    """

    outcome: Outcome
    reason: str
    image: Image | None = None
    prediction: Prediction | None = None
    headers: tuple[Dataset, ...] = ()


def answer(
    engine: Engine,
    description: ModelDescription,
    instances: Sequence[RawInstance],
    digest: str | None = None,
    others: Sequence[Sequence[RawInstance]] = (),
) -> Answer:
    """Read a series and run a model on it. Raises nothing that the series or the model could cause.

    Args:
        engine: runs the model.
        description: the model.
        instances: of the series that the result will lie on.
        digest: the model that the job was queued with.
        others: instances of further series that the model takes together with it, in its order.
    """
    try:
        image, *also = [_image(description, one) for one in (instances, *others)]
        check_grid(description, image)
        prediction = _predicted(engine, description, image, also, digest)
    except Exception as error:
        return without_prediction(error, instances)
    notes = dict.fromkeys((*image.notes, *_made_from(also), *prediction.notes))
    prediction = replace(prediction, notes=(*_made_from(also), *prediction.notes))
    return Answer(Outcome.SUCCEEDED, "; ".join(notes), image, prediction)


def _image(description: ModelDescription, instances: Sequence[RawInstance]) -> Image:
    check_header(description, instances)
    return read_image(instances, wanted=description.input.stack)


def _made_from(also: Sequence[Image]) -> tuple[str, ...]:
    """What a report says of the series that were taken together with the one that it refers to."""
    if not also:
        return ()
    headers = [one.headers[0] if isinstance(one, Volume) else one.header for one in also]
    told = ", ".join(str(header.SeriesInstanceUID) for header in headers)
    return (f"made together with series {told}",)


def _predicted(
    engine: Engine,
    description: ModelDescription,
    image: Image,
    also: Sequence[Image],
    digest: str | None,
) -> Prediction:
    """A prediction on the image's own slices; the model sees evenly spaced ones."""
    if not isinstance(image, Volume) or image.even:
        return engine.predict(description, image, digest, also)
    even = evened(image)
    if description.model.task == "denoising":
        check_denoising(even)
    others = [
        one if not isinstance(one, Volume) or one.even else evened(one).volume for one in also
    ]
    predicted = engine.predict(description, even.volume, digest, others)
    return on_scanned_slices(predicted, even)


def without_prediction(error: Exception, instances: Sequence[RawInstance]) -> Answer:
    """What an error means for the series."""
    headers = readable_headers(instances)
    if isinstance(error, NotApplicable):
        return Answer(Outcome.NOT_APPLICABLE, str(error), headers=headers)
    if isinstance(error, NodeError):
        return Answer(Outcome.FAILED, str(error), headers=headers)
    log.error("unexpected error", error=type(error).__name__, at=places(error))
    return Answer(Outcome.FAILED, UNEXPECTED.format(type(error).__name__), headers=headers)


def check_header(description: ModelDescription, instances: Sequence[RawInstance]) -> None:
    """Raise `NotApplicable` where the series' header lies outside the model's input contract."""
    headers = [read_header(one.data, one.transfer_syntax_uid).attributes for one in instances]
    slices = sum(int(attributes.get("frames") or 1) for attributes in headers)
    reason = description.input.violated_by(headers[0] if headers else {}, slices)
    if reason is not None:
        raise NotApplicable(reason)


def check_grid(description: ModelDescription, image: Image) -> None:
    """Raise `NotApplicable` where the image's grid lies outside the model's input contract."""
    if isinstance(image, Volume):
        reason = description.input.violated_by_grid(image.spacing[0], image.array.shape[0])
        if reason is not None:
            raise NotApplicable(reason)


def readable_headers(instances: Sequence[RawInstance]) -> tuple[Dataset, ...]:
    """The headers of the instances that can be read at all; a report needs one and refers to all."""
    found = []
    for instance in instances:
        try:
            header = walk(instance.data, instance.transfer_syntax_uid, ())
            found.append(
                data_set(instance.data, instance.transfer_syntax_uid, header.header_length)
            )
        except Exception as error:
            log.warning("unreadable header", error=type(error).__name__)
    return tuple(found)


def composed(ctx: ComposeContext, given: Answer) -> tuple[Answer, list[DicomFile]]:
    """The result objects of an answer; what cannot be composed becomes a report that says so."""
    if given.image is not None and given.prediction is not None:
        try:
            return given, compose(ctx, given.image, given.prediction)
        except Exception as error:
            given = _not_composed(error, given.image)
    if not given.headers:
        return given, []
    try:
        return given, compose_report_only(ctx, given.headers, given.outcome, given.reason)
    except Exception as error:
        log.error("no report", error=type(error).__name__, at=places(error))
        return given, []


def _not_composed(error: Exception, image: Image) -> Answer:
    if isinstance(error, NodeError):
        reason = str(error)
    else:
        log.error("not composed", error=type(error).__name__, at=places(error))
        reason = UNEXPECTED.format(type(error).__name__)
    headers = tuple(image.headers) if isinstance(image, Volume) else (image.header,)
    return Answer(Outcome.FAILED, reason, headers=headers)


def places(error: BaseException) -> list[str]:
    """Where an error came through, innermost last: files, lines and functions, but no values."""
    frames = traceback.extract_tb(error.__traceback__)[-8:]
    return [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]
