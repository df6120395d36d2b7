"""RGB Secondary Captures: what viewers without SEG or Parametric Map can show (PS3.3 A.8.1).

What comes in: drawn pictures, one a slice. What goes out: single-frame Secondary Capture instances with the
mark burned in. It owns the invariant that no such picture leaves without "AI" on it.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw
from pydicom import Dataset
from pydicom.uid import SecondaryCaptureImageStorage

from dicom_node.compose.context import ComposeContext, DicomFile
from dicom_node.compose.encoding import head
from dicom_node.compose.equipment import Output, common
from dicom_node.compose.grid import source_reference
from dicom_node.compose.part10 import dicom_file
from dicom_node.compose.picture import font
from dicom_node.records import SourceFrame

PIXEL_DATA = 0x7FE00010
Rgb8 = npt.NDArray[np.uint8]


def output(name: str, offset: int, suffix: str) -> Output:
    """A series of secondary captures."""
    return Output(name, offset, SecondaryCaptureImageStorage, "OT", suffix)


def burned(ctx: ComposeContext, picture: Rgb8, lines: Sequence[str] = ()) -> Rgb8:
    """The picture `(y, x, 3)` with the mark and further lines burned into its upper left corner."""
    marked = Image.fromarray(picture)
    draw = ImageDraw.Draw(marked)
    size = max(10, picture.shape[0] // 36)
    mark = f" - {ctx.mark}" if ctx.mark else ""
    for row, line in enumerate((f"AI: {ctx.model.model.title}{mark}", *lines)):
        where = (size // 2, size // 2 + row * int(size * 1.4))
        draw.text(
            where, line, font=font(size), fill=(255, 200, 60), stroke_width=1, stroke_fill=(0, 0, 0)
        )
    return np.asarray(marked)


def capture(
    ctx: ComposeContext,
    header: Dataset,
    of: Output,
    number: int,
    picture: Rgb8,
    source: SourceFrame,
    kind: str,
) -> DicomFile:
    """One picture `(y, x, 3)` as a Secondary Capture that refers to its source image."""
    made = common(ctx, header, of, number)
    made.ImageType = ["DERIVED", "SECONDARY"]
    made.ConversionType = "WSD"
    made.PatientOrientation = None
    made.DerivationDescription = f"Drawn from the result of {ctx.model.name}"
    made.SourceImageSequence = [source_reference(source)]
    made.BurnedInAnnotation = "NO"  # of the patient's identity there is none
    made.SamplesPerPixel = 3
    made.PhotometricInterpretation = "RGB"
    made.PlanarConfiguration = 0
    made.Rows, made.Columns = picture.shape[:2]
    made.BitsAllocated = made.BitsStored = 8
    made.HighBit = 7
    made.PixelRepresentation = 0
    content = np.ascontiguousarray(picture).tobytes()
    content += b"\0" * (len(content) % 2)
    return dicom_file(kind, made, head(PIXEL_DATA, b"OB", len(content)), content)
