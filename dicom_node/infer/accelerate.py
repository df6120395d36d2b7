"""A network compiled for this machine's CPU by OpenVINO, where that is installed and agrees with torch.

What comes in: a loaded bundle whose windows have a fixed size. What goes out: a function that gives what the
network gives, in about half the time, or None. Torch stays the reference: on windows of a procedural pattern
the compiled network must give the same labels (all but `LABELS_MAY_DIFFER` of them), or values within
`VALUES_MAY_DIFFER` of their range, or it is not used. Only float32 is tried; bfloat16 changes labels.

The graph goes from torch.export straight to OpenVINO's frontend. OpenVINO's own `convert_model` is left
alone, since it reports its use to its maker.
"""

import hashlib
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dicom_node.infer.bundle import LoadedBundle
from dicom_node.infer.runner import window_plan
from dicom_node.infer.windows import Network, first_tensor
from dicom_node.observe.logging import get_logger

log = get_logger(__name__)

LABELS_MAY_DIFFER = 1e-4
VALUES_MAY_DIFFER = 1e-3


def is_available() -> bool:
    """Whether OpenVINO is installed."""
    try:
        import openvino  # noqa: F401
    except ImportError:
        return False
    return True


def accelerated(bundle: LoadedBundle, cache: Path) -> Network | None:
    """The bundle's network, compiled; None where it cannot be, or where it would give something else.

    Takes seconds the first time; what came of it is kept in `cache`, also that nothing did.
    """
    shape = _window(bundle)
    if bundle.device.type != "cpu" or shape is None or not is_available():
        return None
    file = _file(bundle, shape, cache)
    cache.mkdir(parents=True, exist_ok=True)
    try:
        model = _converted(bundle.network, shape)
        compiled = _compiled(model, shape)
        difference = _difference(bundle, compiled, shape)
    except Exception as error:
        log.info("not compiled", model=bundle.description.name, error=type(error).__name__)
        file.with_suffix(".refused").touch()
        return None
    limit = VALUES_MAY_DIFFER if _gives_values(bundle) else LABELS_MAY_DIFFER
    used = difference <= limit
    log.info("compiled", model=bundle.description.name, difference=difference, used=used)
    if not used:
        file.with_suffix(".refused").touch()
        return None
    _keep(model, file)
    return compiled


def kept(bundle: LoadedBundle, cache: Path) -> tuple[bool, Network | None]:
    """Whether compiling this model was tried before, and the network where it may be used."""
    shape = _window(bundle)
    if bundle.device.type != "cpu" or shape is None or not is_available():
        return True, None
    file = _file(bundle, shape, cache)
    if file.with_suffix(".refused").exists():
        return True, None
    if not file.exists():
        return False, None
    try:
        return True, _compiled(file, shape)
    except Exception as error:
        log.warning("kept model not read", error=type(error).__name__)
        return False, None


def was_refused(bundle: LoadedBundle, cache: Path) -> bool:
    """Whether a compiled network was made of this model and gave something else than torch."""
    shape = _window(bundle)
    if shape is None or not is_available():
        return False
    return _file(bundle, shape, cache).with_suffix(".refused").exists()


def _file(bundle: LoadedBundle, shape: tuple[int, ...], cache: Path) -> Path:
    """Named by everything that the compiled network depends on."""
    import openvino

    parts = (bundle.digest, str(shape), openvino.__version__, torch.__version__)
    return cache / f"{hashlib.sha256('/'.join(parts).encode()).hexdigest()[:32]}.xml"


def _keep(model: Any, file: Path) -> None:
    """Save whole or not at all: the weights first, then the description that says they are there."""
    import openvino

    partial = file.with_name(f"partial-{os.getpid()}.xml")
    openvino.save_model(model, partial, compress_to_fp16=False)
    partial.with_suffix(".bin").replace(file.with_suffix(".bin"))
    partial.replace(file)


