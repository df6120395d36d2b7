"""Denoised series: the source's own instances with other pixels (PS3.3 C.7.6.1.1.2, derived images).

What comes in: a volume and its denoised values. What goes out: an instance for each source instance, of
the source's SOP class, in a new series. It owns the invariant that geometry and rescale are the source's,
byte for byte, and that padding stays padding. Elements of the source are passed on as they were received
where their encoding allows it.
"""

from collections.abc import Iterable, Mapping
from copy import deepcopy
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom import Dataset
from pydicom.uid import ExplicitVRLittleEndian

from dicom_node.catalogue import Code
from dicom_node.compose.codes import coded
from dicom_node.compose.context import ComposeContext, DicomFile
from dicom_node.compose.encoding import head, sequence, string
from dicom_node.compose.equipment import Output, common, instance_uid
from dicom_node.compose.grid import source_reference
from dicom_node.compose.kernels import store_slice
from dicom_node.compose.measure import for_each_slice
from dicom_node.compose.part10 import encode, preamble
from dicom_node.compose.seg import source_image
from dicom_node.compose.source import numbers
from dicom_node.errors import ComposeError
from dicom_node.records import Denoised, EncodedHeaders, Float32, Volume

PIXEL_DATA = 0x7FE00010
SMOOTHING: Code = ("113087", "DCM", "Smoothing")
"""The nearest of CID 7203; Derivation Description says what it was."""

_FRAME_TYPES = (
    "CTImageFrameTypeSequence",
    "MRImageFrameTypeSequence",
    "PETFrameTypeSequence",
)
_FROM_COMMON = (
    "InstanceCreationDate",
    "InstanceCreationTime",
    "SeriesDate",
    "SeriesTime",
    "ContentDate",
    "ContentTime",
    "SeriesInstanceUID",
    "SeriesNumber",
    "SeriesDescription",
    "Manufacturer",
    "ManufacturerModelName",
    "DeviceSerialNumber",
    "SoftwareVersions",
    "ContributingEquipmentSequence",
)
_DROPPED = frozenset(
    {
        0x00080014,  # Instance Creator UID
        0x00280106,  # Smallest and Largest Image Pixel Value, in image and series
        0x00280107,
        0x00280108,
        0x00280109,
        0x00880200,  # Icon Image Sequence shows the source
        0x4FFE0001,  # MAC parameters
        0xFFFAFFFA,  # signatures of the source
        0xFFFCFFFC,
    }
)


def denoised_series(ctx: ComposeContext, volume: Volume, prediction: Denoised) -> list[DicomFile]:
    """The denoised instances, in slice order, or in one file for each multi-frame source.

    Raises:
        ComposeError: the shape is not the source's, or values are not finite.
    """
    if prediction.array.shape != volume.array.shape:
        raise ComposeError(
            f"the denoised image is {prediction.array.shape}, the source {volume.array.shape}"
        )
    header = volume.headers[0]
    output = Output("denoised", 2, str(header.SOPClassUID), str(header.Modality), "denoised")
    pixels = stored_pixels(volume, prediction.array, header)
    shared = _shared(ctx, header, output)
    if volume.frames[0].frame_number is None:
        return [
            _instance(ctx, volume, output, shared, index, pixels[index])
            for index in range(len(volume.frames))
        ]
    return [
        _multi_frame(ctx, volume, output, shared, index, pixels)
        for index in range(len(volume.headers))
    ]


def stored_pixels(volume: Volume, values: Float32, header: Dataset) -> npt.NDArray[Any]:
    """Stored values `(z, y, x)` under the source's own rescale, limited to its Bits Stored.

    Raises:
        ComposeError: a value is not finite.
    """
    bits, signed = int(header.BitsStored), bool(header.get("PixelRepresentation"))
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
    kind = np.dtype(f"{'i' if signed else 'u'}{int(header.BitsAllocated) // 8}")
    made = np.empty(values.shape, dtype=kind)
    padding = numbers(header, "PixelPaddingValue")
    broken: list[int] = []

    def one(z: int) -> None:
        slope, intercept = volume.rescale[z]
        if not store_slice(values[z], slope, intercept, low, high, made[z]):
            broken.append(z)
        elif padding and volume.padding is not None:
            made[z][volume.padding[z]] = np.array(int(padding[0])).astype(kind)

    for_each_slice(one, range(len(values)))
    if broken:
        raise ComposeError(f"slice {min(broken) + 1} of the denoised image is not finite")
    return made


def _shared(ctx: ComposeContext, header: Dataset, output: Output) -> dict[int, bytes]:
    """Encoded elements that all instances of the new series have, by tag."""
    everything = common(ctx, header, output)
    made = Dataset()
    for keyword in _FROM_COMMON:
        made[keyword] = everything[keyword]
    kinds = [str(value) for value in header.get("ImageType") or []]
    # PS3.3 C.8.16.1.2, C.8.9.4.1.3: value 2 of a multi-frame or PET image is always PRIMARY
    always = "NumberOfFrames" in header or header.get("Modality") == "PT"
    second = "PRIMARY" if always else "SECONDARY"
    made.ImageType = ["DERIVED", second, *kinds[2:]]
    model = ctx.model.model
    mark = f" {ctx.mark}." if ctx.mark else ""
    made.DerivationDescription = (
        f"Noise reduction by the neural network {model.name} {model.version}, "
        f"sha256 {ctx.model.digest}.{mark}"
    )
    made.DerivationCodeSequence = [coded(SMOOTHING)]
    made.BurnedInAnnotation = "NO"
    return {int(one.tag): encode(_only(made, one.keyword)) for one in made}


