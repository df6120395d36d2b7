"""The runner beside the bare network and beside plain MONAI: time, peak memory, agreement.

    python -m benchmarks.infer.runner [--slices 96] [--networks small,unet,segresnet] [--threads 2] [--plain]

Each network has random weights and the windows, spacing and postprocessing of an ordinary bundle; random
weights are the worst case, since every voxel is a border whose scores are interpolated. `ct_structures` is
the shipped model as it is, on what looks like a thorax. "bare" is
the network alone on the very windows that the runner cuts; "runner" is everything from the volume to labels
on its grid; "plain" is MONAI's own pipeline (Compose, SlidingWindowInferer, Invertd, AsDiscreted). Times are
the least of three rounds, taken in turns, as wall seconds and as CPU seconds of the process: on a machine
that others use too, only the CPU seconds can be compared. The bar (issue 6): bare / runner at least 0.95
for networks of 100 GFLOP a window or more, 0.85 for the smallest.
"""

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.inferers import SlidingWindowInferer
from monai.transforms import AsDiscreted, Compose, Invertd
from safetensors.torch import save_file
from torch.utils.flop_counter import FlopCounterMode

from dicom_node.catalogue import catalogue, describe
from dicom_node.infer import windows
from dicom_node.infer.allowed import make
from dicom_node.infer.bundle import LoadedBundle, load_bundle
from dicom_node.infer.grids import to_meta_tensor
from dicom_node.infer.inputs import prepare
from dicom_node.infer.plan import window_plan
from dicom_node.infer.runner import run
from dicom_node.records import Segmentation, SourceFrame, Volume
from dicom_node.settings import BUNDLED_MODELS

ROUNDS = 3
NETWORKS: Mapping[str, dict[str, Any]] = {
    "small": {
        "network": {
            "_target_": "UNet", "spatial_dims": 3, "in_channels": 1, "out_channels": 5,
            "channels": [16, 32, 64, 128], "strides": [2, 2, 2], "num_res_units": 2, "norm": "batch",
        },
        "pixdim": [2.0, 2.0, 3.0], "window": [256, 224, 48], "overlap": 0.25, "classes": 5,
    },
    "unet": {
        "network": {
            "_target_": "UNet", "spatial_dims": 3, "in_channels": 1, "out_channels": 2,
            "channels": [16, 32, 64, 128, 256], "strides": [2, 2, 2, 2], "num_res_units": 2,
            "norm": "batch",
        },
        "pixdim": [1.5, 1.5, 2.0], "window": [96, 96, 96], "overlap": 0.25, "classes": 2,
    },
    "segresnet": {
        "network": {
            "_target_": "SegResNet", "spatial_dims": 3, "in_channels": 1, "out_channels": 25,
            "init_filters": 32, "blocks_down": [1, 2, 2, 4], "blocks_up": [1, 1, 1],
        },
        "pixdim": [3.0, 3.0, 3.0], "window": [96, 96, 96], "overlap": 0.25, "classes": 25,
    },
}  # fmt: skip


def thorax(slices: int) -> Volume:
    """A body with two lungs and noise, 512 x 512 at 0.75 mm, slices 2.5 mm apart."""
    z, y, x = np.indices((slices, 512, 512), dtype=np.float32, sparse=True)
    hu = np.full((slices, 512, 512), -1000.0, np.float32)
    hu[np.broadcast_to(((x - 256) / 200) ** 2 + ((y - 256) / 150) ** 2 < 1, hu.shape)] = 40.0
    for centre in (170, 340):
        across = ((x - centre) / 70) ** 2 + ((y - 250) / 100) ** 2
        hu[across + ((z - slices / 2) / (slices * 0.45)) ** 2 < 1] = -800.0
    hu += np.random.default_rng(0).normal(0, 20, hu.shape).astype(np.float32)
    affine = np.zeros((4, 4))
    affine[2, 0], affine[1, 1], affine[0, 2], affine[3, 3] = 2.5, 0.75, 0.75, 1.0
    frames = tuple(SourceFrame("1", f"1.{number}") for number in range(slices))
    return Volume(hu, affine, frames, (), np.tile([1.0, 0.0], (slices, 1)))


