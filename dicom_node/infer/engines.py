"""Ways to run a network faster than torch does as it comes: what each is, and how it is made and kept.

What comes in: a network, the shape of its windows. What goes out: a function that gives what the network
gives, for windows of that shape. Whether it may be used is not decided here but in `accelerate`.

The graph goes from torch.export straight to OpenVINO's frontend. OpenVINO's own `convert_model` is left
alone, since it reports its use to its maker.
"""

import copy
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import nn

from dicom_node.infer.windows import first_tensor

Precision = Literal["float32", "bfloat16"]
Shape = tuple[int, ...]


class Fast(Protocol):
    """A network that takes windows of one shape."""

    def __call__(self, windows: torch.Tensor) -> torch.Tensor:
        """`(N, C, *window)` -> `(N, C', *window)`."""
        ...

    def takes(self, shape: Shape) -> bool:
        """Whether it was made for windows `(C, *window)`."""
        ...


@dataclass(frozen=True, slots=True)
class Engine:
    """One way.

    Attributes:
        needs: packages.
        devices: where it runs.
        precisions: of its arithmetic.
        files: the suffixes of what it keeps.
        make: from a network, a shape `(1, C, ...)` and a precision; keeps what is costly in the file.
        load: what was kept, again; the network is the same one.
    """

    needs: tuple[str, ...]
    devices: tuple[str, ...]
    precisions: tuple[Precision, ...]
    files: tuple[str, ...]
    make: Callable[[nn.Module, Shape, Precision, Path], Fast]
    load: Callable[[nn.Module, Shape, Precision, Path], Fast]

    @property
    def is_installed(self) -> bool:
        """Whether its packages are there."""
        return all(find_spec(name) is not None for name in self.needs)


class InTorch:
    """The network itself, its weights and windows laid out channels last; in bfloat16 where asked for."""

    def __init__(self, network: nn.Module, shape: Shape, precision: Precision) -> None:
        self._shape = shape
        self._layout = torch.channels_last_3d if len(shape) == 5 else torch.channels_last
        self._half = precision == "bfloat16"
        # the bundle's own stays as it is: it is the reference, and runs windows of other sizes
        own: Any = copy.deepcopy(network)
        self._network: nn.Module = own.to(memory_format=self._layout)

    def __call__(self, windows: torch.Tensor) -> torch.Tensor:
        windows = windows.to(memory_format=self._layout)
        with torch.autocast(windows.device.type, torch.bfloat16, enabled=self._half):
            return first_tensor(self._network(windows)).float().contiguous()

    def takes(self, shape: Shape) -> bool:
        """Whether it was made for windows `(C, *window)`."""
        return shape == self._shape[1:]


class OpenVino:
    """A network compiled by OpenVINO; it is not for several threads at once."""

    def __init__(self, model: Any, shape: Shape, precision: Precision) -> None:
        import openvino

        options = {
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "INFERENCE_PRECISION_HINT": "bf16" if precision == "bfloat16" else "f32",
            "PERFORMANCE_HINT": "LATENCY",
        }
        compiled = openvino.Core().compile_model(model, "CPU", options)
        self._request = compiled.create_infer_request()
        self._output = compiled.output(0)
        self._shape = shape

    def __call__(self, windows: torch.Tensor) -> torch.Tensor:
        outputs = []
        for window in windows:
            self._request.infer([window[None].contiguous().numpy()])
            # the request writes its next answer to the same place
            outputs.append(np.array(self._request.get_tensor(self._output).data))
        return torch.from_numpy(outputs[0] if len(outputs) == 1 else np.concatenate(outputs))

    def takes(self, shape: Shape) -> bool:
        """Whether it was made for windows `(C, *window)`."""
        return shape == self._shape[1:]


class OnnxRuntime:
    """A network run by ONNX Runtime."""

    def __init__(self, file: Path, shape: Shape) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(
            str(file), options, providers=["CPUExecutionProvider"]
        )
        self._input = self._session.get_inputs()[0].name
        self._output = self._session.get_outputs()[0].name
        self._shape = shape

    def __call__(self, windows: torch.Tensor) -> torch.Tensor:
        outputs = [
            self._session.run([self._output], {self._input: window[None].contiguous().numpy()})[0]
            for window in windows
        ]
        return torch.from_numpy(outputs[0] if len(outputs) == 1 else np.concatenate(outputs))

    def takes(self, shape: Shape) -> bool:
        """Whether it was made for windows `(C, *window)`."""
        return shape == self._shape[1:]


def _in_torch(network: nn.Module, shape: Shape, precision: Precision, file: Path) -> Fast:
    del file  # nothing is worth keeping
    return InTorch(network, shape, precision)


def _make_openvino(network: nn.Module, shape: Shape, precision: Precision, file: Path) -> Fast:
    import openvino

    model = _converted(network, shape)
    file, partial = file.with_suffix(".xml"), file.with_name(f"partial-{os.getpid()}.xml")
    openvino.save_model(model, partial, compress_to_fp16=False)
    # the weights first, then the description that says that they are there
    partial.with_suffix(".bin").replace(file.with_suffix(".bin"))
    partial.replace(file)
    return OpenVino(model, shape, precision)


def _load_openvino(network: nn.Module, shape: Shape, precision: Precision, file: Path) -> Fast:
    del network
    return OpenVino(file.with_suffix(".xml"), shape, precision)


def _converted(network: nn.Module, shape: Shape) -> Any:
    """An OpenVINO model of the network, for windows of this shape."""
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.fx_decoder import TorchFXPythonDecoder

    with _quiet(), torch.no_grad():
        exported = torch.export.export(network, (torch.zeros(shape),))
        manager = FrontEndManager()
        frontend = manager.load_by_framework("pytorch")
        # the frontend keeps no reference of its own to the decoder that it calls back
        decoder = TorchFXPythonDecoder.from_exported_program(exported)
        model = frontend.convert(frontend.load(decoder))
    model.reshape({model.input(0): list(shape)})
    return model


def _make_onnx(network: nn.Module, shape: Shape, precision: Precision, file: Path) -> Fast:
    file, partial = file.with_suffix(".onnx"), file.with_name(f"partial-{os.getpid()}.onnx")
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(network, (torch.zeros(shape),), dynamo=True, verbose=False)
        if program is None:
            raise RuntimeError("torch.onnx gave nothing")
        program.save(partial, external_data=False)
    partial.replace(file)
    return _load_onnx(network, shape, precision, file)


def _load_onnx(network: nn.Module, shape: Shape, precision: Precision, file: Path) -> Fast:
    del network, precision
    return OnnxRuntime(file.with_suffix(".onnx"), shape)


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporters warn, with tracebacks, of decompositions and packages that are not needed."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


ENGINES: Mapping[str, Engine] = MappingProxyType(
    {
        "channels_last": Engine(
            (), ("cpu", "cuda"), ("float32", "bfloat16"), (), _in_torch, _in_torch
        ),
        "openvino": Engine(
            ("openvino",),
            ("cpu",),
            ("float32", "bfloat16"),
            (".xml", ".bin"),
            _make_openvino,
            _load_openvino,
        ),
        "onnxruntime": Engine(
            ("onnxruntime", "onnxscript"),
            ("cpu",),
            ("float32",),
            (".onnx",),
            _make_onnx,
            _load_onnx,
        ),
    }
)
"""By name, in the order in which they are tried."""