class Compiled:
    """A compiled network that takes windows of one shape; it is not for several threads at once."""

    def __init__(self, model: Any, shape: tuple[int, ...]) -> None:
        self._request = model.create_infer_request()
        self._output = model.output(0)
        self._shape = shape

    def __call__(self, windows: torch.Tensor) -> torch.Tensor:
        """`(N, C, *window)` -> `(N, C', *window)`."""
        outputs = []
        for window in windows:
            self._request.infer([window[None].contiguous().numpy()])
            # the request writes its next answer to the same place
            outputs.append(np.array(self._request.get_tensor(self._output).data))
        return torch.from_numpy(np.concatenate(outputs))

    def takes(self, shape: tuple[int, ...]) -> bool:
        """Whether it was compiled for windows `(C, *window)`."""
        return shape == self._shape[1:]


def _window(bundle: LoadedBundle) -> tuple[int, ...] | None:
    """The shape of one window, `(1, C, ...)`; None where it depends on the image."""
    if type(bundle.inferer).__name__ not in ("SlidingWindowInferer", "SliceInferer"):
        return None
    sizes = bundle.inferer.roi_size
    if not isinstance(sizes, list | tuple):
        return None
    plan = window_plan(
        bundle.inferer, len(sizes) + (type(bundle.inferer).__name__ == "SliceInferer")
    )
    size = tuple(s for axis, s in enumerate(plan.size) if axis != plan.slice_axis)
    return None if min(size) <= 0 else (1, bundle.channels, *size)


def _converted(network: torch.nn.Module, shape: tuple[int, ...]) -> Any:
    """An OpenVINO model of the network, for windows of this shape."""
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.fx_decoder import TorchFXPythonDecoder

    before = logging.root.manager.disable
    logging.disable(
        logging.ERROR
    )  # it warns, with tracebacks, of decompositions that it does not need
    try:
        with torch.no_grad():
            exported = torch.export.export(network, (torch.zeros(shape),))
        manager = FrontEndManager()
        frontend = manager.load_by_framework("pytorch")
        # the frontend keeps no reference of its own to the decoder that it calls back
        decoder = TorchFXPythonDecoder.from_exported_program(exported)
        model = frontend.convert(frontend.load(decoder))
    finally:
        logging.disable(before)
    model.reshape({model.input(0): list(shape)})
    return model


def _compiled(model: Any, shape: tuple[int, ...]) -> Compiled:
    import openvino

    options = {
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
    }
    return Compiled(openvino.Core().compile_model(model, "CPU", options), shape)


def _difference(bundle: LoadedBundle, compiled: Compiled, shape: tuple[int, ...]) -> float:
    """Share of labels that change, or the largest change of a value as a share of their range."""
    worst = 0.0
    for seed in (0, 1):
        window = _pattern(shape, seed)
        with torch.inference_mode():
            wanted = first_tensor(bundle.network(window))
        found = compiled(window)
        if _gives_values(bundle) or wanted.shape[1] == 1:
            reach = float(wanted.max() - wanted.min()) or 1.0
            worst = max(worst, float((found - wanted).abs().max()) / reach)
        else:
            worst = max(worst, float((found.argmax(1) != wanted.argmax(1)).float().mean()))
    return worst


def _gives_values(bundle: LoadedBundle) -> bool:
    return bundle.description.model.task == "denoising"


def _pattern(shape: tuple[int, ...], seed: int) -> torch.Tensor:
    """Smooth blobs with noise between 0 and 1: flat regions, borders and texture, as in an image."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(
        (*shape[:2], *(max(size // 16, 2) for size in shape[2:])), generator=generator
    )
    mode = {3: "bilinear", 4: "bilinear", 5: "trilinear"}[len(shape)]
    smooth = torch.nn.functional.interpolate(coarse, shape[2:], mode=mode, align_corners=True)
    return (smooth.round() * 0.7 + torch.rand(shape, generator=generator) * 0.1).float()