def bundle(folder: Path, name: str) -> LoadedBundle:
    """A bundle of one of the networks, installed and loaded."""
    chosen = NETWORKS[name]
    (folder / name / "configs").mkdir(parents=True)
    (folder / name / "models").mkdir()
    invert = {"_target_": "Invertd", "keys": "pred", "transform": "@preprocessing",
              "orig_keys": "image", "nearest_interp": False}  # fmt: skip
    config = {
        "network_def": chosen["network"],
        "preprocessing": {"_target_": "Compose", "transforms": [
            {"_target_": "Orientationd", "keys": "image", "axcodes": "LPS"},
            {"_target_": "Spacingd", "keys": "image", "pixdim": chosen["pixdim"], "mode": "bilinear"},
            {"_target_": "ScaleIntensityRanged", "keys": "image", "a_min": -1024.0, "a_max": 1024.0,
             "b_min": 0.0, "b_max": 1.0, "clip": True},
        ]},
        "inferer": {"_target_": "SlidingWindowInferer", "roi_size": chosen["window"],
                    "overlap": chosen["overlap"], "mode": "gaussian"},
        "postprocessing": {"_target_": "Compose", "transforms": [
            invert, {"_target_": "AsDiscreted", "keys": "pred", "argmax": True}]},
    }  # fmt: skip
    (folder / name / "configs/inference.json").write_text(json.dumps(config))
    (folder / name / "configs/metadata.json").write_text('{"version": "1"}')
    torch.manual_seed(0)
    network = make("SegResNet" if name == "segresnet" else "UNet",
                   {key: value for key, value in chosen["network"].items() if key[0] != "_"})  # fmt: skip
    save_file(network.state_dict(), folder / name / "models/model.safetensors")
    segments = "".join(
        f'[[segments]]\nvalue = {value}\nlabel = "{value}"\ncategory = ["1", "SCT", "a"]\n'
        f'type = ["1", "SCT", "a"]\ncolor_rgb = [1, 1, 1]\n'
        for value in range(1, chosen["classes"])
    )
    (folder / name / "dicom.toml").write_text(
        f'[model]\nname = "{name}"\ntitle = "{name}"\nversion = "1"\ntask = "segmentation"\n'
        f'limits = ""\n[input]\nmodality = ["CT"]\ndimensions = 3\n{segments}'
    )
    return load_bundle(describe(folder / name), torch.device("cpu"))


def plain(loaded: LoadedBundle, volume: Volume, chosen: Mapping[str, Any]) -> Any:
    """The same bundle as MONAI itself would run it; labels `(z, y, x)`."""
    before = Compose(list(loaded.preprocessing))
    invert = Invertd("pred", before, orig_keys="image", nearest_interp=False)
    after = Compose([invert, AsDiscreted("pred", argmax=True)])
    inferer = SlidingWindowInferer(chosen["window"], 1, chosen["overlap"], mode="gaussian")
    with torch.inference_mode():
        data = before({"image": to_meta_tensor(volume)})
        image = data["image"]
        scores = inferer(image[None].as_tensor(), loaded.network)[0]
        data["pred"] = MetaTensor(scores, affine=image.affine, meta=image.meta)
        return after(data)["pred"][0].numpy().transpose(2, 1, 0)


def timed(work: Callable[[], Any]) -> tuple[float, float, Any]:
    wall, cpu = time.perf_counter(), time.process_time()
    value = work()
    return time.perf_counter() - wall, time.process_time() - cpu, value


def measure(name: str, volume: Volume, with_plain: bool) -> dict[str, Any]:
    """One network: times, and agreement where plain MONAI is run too."""
    chosen = NETWORKS.get(name, {})
    if chosen:
        with tempfile.TemporaryDirectory() as folder:
            loaded = bundle(Path(folder), name)
    else:
        loaded = load_bundle(catalogue(BUNDLED_MODELS)[name], torch.device("cpu"))
    cut: list[tuple[int, ...]] = []

    def watching(window: torch.Tensor) -> Any:
        cut.append(tuple(window.shape))
        return loaded.network(window)

    with torch.inference_mode():
        tensor = prepare(loaded, volume).tensor
        plan = window_plan(loaded.inferer, 3)
        windows.slide(tensor, plan, watching, device=loaded.device)
        example = torch.zeros(cut[0])
        with FlopCounterMode(display=False) as counter:
            loaded.network(example)

    def bare() -> None:
        with torch.inference_mode():
            for shape in cut:
                loaded.network(example if shape == cut[0] else torch.zeros(shape))

    best: dict[str, tuple[float, float]] = {}
    kept: dict[str, Any] = {}
    ways: dict[str, Callable[[], Any]] = {"bare": bare, "runner": lambda: run(loaded, volume)}
    if with_plain and chosen:
        ways["plain"] = lambda: plain(loaded, volume, chosen)
    for _ in range(ROUNDS):
        for way, work in ways.items():
            wall, cpu, kept[way] = timed(work)
            old = best.get(way, (wall, cpu))
            best[way] = min(old[0], wall), min(old[1], cpu)
    found: dict[str, Any] = {
        "network": name,
        "gflop_a_window": round(counter.get_total_flops() / 1e9, 1),
        "windows": len(cut),
        **{f"{way}_s": [round(part, 2) for part in pair] for way, pair in best.items()},
        "bare_over_runner": [
            round(a / b, 3) for a, b in zip(best["bare"], best["runner"], strict=True)
        ],
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }
    if with_plain and chosen:
        assert isinstance(kept["runner"], Segmentation)
        found["labels_as_plain"] = round(float((kept["runner"].labels == kept["plain"]).mean()), 6)
    return found


def main() -> None:
    """Measure and print one JSON line a network: pairs are [wall, CPU] seconds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--slices", type=int, default=96)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--networks", default=",".join((*NETWORKS, "ct_structures")))
    parser.add_argument("--plain", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    volume = thorax(options.slices)
    for name in options.networks.split(","):
        print(json.dumps(measure(name, volume, options.plain)), flush=True)


if __name__ == "__main__":
    main()
