"""Networks that come as programs answer as their state dict does; what is code needs the admin's word."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from dicom_node.catalogue import ModelDescription, describe
from dicom_node.errors import BundleRefused
from dicom_node.infer.allowed import make
from dicom_node.infer.bundle import LoadedBundle, load_bundle
from dicom_node.infer.runner import run
from dicom_node.records import Segmentation
from tests.builders.bundles import (
    ARGMAX,
    INVERT,
    RESAMPLE,
    SOFTMAX,
    WINDOWS,
    configuration,
    write_bundle,
)
from tests.builders.volumes import asymmetric_block, oblique, volume

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

CPU = torch.device("cpu")
NETWORK = {
    "_target_": "UNet",
    "spatial_dims": 3,
    "in_channels": 1,
    "out_channels": 3,
    "channels": [4, 8],
    "strides": [2],
    "num_res_units": 1,
    "norm": "batch",
}
PROCESS = {
    "preprocessing": RESAMPLE,
    "inferer": {**WINDOWS, "sw_batch_size": 3},
    "postprocessing": (SOFTMAX, INVERT, ARGMAX),
}


def network() -> nn.Module:
    torch.manual_seed(0)
    made = make("UNet", {key: value for key, value in NETWORK.items() if key != "_target_"})
    assert isinstance(made, nn.Module)
    return made.eval()


def as_onnx(net: nn.Module, shape: tuple[int, ...]) -> bytes:
    program = torch.onnx.export(net, (torch.zeros(shape),), dynamo=True, verbose=False)
    assert program is not None
    return bytes(program.model_proto.SerializeToString())


def as_torchscript(net: nn.Module, shape: tuple[int, ...]) -> bytes:
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.trace(net, torch.zeros(shape)), buffer)  # type: ignore[no-untyped-call]
    return buffer.getvalue()


def as_exported(net: nn.Module, shape: tuple[int, ...]) -> bytes:
    buffer = io.BytesIO()
    torch.export.save(torch.export.export(net, (torch.zeros(shape),)), buffer)
    return buffer.getvalue()


FORMS: dict[str, Callable[[nn.Module, tuple[int, ...]], bytes]] = {
    "model.onnx": as_onnx,
    "model.ts": as_torchscript,
    "model.pt2": as_exported,
}
WINDOW = (1, 1, 16, 16, 16)


@pytest.fixture(scope="module")
def contents() -> dict[str, bytes]:
    return {name: write(network(), WINDOW) for name, write in FORMS.items()}


def bundle_of(
    folder: Path, name: str, content: bytes, details: str | None = None
) -> ModelDescription:
    """A bundle whose only weights are a program, and that names a network nobody could make."""
    config = configuration(network={"_target_": "somewhere.Else"}, **PROCESS)  # type: ignore[arg-type]
    kwargs = {} if details is None else {"details": details}
    write_bundle(folder, config, **kwargs)  # type: ignore[arg-type]
    (folder / "models/model.safetensors").unlink()
    (folder / "models" / name).write_bytes(content)
    return describe(folder)


def loaded(description: ModelDescription) -> LoadedBundle:
    trusted = (f"{description.name}@{description.digest}",)
    return load_bundle(description, CPU, trusted=trusted)


@pytest.mark.parametrize("name", FORMS)
def test_a_program_answers_as_the_state_dict_does(
    name: str, contents: dict[str, bytes], tmp_path: Path
) -> None:
    state = network().state_dict()
    plain = write_bundle(
        tmp_path / "model_a",
        configuration(network=NETWORK, **PROCESS),  # type: ignore[arg-type]
        state,
    )
    program = loaded(bundle_of(tmp_path / "model_b", name, contents[name]))
    image = volume(asymmetric_block() * 5, oblique(), spacing=(2.5, 1.3, 1.1))
    wanted, found = run(load_bundle(plain, CPU), image), run(program, image)
    assert isinstance(wanted, Segmentation)
    assert isinstance(found, Segmentation)
    assert len(np.unique(wanted.labels)) > 1
    assert (wanted.labels == found.labels).mean() > 0.9999
    several = torch.rand(5, *WINDOW[1:])
    with torch.inference_mode():
        assert torch.allclose(program.network(several), network()(several), atol=1e-4)
    assert program.bytes > 0


@pytest.mark.parametrize("name", ["model.ts", "model.pt2"])
def test_code_is_read_only_with_the_admins_word_for_these_bytes(
    name: str, contents: dict[str, bytes], tmp_path: Path
) -> None:
    description = bundle_of(tmp_path / "model_b", name, contents[name])
    with pytest.raises(BundleRefused) as refused:
        load_bundle(description, CPU, trusted=("model_b@" + "0" * 64,))
    assert f"model_b: models/{name}: is code and not data" in str(refused.value)
    assert f'("model_b@{description.digest}")' in str(refused.value), "what to write is told"
    assert loaded(description).network is not None


@pytest.mark.parametrize("name", FORMS)
def test_a_program_that_cannot_be_read_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(BundleRefused, match=rf"model_b: models/{name}: cannot be read"):
        loaded(bundle_of(tmp_path / "model_b", name, b"PK\x03\x04 nothing of the kind"))


def changed(content: bytes, change: Callable[[Any], None]) -> bytes:
    model = onnx.load_model_from_string(content)
    change(model)
    return bytes(model.SerializeToString())


def outside(model: Any) -> None:
    tensor = model.graph.initializer[0]
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../etc/passwd")


def foreign(model: Any) -> None:
    model.graph.node[0].domain = "com.example"


def hidden(model: Any) -> None:
    """The same, a level down: in a branch of an operator."""
    branch = onnx.helper.make_graph(
        [onnx.helper.make_node("Run", [], ["o"], domain="x.y")], "b", [], []
    )
    node = onnx.helper.make_node("If", ["c"], ["o"], then_branch=branch, else_branch=branch)
    model.graph.node.append(node)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (outside, r"tensor '.*' lies in another file"),
        (foreign, r"operator com\.example\.\w+ is none of ONNX's own"),
        (hidden, r"operator x\.y\.Run is none of ONNX's own"),
    ],
)
def test_a_graph_that_is_more_than_data_is_refused(
    change: Callable[[Any], None], reason: str, contents: dict[str, bytes], tmp_path: Path
) -> None:
    content = changed(contents["model.onnx"], change)
    with pytest.raises(BundleRefused, match=r"models/model\.onnx: " + reason):
        load_bundle(bundle_of(tmp_path / "model_b", "model.onnx", content), CPU)


def test_a_program_for_other_images_is_refused(tmp_path: Path) -> None:
    small = as_onnx(network(), (1, 1, 8, 16, 16))
    with pytest.raises(
        BundleRefused, match="takes windows of 8 x 16 x 16, inferer cuts 16 x 16 x 16"
    ):
        load_bundle(bundle_of(tmp_path / "model_a", "model.onnx", small), CPU)
    two = nn.Conv3d(2, 3, 3, padding=1).eval()
    content = as_onnx(two, (1, 2, 16, 16, 16))
    with pytest.raises(
        BundleRefused, match=r"model\.onnx: takes 2 channels, .*metadata\.json gives 1"
    ):
        load_bundle(bundle_of(tmp_path / "model_b", "model.onnx", content), CPU)


def test_a_state_dict_is_taken_before_a_program(contents: dict[str, bytes], tmp_path: Path) -> None:
    """Zoo bundles carry both; the one that is data wins."""
    config = configuration(network=NETWORK, **PROCESS)  # type: ignore[arg-type]
    write_bundle(tmp_path / "model_a", config, network().state_dict())
    (tmp_path / "model_a/models/model.ts").write_bytes(contents["model.ts"])
    assert type(load_bundle(describe(tmp_path / "model_a"), CPU).network).__name__ == "UNet"


def test_metadata_of_a_program_may_leave_network_def_out(
    contents: dict[str, bytes], tmp_path: Path
) -> None:
    bundle_of(tmp_path / "model_b", "model.onnx", contents["model.onnx"])
    file = tmp_path / "model_b/configs/inference.json"
    config = json.loads(file.read_text())
    del config["network_def"]
    file.write_text(json.dumps(config))
    description = describe(tmp_path / "model_b")
    bundle = load_bundle(description, CPU)
    assert run(bundle, volume(asymmetric_block())) is not None
    (tmp_path / "model_b/models/model.onnx").unlink()
    with pytest.raises(BundleRefused, match="network_def: is missing"):
        load_bundle(describe(description.folder), CPU)
