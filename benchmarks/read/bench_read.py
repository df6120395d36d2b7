"""A CT series in memory to a float volume, beside the codecs alone, pydicom and SimpleITK, in one run.

    python -m benchmarks.read.bench_read [--slices 300]

Prints a table, the best of three runs: seconds on the clock and seconds of processor time. Slices are 512 x
512, 16 bits, smooth with noise. SimpleITK and MONAI read files, which lie in memory (/dev/shm).
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import imagecodecs
import numpy as np
import pydicom
import SimpleITK as sitk
from pydicom.uid import (
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from dicom_node.read.pixels import CODECS, RLE
from dicom_node.read.volume import read_image
from dicom_node.records import RawInstance
from tests.builders import images


def stored(slices: int) -> np.ndarray:
    """A body-like series: smooth, with noise of about 10 units."""
    z, y, x = np.ogrid[:slices, :512, :512]
    smooth = 1000 + 400 * np.sin(x / 60) * np.cos(y / 75) + z
    noise = np.random.default_rng(0).normal(0, 10, (slices, 512, 512))
    return (smooth + noise).astype(np.int16)


def timed(work: Callable[[], object], times: int = 3) -> tuple[float, float]:
    clock = processor = float("inf")
    for _ in range(times):
        started, spent = time.perf_counter(), time.process_time()
        work()
        clock = min(clock, time.perf_counter() - started)
        processor = min(processor, time.process_time() - spent)
    return clock, processor


def rle(frame: np.ndarray) -> bytes:
    from pydicom.pixels import get_encoder

    return get_encoder(RLELossless).encode(
        frame.tobytes(),
        rows=512,
        columns=512,
        samples_per_pixel=1,
        number_of_frames=1,
        bits_allocated=16,
        bits_stored=16,
        pixel_representation=1,
        photometric_interpretation="MONOCHROME2",
    )


ENCODERS = {
    "JPEG-LS": (JPEGLSLossless, lambda f: imagecodecs.jpegls_encode(f.view(np.uint16))),
    "JPEG 2000": (
        JPEG2000Lossless,
        lambda f: imagecodecs.jpeg2k_encode(f.view(np.uint16), codecformat="j2k", reversible=True),
    ),
    "HTJ2K": (
        HTJ2KLossless,
        lambda f: imagecodecs.htj2k_encode(f.view(np.uint16), reversible=True),
    ),
    "RLE": (RLELossless, rle),
}


def codec_alone(syntax: str, frames: Sequence[bytes]) -> None:
    """Nothing but the codec, on all cores."""
    decode = CODECS.get(syntax, lambda data: imagecodecs.dicomrle_decode(data, dtype="<u2"))
    assert syntax in CODECS or syntax == RLE
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for _ in pool.map(decode, frames):
            pass


def with_pydicom(instances: Sequence[RawInstance]) -> np.ndarray:
    files = [pydicom.dcmread(BytesIO(images.part10(one))) for one in instances]
    files.sort(key=lambda one: one.ImagePositionPatient[2])
    return np.stack(
        [
            one.pixel_array * np.float32(one.RescaleSlope) + np.float32(one.RescaleIntercept)
            for one in files
        ]
    )


def with_simpleitk(folder: Path) -> sitk.Image:
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    return sitk.Cast(reader.Execute(), sitk.sitkFloat32)


def with_monai(folder: Path) -> object:
    from monai.data.image_reader import PydicomReader

    reader = PydicomReader()
    return reader.get_data(reader.read(str(folder)))


def row(name: str, work: Callable[[], object], times: int = 3) -> None:
    clock, processor = timed(work, times)
    print(f"{name:44s} {clock:7.3f} s {processor:8.3f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slices", type=int, default=300)
    slices = parser.parse_args().slices
    pixels = stored(slices)
    sets = images.series(pixels, images.affine(spacing=(1.0, 0.7, 0.7)))
    native = [images.raw(one, ExplicitVRLittleEndian) for one in sets]
    read_image(native[:2])  # compiles
    print(f"{'':44s} {'clock':>9s} {'processor':>10s}")
    row("uncompressed -> float volume", lambda: read_image(native))
    row("  pydicom", lambda: with_pydicom(native), 1)
    with tempfile.TemporaryDirectory(dir="/dev/shm") as place:
        for n, one in enumerate(native):
            (Path(place) / f"{n:04d}.dcm").write_bytes(images.part10(one))
        row("  SimpleITK", lambda: with_simpleitk(Path(place)), 1)
        row("  MONAI PydicomReader", lambda: with_monai(Path(place)), 1)
    for name, (syntax, encode) in ENCODERS.items():
        frames = [encode(np.ascontiguousarray(frame)) for frame in pixels]
        packed = [images.compressed(o, syntax, [f]) for o, f in zip(sets, frames, strict=True)]
        row(f"{name} -> float volume", lambda packed=packed: read_image(packed))
        row(f"  {name}, the codec alone", lambda f=frames, s=syntax: codec_alone(s, f))


if __name__ == "__main__":
    main()
