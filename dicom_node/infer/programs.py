"""Networks that come as programs: ONNX, TorchScript, torch.export.

What comes in: the bytes of one file of a bundle. What goes out: a module that takes windows `(N, C, ...)` and
gives what the network gives. The file is network and weights in one; the bundle's `network_def` is not made.

Invariant: what a stranger's file may do. An ONNX graph is data: its operators are the fixed list of the
standard, and before the runtime sees it every tensor is known to lie inside the file. TorchScript and
torch.export are code: the one may call any operator that torch has, files among them, and reading the other
evaluates expressions and falls back to pickle. They are read only with the admin's word for these very
bytes (`bundle.is_trusted`), and it is the caller who asks for it. See decision 0306.
"""

import io
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.export.passes import move_to_device_pass

from dicom_node.errors import BundleRefused
from dicom_node.infer.windows import first_tensor

SUFFIXES = (".onnx", ".ts", ".pt2")
CODE = (".ts", ".pt2")
"""Forms whose reading or running can do more than compute."""
ONNX_DOMAINS = ("", "ai.onnx", "ai.onnx.ml")


def is_program(name: str) -> bool:
    """Whether a file of a bundle is a network and not only its weights."""
    return name.endswith(SUFFIXES)


def is_code(name: str) -> bool:
    """Whether reading this file needs the admin's word."""
    return name.endswith(CODE)


def load_program(name: str, content: bytes, device: torch.device) -> nn.Module:
    """The network in a file.

    Args:
        name: the file's, for refusals; its end says what it is.
        content: the bytes that were hashed. For a file that `is_code`, the caller has the admin's word.
        device: where the network is to run.

    Raises:
        BundleRefused: it cannot be read, or the runtime that it needs is not installed.
    """
    suffix = next(suffix for suffix in SUFFIXES if name.endswith(suffix))
    try:
        return _READERS[suffix](content, device)
    except BundleRefused as refused:
        raise BundleRefused(f"{name}: {refused}") from refused
    except Exception as error:
        lines = str(error).strip().splitlines()
        reason = (lines[0] if lines else type(error).__name__)[:200]
        raise BundleRefused(f"{name}: cannot be read: {reason}") from error


class OnnxNetwork(nn.Module):
    """An ONNX graph behind the face of a module.

    Its windows leave torch and come back; where ONNX Runtime has the GPU, it is used, and the windows cross
    through the host's memory all the same.
    """

    def __init__(self, content: bytes, device: torch.device) -> None:
        super().__init__()
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        wanted = "CUDAExecutionProvider" if device.type == "cuda" else "CPUExecutionProvider"
        here = onnxruntime.get_available_providers()
        self._session = onnxruntime.InferenceSession(
            content,
            options,
            providers=[
                name for name in dict.fromkeys((wanted, "CPUExecutionProvider")) if name in here
            ],
        )
        inputs = self._session.get_inputs()
        if len(inputs) != 1 or inputs[0].type != "tensor(float)":
            told = ", ".join(f"{one.name} {one.type}" for one in inputs)
            raise BundleRefused(f"takes {told or 'nothing'}; one tensor(float) can be given")
        self._input = inputs[0].name
        self._output = self._session.get_outputs()[0].name
        shape = inputs[0].shape
        self.shape = tuple(one if isinstance(one, int) else None for one in shape)
        self.bytes = len(content)

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        values = np.ascontiguousarray(windows.detach().float().cpu().numpy())
        return torch.from_numpy(self._session.run([self._output], {self._input: values})[0]).to(
            windows.device
        )


class OneByOne(nn.Module):
    """A network that was written for a fixed number of windows takes any number, so many at a time."""

    def __init__(self, network: nn.Module, batch: int) -> None:
        super().__init__()
        self.network = network
        self._batch = batch

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        parts = []
        for some in torch.split(windows, self._batch):
            missing = self._batch - some.shape[0]
            full = (
                some
                if not missing
                else torch.cat([some, some[-1:].expand(missing, *some.shape[1:])])
            )
            parts.append(first_tensor(self.network(full))[: some.shape[0]])
        return torch.cat(parts)


def shape_of(network: nn.Module) -> tuple[int | None, ...]:
    """`(N, C, ...)` that a program was written for, None where it takes any; empty where it does not say."""
    inner = network.network if isinstance(network, OneByOne) else network
    shape = getattr(inner, "shape", ())
    return shape if isinstance(shape, tuple) else ()


def size_of(network: nn.Module) -> int:
    """Bytes of the network's weights."""
    tensors = network.state_dict().values()
    held = sum(one.numel() * one.element_size() for one in tensors if isinstance(one, torch.Tensor))
    return held + sum(getattr(module, "bytes", 0) for module in network.modules())


def _onnx(content: bytes, device: torch.device) -> nn.Module:
    try:
        import onnx
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise BundleRefused(
            "ONNX Runtime is not installed (pip install 'dicom-node[onnx]')"
        ) from error
    _check_graph(onnx.load_model_from_string(content))
    network = OnnxNetwork(content, device)
    return _in_batches(network, network.shape)


def _check_graph(model: Any) -> None:
    """Refuse a graph with operators of a maker's own, or with tensors in other files."""
    own = {function.domain for function in model.functions}
    parts = [model.graph, *model.functions]
    while parts:
        part = parts.pop()
        for tensor in _tensors(part):
            if tensor.data_location != 0:  # TensorProto.DEFAULT: inside the file
                raise BundleRefused(f"tensor {tensor.name!r} lies in another file")
        for node in part.node:
            if node.domain not in ONNX_DOMAINS and node.domain not in own:
                raise BundleRefused(f"operator {node.domain}.{node.op_type} is none of ONNX's own")
            for attribute in node.attribute:
                parts += [attribute.g] if attribute.HasField("g") else []
                parts += list(attribute.graphs)


def _tensors(part: Any) -> Iterator[Any]:
    yield from getattr(part, "initializer", ())
    for sparse in getattr(part, "sparse_initializer", ()):
        yield from (sparse.values, sparse.indices)
    for node in part.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                yield from (sparse.values, sparse.indices)


def _torchscript(content: bytes, device: torch.device) -> nn.Module:
    load: Any = torch.jit.load
    network: nn.Module = load(io.BytesIO(content), map_location=device)
    return network.eval()


def _exported(content: bytes, device: torch.device) -> nn.Module:
    exported = torch.export.load(io.BytesIO(content))
    inputs = exported.graph_signature.user_inputs
    if len(inputs) != 1:
        raise BundleRefused(f"takes {len(inputs)} inputs; one can be given")
    value = next(node.meta["val"] for node in exported.graph.nodes if node.name == inputs[0])
    network: Any = move_to_device_pass(exported, device).module()
    shape = tuple(size if isinstance(size, int) else None for size in value.shape)
    network.shape = shape
    return _in_batches(network, shape)


def _in_batches(network: nn.Module, shape: tuple[int | None, ...]) -> nn.Module:
    return network if not shape or shape[0] is None else OneByOne(network, shape[0])


_READERS: Mapping[str, Callable[[bytes, torch.device], nn.Module]] = MappingProxyType(
    {".onnx": _onnx, ".ts": _torchscript, ".pt2": _exported}
)
