"""From labels to SEG and SR, and a denoised series, beside highdicom and plain loops, in one run.

    python -m benchmarks.compose.bench_compose [--slices 300] [--segments 5 20] [--only seg|network|denoised]

Prints a table, the best of three runs: seconds on the clock, seconds of processor time (which other work on
the machine leaves alone), and the peak of what one run allocates. Labels are ellipsoids that touch, 512 x 512
a slice.

"Network's output" starts from scores `(classes, x, y, z)` on a grid of 1.5 mm, as a network leaves them.
Ours: argmax there, the largest component of each label, labels back to the source, SEG and SR. MONAI's:
Invertd of the scores, argmax, KeepLargestConnectedComponent, one mask a segment to highdicom; statistics by a
loop. Both end with a SEG of the same voxels but for borders. MONAI's memory is the growth of the process,
since torch's memory is not Python's; it runs once.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import torch
from monai.transforms import (
    AsDiscrete,
    AsDiscreted,
    KeepLargestConnectedComponent,
    KeepLargestConnectedComponentd,
)
from pydicom.sr.coding import Code

from dicom_node.catalogue import ModelDescription
from dicom_node.compose.context import ComposeContext, DicomFile
from dicom_node.compose.findings import find
from dicom_node.compose.measure import measure
from dicom_node.compose.part10 import write
from dicom_node.compose.registry import compose
from dicom_node.compose.seg import binary_seg
from dicom_node.infer import postprocess
from dicom_node.infer.grids import grid_map, to_meta_tensor
from dicom_node.read.volume import read_image
from dicom_node.records import Denoised, Segmentation, Volume
from tests.builders import images, models

Row = Callable[..., None]


@dataclass(frozen=True)
class GridScores:
    """A network's output.

    Attributes:
        scores: `(classes, i, j, k)`.
        affine: of its grid, RAS.
        transform: what made the grid, with its trace in `data`, as MONAI's inversion wants it.
    """

    scores: torch.Tensor
    affine: torch.Tensor
    transform: Any
    data: dict[str, Any]


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


def scores_on_network_grid(volume: Volume, labels: np.ndarray, segments: int) -> GridScores:
    """What a network that found these labels would give, on a grid of 1.5 mm, and how it came there."""
    from monai.transforms import Compose, Orientationd, Spacingd

    transform = Compose(
        [
            Orientationd(keys="image", axcodes="RAS"),
            Spacingd(keys="image", pixdim=(1.5, 1.5, 1.5), mode="bilinear"),
        ]
    )
    data = transform({"image": to_meta_tensor(volume)})
    affine = data["image"].affine
    shape = tuple(data["image"].shape[1:])
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1).reshape(-1, 3)
    to_lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine.numpy()
    places = grid @ to_lps[:3, :3].T + to_lps[:3, 3]
    back = np.linalg.inv(volume.affine)
    at = np.rint(places @ back[:3, :3].T + back[:3, 3]).astype(int)
    at = np.clip(at, 0, np.array(labels.shape) - 1)
    found = labels[tuple(at.T)].reshape(shape)
    scores = torch.full((segments + 1, *shape), -4.0)
    scores.scatter_(0, torch.from_numpy(found.astype(np.int64))[None], 4.0)
    return GridScores(scores, affine, transform, data)


def ours(ctx: ComposeContext, volume: Volume, given: GridScores) -> list[DicomFile]:
    """From scores to files, with the node's own code."""
    keep = KeepLargestConnectedComponent()
    steps = (AsDiscrete(argmax=True), keep)
    to = grid_map(volume, given.affine, 3)
    labels = postprocess.segment(given.scores, steps, to).reshape(volume.array.shape)
    return compose(ctx, volume, Segmentation(labels))


def with_monai(volume: Volume, given: GridScores, segments: int) -> object:
    """From scores to a SEG and numbers, as a MONAI bundle's postprocessing and highdicom make them."""
    from monai.data.meta_tensor import MetaTensor
    from monai.transforms import Compose, Invertd

    pred = MetaTensor(
        given.scores.clone(), affine=given.affine, meta=dict(given.data["image"].meta)
    )
    pred.applied_operations = given.data["image"].applied_operations
    after = Compose(
        [
            Invertd(
                keys="pred",
                transform=given.transform,
                orig_keys="image",
                nearest_interp=False,
                to_tensor=True,
            ),
            AsDiscreted(keys="pred", argmax=True),
            KeepLargestConnectedComponentd(keys="pred"),
        ]
    )
    labels = after({"pred": pred, "image": given.data["image"]})["pred"]
    found = labels[0].numpy().astype(np.uint8).transpose(2, 1, 0)
    masks = np.stack([found == n for n in range(1, segments + 1)], axis=-1)
    with_highdicom(volume, masks, segments)
    return loop_over_masks(found, volume.array, segments)


def most_held(work: Callable[[], object]) -> float:
    """MB by which the process is larger at most while the work runs (Linux)."""
    status = Path("/proc/self/status")

    def peak() -> float:
        line = next(one for one in status.read_text().splitlines() if one.startswith("VmHWM"))
        return float(line.split()[1]) / 1024

    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = peak()
    work()
    return peak() - before


def of_network(row: Row, folder: Path, volume: Volume, segments: int) -> None:
    """From the network's output to SEG and SR, ours and MONAI's."""
    labels = ellipsoids(volume.array.shape, segments)
    ctx = models.context(many_segments(folder, segments))
    given = scores_on_network_grid(volume, labels, segments)
    ours(ctx, volume, given)  # compiles
    row(f"network's output -> SEG + SR, {segments} segments", lambda: ours(ctx, volume, given))
    started, spent = time.perf_counter(), time.process_time()
    memory = most_held(lambda: with_monai(volume, given, segments))
    clock, processor = time.perf_counter() - started, time.process_time() - spent
    name = "  MONAI + highdicom"
    print(f"{name:50s} {clock:6.3f} s {processor:8.3f} s {memory:6.0f} MB", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slices", type=int, default=300)
    parser.add_argument("--segments", type=int, nargs="+", default=[5, 20])
    parser.add_argument("--only", choices=("seg", "network", "denoised"))
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
        if given.only in (None, "seg"):
            of_segments(row, folder, volume, segments)
        if given.only in (None, "network"):
            of_network(row, folder, volume, segments)
    if given.only in (None, "denoised"):
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
