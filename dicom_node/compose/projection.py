"""A projection image as a volume of one slice, for what is composed of either.

What comes in: a radiograph. What goes out: a `Volume` whose slice it is, at no place in the patient: results
on it refer to the image alone. It owns the invariant that millimetres are taken for real only where the
image is calibrated (PS3.3 10.7.1.3): the spacing at the detector is not that of the patient.
"""

import numpy as np
from pydicom import Dataset

from dicom_node.compose.source import numbers, value
from dicom_node.records import ProjectionImage, Segmentation, Volume


def as_slice(image: ProjectionImage) -> Volume:
    """The image as `(1, y, x)`; where no spacing is known, a pixel counts as 1 mm."""
    found = numbers(image.header, "PixelSpacing") or numbers(image.header, "ImagerPixelSpacing")
    rows, columns = found if len(found) == 2 and min(found) > 0 else (1.0, 1.0)
    return Volume(
        array=image.array[None],
        affine=np.diag([1.0, rows, columns, 1.0])[[2, 1, 0, 3]],
        frames=(image.frame,),
        headers=(image.header,),
        rescale=np.array([[1.0, 0.0]]),
        notes=image.notes,
    )


def on_slice(prediction: Segmentation) -> Segmentation:
    """Labels `(y, x)` as `(1, y, x)`."""
    labels = prediction.labels
    return Segmentation(labels[None] if labels.ndim == 2 else labels, notes=prediction.notes)


def is_calibrated(header: Dataset) -> bool:
    """Whether Pixel Spacing is that of the patient."""
    spacing = numbers(header, "PixelSpacing")
    if not spacing:
        return False
    at_detector = numbers(header, "ImagerPixelSpacing")
    return bool(value(header, "PixelSpacingCalibrationType")) or spacing != at_detector