def _only(of: Dataset, keyword: str) -> Dataset:
    one = Dataset()
    one[keyword] = of[keyword]
    return one


def _elements(volume: Volume, index: int) -> Iterable[tuple[int, bytes]]:
    """Tag and bytes of each element of a source header, in Explicit VR Little Endian."""
    headers = volume.headers
    if isinstance(headers, EncodedHeaders) and (found := headers.elements(index)) is not None:
        return found
    plain = deepcopy(headers[index])  # Dataset(other) would share its elements
    plain.pop("PixelData", None)
    plain.remove_private_tags()
    plain.decode()
    plain.SpecificCharacterSet = "ISO_IR 192"
    return [(int(one.tag), encode(_only(plain, one.keyword))) for one in plain if one.keyword]


def _spliced(source: Iterable[tuple[int, bytes]], own: Mapping[int, bytes]) -> bytes:
    """The source's elements with ours in their places, private and pointless ones dropped."""
    kept = {
        tag: content
        for tag, content in source
        if not tag >> 16 & 1 and tag not in _DROPPED and not 0x6000 <= tag >> 16 <= 0x601E
    }
    merged = kept | dict(own)
    return b"".join(merged[tag] for tag in sorted(merged))


def _of_instance(ctx: ComposeContext, output: Output, number: int) -> dict[int, bytes]:
    uid = instance_uid(ctx, output, number)
    return {0x00080018: string(0x00080018, b"UI", uid)}


def _instance(
    ctx: ComposeContext,
    volume: Volume,
    output: Output,
    shared: Mapping[int, bytes],
    index: int,
    pixels: npt.NDArray[Any],
) -> DicomFile:
    own = _of_instance(ctx, output, index + 1)
    own[0x00082112] = sequence(0x00082112, source_image(volume.frames[index]))
    return _file(ctx, volume, output, {**shared, **own}, index, pixels)


def _multi_frame(
    ctx: ComposeContext,
    volume: Volume,
    output: Output,
    shared: Mapping[int, bytes],
    index: int,
    pixels: npt.NDArray[Any],
) -> DicomFile:
    """One multi-frame instance: its functional groups stay, its frames in their stored order.

    Of an instance of several stacks it holds the frames of the one that was denoised.
    """
    header = volume.headers[index]
    uid = str(header.SOPInstanceUID)
    slices = [z for z, frame in enumerate(volume.frames) if frame.sop_instance_uid == uid]
    slices.sort(key=lambda z: volume.frames[z].frame_number or 0)
    own = _of_instance(ctx, output, index + 1)
    groups = Dataset()
    groups.SharedFunctionalGroupsSequence = [
        _derived(item) for item in header.get("SharedFunctionalGroupsSequence") or []
    ]
    groups.NumberOfFrames = len(slices)
    stored = header.PerFrameFunctionalGroupsSequence
    groups.PerFrameFunctionalGroupsSequence = [
        _derived(stored[(volume.frames[z].frame_number or 1) - 1]) for z in slices
    ]
    for z, group in zip(slices, groups.PerFrameFunctionalGroupsSequence, strict=True):
        derivation = Dataset()
        derivation.DerivationCodeSequence = [coded(SMOOTHING)]
        derivation.SourceImageSequence = [source_reference(volume.frames[z])]
        group.DerivationImageSequence = [derivation]
    own |= {int(one.tag): encode(_only(groups, one.keyword)) for one in groups}
    return _file(ctx, volume, output, {**shared, **own}, index, pixels[slices])


def _derived(group: Dataset) -> Dataset:
    """A functional group whose Frame Type says that it is derived; the source's stays as it is."""
    made = deepcopy(group)
    for keyword in _FRAME_TYPES:
        if group.get(keyword):
            item = made[keyword].value[0]
            item.FrameType = ["DERIVED", *list(item.get("FrameType") or [""])[1:]]
    return made


def _file(
    ctx: ComposeContext,
    volume: Volume,
    output: Output,
    own: Mapping[int, bytes],
    index: int,
    pixels: npt.NDArray[Any],
) -> DicomFile:
    uid = instance_uid(ctx, output, index + 1)
    data = np.ascontiguousarray(pixels).astype(pixels.dtype.newbyteorder("<"), copy=False)
    content: bytes | memoryview = data.reshape(-1).view(np.uint8).data
    if len(content) % 2:
        content = bytes(content) + b"\0"
    vr = b"OW" if data.dtype.itemsize > 1 else b"OB"
    return DicomFile(
        kind="denoised",
        sop_class_uid=output.sop_class_uid,
        sop_instance_uid=uid,
        series_uid=_text_of(own[0x0020000E]),
        study_uid=str(volume.headers[0].StudyInstanceUID),
        description=_text_of(own[0x0008103E]),
        parts=(
            preamble(output.sop_class_uid, uid, ExplicitVRLittleEndian),
            _spliced(_elements(volume, index), own),
            head(PIXEL_DATA, vr, len(content)),
            content,
        ),
    )


def _text_of(encoded: bytes) -> str:
    """The value of an encoded element with a short length field."""
    return encoded[8:].decode("utf-8").strip(" \0")
