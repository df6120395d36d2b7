"""From labels to SEG and SR, and a denoised series, beside highdicom and plain loops, in one run.

    python -m benchmarks.compose.bench_compose [--slices 300] [--segments 5 20]

Prints a table, the best of three runs: seconds on the clock, seconds of processor time (which other work on
the machine leaves alone), and the peak of what one run allocates. Labels are ellipsoids that touch, 512 x 512
a slice.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import highdicom as hd
import numpy as np
from pydicom.sr.coding import Code

from dicom_node.catalogue import ModelDescription
from dicom_node.compose.findings import find
from dicom_node.compose.measure import measure
from dicom_node.compose.part10 import write
from dicom_node.compose.registry import compose
from dicom_node.compose.seg import binary_seg
from dicom_node.read.volume import read_image
from dicom_node.records import Denoised, Segmentation, Volume
from tests.builders import images, models

Row = Callable[..., None]


def ellipsoids(shape: tuple[int, int, int], segments: int) -> np.ndarray:
    """Labels 1..segments, ellipsoids of a trunk's size, each over about half of the slices."""
    made = np.zeros(shape, np.uint8)
    random = np.random.default_rng(1)
    z, y, x = (np.linspace(-1, 1, n, dtype=np.float32) for n in shape)
    for label in range(1, segments + 1):
        centre = random.uniform(-0.6, 0.6, 3)
        radius = random.uniform(0.15, 0.45, 3)
        inside = (
            ((z - centre[0]) / radius[0])[:, None, None] ** 2
            + ((y - centre[1]) / radius[1])[None, :, None] ** 2
            + ((x - centre[2]) / radius[2])[None, None, :] ** 2
        ) < 1
        made[inside] = label
    return made


def timed(work: Callable[[], object], times: int = 3) -> tuple[float, float, float]:
    """The least seconds and processor seconds of some runs, and the MB that a further one allocates."""
    clock = processor = float("inf")
    for _ in range(times):
        started, spent = time.perf_counter(), time.process_time()
        work()
        clock = min(clock, time.perf_counter() - started)
        processor = min(processor, time.process_time() - spent)
    tracemalloc.start()
    work()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return clock, processor, peak / 2**20


def many_segments(folder: Path, segments: int) -> ModelDescription:
    """The test model with as many segments."""
    description = models.model(folder)
    first = description.segments[0]
    return description.model_copy(
        update={
            "segments": tuple(
                first.model_copy(update={"value": n, "label": f"Structure {n}"})
                for n in range(1, segments + 1)
            )
        }
    )


def with_highdicom(volume: Volume, labels: np.ndarray, segments: int) -> bytes:
    """The same SEG as highdicom makes it from a label map."""
    described = [
        hd.seg.SegmentDescription(
            segment_number=n,
            segment_label=f"Structure {n}",
            segmented_property_category=Code("123037004", "SCT", "Anatomical Structure"),
            segmented_property_type=Code("39607008", "SCT", "Lung"),
            algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=hd.AlgorithmIdentificationSequence(
                "bench", Code("123110", "DCM", "Artificial Intelligence"), "1"
            ),
        )
        for n in range(1, segments + 1)
    ]
    made = hd.seg.Segmentation(
        source_images=list(volume.headers),
        pixel_array=labels,
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=described,
        series_instance_uid=hd.UID(),
        series_number=1,
        sop_instance_uid=hd.UID(),
        instance_number=1,
        manufacturer="bench",
        manufacturer_model_name="bench",
        software_versions="1",
        device_serial_number="1",
    )
    with tempfile.NamedTemporaryFile() as to:
        made.save_as(to.name)
        return b""


def loop_over_masks(
    labels: np.ndarray, image: np.ndarray, segments: int
) -> list[tuple[float, ...]]:
    """Statistics as they are usually taken: a mask for each label."""
    found = []
    for n in range(1, segments + 1):
        values = image[labels == n]
        found.append((values.mean(), values.std(), values.min(), values.max()))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slices", type=int, default=300)
    parser.add_argument("--segments", type=int, nargs="+", default=[5, 20])
    given = parser.parse_args()
    shape = (given.slices, 512, 512)
    stored = np.random.default_rng(0).integers(0, 4000, shape, dtype=np.int16)
    grid = images.affine(spacing=(1.0, 0.7, 0.7))
    volume = read_image([images.raw(one) for one in images.series(stored, grid)])
    assert isinstance(volume, Volume)
    del stored
    folder = Path(tempfile.mkdtemp())
    print(f"{'':50s} {'clock':>8s} {'processor':>10s} {'memory':>9s}")

    def row(name: str, work: Callable[[], object], times: int = 3) -> None:
        clock, processor, peak = timed(work, times)
        print(f"{name:50s} {clock:6.3f} s {processor:8.3f} s {peak:6.0f} MB", flush=True)

    for segments in given.segments:
        of_segments(row, folder, volume, segments)
    of_denoised(row, folder, volume)


def of_segments(row: Row, folder: Path, volume: Volume, segments: int) -> None:
    """From labels to SEG and SR."""
    labels = ellipsoids(volume.array.shape, segments)
    ctx = models.context(many_segments(folder, segments))
    prediction = Segmentation(labels)
    findings = find(ctx, volume, prediction)  # compiles
    row(f"labels -> SEG + SR, {segments} segments", lambda: compose(ctx, volume, prediction))
    row("  of that: findings and statistics", lambda: find(ctx, volume, prediction))
    row("  of that: BINARY SEG", lambda: binary_seg(ctx, volume, findings))
    row("  highdicom, the same SEG", lambda: with_highdicom(volume, labels, segments), 1)
    row("  statistics, all labels at once", lambda: measure(labels, volume.array, volume.affine))
    row(
        "  statistics, a loop over masks",
        lambda: loop_over_masks(labels, volume.array, segments),
        1,
    )


def of_denoised(row: Row, folder: Path, volume: Volume) -> None:
    """A denoised series, beside the mere writing of its bytes."""
    ctx = models.context(models.model(folder, "denoising"), kinds=frozenset({"denoised"}))
    files = compose(ctx, volume, Denoised(volume.array))
    contents = [file.content for file in files]

    def only_write() -> None:
        for n, content in enumerate(contents):
            (folder / f"{n}.bin").write_bytes(content)

    def all_of_it() -> None:
        write(compose(ctx, volume, Denoised(volume.array)), folder / "results")

    row("denoised series composed", lambda: compose(ctx, volume, Denoised(volume.array)))
    row("  composed, written and synced", all_of_it)
    row("  of that: written and synced", lambda: write(files, folder / "results"))
    row("  its bytes written, not synced", only_write)


if __name__ == "__main__":
    main()
