"""Loading a bundle: what is refused, and that the refusal names file, key and reason."""

import json
import os
import pickle
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dicom_node.catalogue import describe
from dicom_node.errors import BundleRefused
from dicom_node.infer import allowed
from dicom_node.infer.bundle import load_bundle
from dicom_node.infer.engine import LocalEngine
from dicom_node.settings import InferSettings
from tests.builders.bundles import (
    RESAMPLE,
    THRESHOLD_NETWORK,
    configuration,
    threshold_weights,
    write_bundle,
)
from tests.builders.volumes import asymmetric_block, volume

CPU = torch.device("cpu")


def refusal(folder: Path, config: dict[str, Any]) -> str:
    with pytest.raises(BundleRefused) as refused:
        load_bundle(write_bundle(folder, config), CPU)
    return str(refused.value)


def with_transform(**transform: Any) -> dict[str, Any]:
    return configuration(preprocessing=[transform])


def test_every_allowed_class_exists_and_lives_where_the_table_says() -> None:
    for name, entry in allowed.ALLOWED.items():
        found = allowed.find(name)
        assert callable(found)
        assert allowed.find(f"{entry.home}.{name}") is found
        assert allowed.find(f"{found.__module__}.{name}") is found


def test_an_ordinary_bundle_loads_and_leaves_the_rest_of_its_configuration_alone(
    tmp_path: Path,
) -> None:
    config = configuration(
        preprocessing=RESAMPLE, dataset={"_target_": "os.system", "command": "x"}
    )
    bundle = load_bundle(write_bundle(tmp_path / "model_a", config), CPU)
    assert [type(step).__name__ for step in bundle.preprocessing] == ["Orientationd", "Spacingd"]
    assert not bundle.network.training
    assert bundle.image_key == "image"


@pytest.mark.parametrize(
    ("transform", "told"),
    [
        ({"_target_": "os.system", "command": "true"}, "os.system is not on the list"),
        ({"_target_": "monai.bundle.scripts.os.getpid"}, "not on the list"),
        ({"_target_": "subprocess.Popen", "args": ["true"]}, "not on the list"),
        ({"_target_": "scripts.mine.Transform"}, "code of the bundle's own"),
        (
            {"_target_": "evil.Spacingd", "keys": "image", "pixdim": 1},
            "is not where Spacingd lives",
        ),
        ({"_target_": "Spacingd", "keys": "image", "pixel": 1}, "takes no argument pixel"),
        ({"_target_": "Spacingd", "keys": "image", "pixdim": "../x"}, "looks like a path"),
        ({"_target_": "Lambdad", "keys": "image", "func": "$lambda x: open(x)"}, "open"),
        ({"_target_": "Lambdad", "keys": "image", "func": "$__import__('os')"}, "underscores"),
        ({"_target_": "Spacingd", "keys": "image", "pixdim": "$import os"}, "not an expression"),
        ({"_target_": "Spacingd", "keys": "image", "pixdim": "@nowhere"}, "nowhere: is missing"),
        ({"_target_": "Identityd", "keys": "%other.json#a"}, "a macro reads other files"),
        ({"_target_": "Identityd", "keys": "image", "_mode_": "callable"}, "_mode_"),
        (
            {"_target_": "Identityd", "keys": "$torch.load('/etc/passwd')"},
            "is no file of the bundle",
        ),
        ({"_target_": "Identityd", "keys": "$torch.load('../a/b.pt')"}, "is no file of the bundle"),
        ({"_target_": ["os.system"]}, "_target_ is not a text"),
    ],
)
def test_what_asks_for_more_than_computing_is_refused(
    transform: dict[str, Any], told: str, tmp_path: Path
) -> None:
    message = refusal(tmp_path / "model_a", with_transform(**transform))
    assert message.startswith("model_a: configs/inference.json: ")
    assert told in message


def test_a_circle_of_references_is_refused(tmp_path: Path) -> None:
    config = configuration(preprocessing=["@a"], a="@b", b="$[@a]")
    assert "refers to itself" in refusal(tmp_path / "model_a", config)


def test_yaml_aliases_cannot_multiply(tmp_path: Path) -> None:
    description = write_bundle(tmp_path / "model_a")
    (tmp_path / "model_a/configs/inference.json").unlink()
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    lines += ["network_def: {_target_: UNet, channels: '@a8'}"]
    (tmp_path / "model_a/configs/inference.yaml").write_text("\n".join(lines))
    with pytest.raises(BundleRefused, match="more than 20000 values"):
        load_bundle(description, CPU)


def test_a_yaml_tag_that_makes_objects_is_refused(tmp_path: Path) -> None:
    description = write_bundle(tmp_path / "model_a")
    (tmp_path / "model_a/configs/inference.json").unlink()
    evil = "network_def: !!python/object/apply:os.system ['true']"
    (tmp_path / "model_a/configs/inference.yaml").write_text(evil)
    with pytest.raises(BundleRefused, match=r"configs/inference\.yaml: could not determine"):
        load_bundle(description, CPU)


@pytest.mark.parametrize("missing", ["network_def", "preprocessing", "inferer"])
def test_a_missing_key_is_named(missing: str, tmp_path: Path) -> None:
    config = configuration()
    del config[missing]
    assert f"configs/inference.json: {missing}: is missing" in refusal(tmp_path / "model_a", config)


@pytest.mark.parametrize(
    ("file", "told"),
    [
        ("configs/inference.json", "configs/inference.json: no such file"),
        ("configs/metadata.json", "configs/metadata.json: no such file"),
        ("models/model.safetensors", "models: none of"),
    ],
)
def test_a_missing_file_is_named(file: str, told: str, tmp_path: Path) -> None:
    description = write_bundle(tmp_path / "model_a")
    (tmp_path / "model_a" / file).unlink()
    with pytest.raises(BundleRefused, match=told):
        load_bundle(description, CPU)


def test_a_pickle_that_does_more_than_hold_tensors_is_refused(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.system, (f"touch {tmp_path / 'ran'}",)

    description = write_bundle(tmp_path / "model_a")
    (tmp_path / "model_a/models/model.safetensors").unlink()
    (tmp_path / "model_a/models/model.pt").write_bytes(pickle.dumps({"w": Evil()}))
    with pytest.raises(BundleRefused, match=r"models/model\.pt: not readable as tensors alone"):
        load_bundle(description, CPU)
    torch.save({"w": Evil()}, tmp_path / "model_a/models/model.pt")
    with pytest.raises(BundleRefused, match="not readable as tensors alone"):
        load_bundle(description, CPU)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("wrapped", [lambda s: s, lambda s: {"state_dict": s, "epoch": 3}])
def test_a_pickle_of_tensors_is_read(wrapped: Any, tmp_path: Path) -> None:
    description = write_bundle(tmp_path / "model_a")
    (tmp_path / "model_a/models/model.safetensors").unlink()
    state = {f"module.{name}": value for name, value in threshold_weights().items()}
    torch.save(wrapped(state), tmp_path / "model_a/models/model.pt")
    assert load_bundle(description, CPU).bytes > 0


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    config = configuration(network={**THRESHOLD_NETWORK, "out_channels": 3})
    told = refusal(tmp_path / "model_a", config)
    assert "models/model.safetensors: not the weights of network_def" in told
    assert "size mismatch for decode.decode_0" in told


def test_a_wrong_number_of_channels_is_refused(tmp_path: Path) -> None:
    description = write_bundle(tmp_path / "model_a", channels=4)
    with pytest.raises(BundleRefused, match=r"in_channels is 1, configs/metadata\.json gives 4"):
        load_bundle(description, CPU)


def test_a_version_that_differs_from_the_sidecar_is_refused(tmp_path: Path) -> None:
    description = write_bundle(tmp_path / "model_a")
    (tmp_path / "model_a/configs/metadata.json").write_text(json.dumps({"version": "2.0"}))
    with pytest.raises(BundleRefused, match=r"version: is 2\.0, dicom\.toml says 1\.2\.3"):
        load_bundle(description, CPU)


def test_a_link_is_refused(tmp_path: Path) -> None:
    description = write_bundle(tmp_path / "model_a")
    (tmp_path / "outside").write_text("{}")
    (tmp_path / "model_a/configs/more.json").symlink_to(tmp_path / "outside")
    with pytest.raises(BundleRefused, match="a link"):
        load_bundle(description, CPU)


def test_a_bundle_that_changed_since_the_job_was_queued_is_refused(tmp_path: Path) -> None:
    description = write_bundle(tmp_path / "model_a")
    queued_with = description.digest
    engine = LocalEngine(InferSettings(device="cpu"))
    warm = engine.load(description, queued_with)
    config = tmp_path / "model_a/configs/inference.json"
    config.write_text(config.read_text() + "\n")
    assert engine.load(description, queued_with) is warm, "what is loaded is what was hashed"
    with pytest.raises(BundleRefused, match="the files were changed"):
        LocalEngine(InferSettings(device="cpu")).load(description, queued_with)


def test_models_stay_warm_until_they_take_too_much(tmp_path: Path) -> None:
    a, b, c = (write_bundle(tmp_path / name) for name in ("model_a", "model_b", "model_c"))
    one = load_bundle(a, CPU).bytes
    engine = LocalEngine(InferSettings(device="cpu"), weights_limit=2 * one)
    first = engine.load(a, a.digest)
    engine.load(b, b.digest)
    assert engine.load(a, a.digest) is first
    engine.load(c, c.digest)
    assert engine.warm == ("model_a", "model_c")


def test_two_models_alternate_without_being_loaded_again(tmp_path: Path) -> None:
    a, b = (write_bundle(tmp_path / name) for name in ("model_a", "model_b"))
    engine = LocalEngine(InferSettings(device="cpu"))
    first = {one.name: engine.load(one, one.digest).network for one in (a, b)}
    image = volume(asymmetric_block((8, 9, 10)))
    for model in (a, b, a, b):
        assert engine.predict(model, image, model.digest) is not None
        assert engine.load(model, model.digest).network is first[model.name]


SCRIPTS = {
    "scripts/net.py": "from scripts.parts import double\nfrom torch import nn\n"
    "class Net(nn.Module):\n    def __init__(self, width):\n        super().__init__()\n"
    "        self.layer = nn.Conv3d(1, double(width), 1)\n"
    "    def forward(self, x):\n        return self.layer(x)\n",
    "scripts/parts.py": "def double(width):\n    return 2 * width\n",
}


def with_scripts(folder: Path) -> Any:
    (folder / "scripts").mkdir(parents=True)
    for name, source in SCRIPTS.items():
        (folder / name).write_text(source)
    config = configuration(network={"_target_": "scripts.net.Net", "width": 1})
    return write_bundle(folder, config, nn.Conv3d(1, 2, 1).state_dict(prefix="layer."))


def test_a_bundles_own_code_runs_only_where_the_admin_trusts_it(tmp_path: Path) -> None:
    description = with_scripts(tmp_path / "model_a")
    with pytest.raises(
        BundleRefused, match=r"scripts\.net\.Net is not on the list.*trusted_bundles"
    ):
        LocalEngine(InferSettings(device="cpu")).load(description)
    trusting = InferSettings(device="cpu", trusted_bundles=(f"model_a@{description.digest}",))
    loaded = LocalEngine(trusting).load(description)
    assert type(loaded.network).__name__ == "Net"
    assert "scripts" not in sys.modules
    other = with_scripts(tmp_path / "model_b")
    with pytest.raises(BundleRefused, match="is not on the list"):
        LocalEngine(trusting).load(other)


def test_code_that_changed_is_another_model(tmp_path: Path) -> None:
    description = with_scripts(tmp_path / "model_a")
    digest = description.digest
    (tmp_path / "model_a/scripts/parts.py").write_text("def double(width):\n    return 2\n")
    engine = LocalEngine(InferSettings(device="cpu", trusted_bundles=(f"model_a@{digest}",)))
    with pytest.raises(BundleRefused, match="the files were changed"):
        engine.load(description, digest)
    with pytest.raises(BundleRefused, match="is not on the list") as refused:
        engine.load(describe(tmp_path / "model_a"))
    changed = describe(tmp_path / "model_a").digest
    assert f'"model_a@{changed}"' in str(refused.value), "what to write to trust these bytes"


def test_networks_that_would_fetch_weights_do_not(tmp_path: Path) -> None:
    made = allowed.make("EfficientNetBN", {"model_name": "efficientnet-b0", "pretrained": True})
    assert isinstance(made, nn.Module)
    with pytest.raises(allowed.Refusal, match="downloads"):
        allowed.make("TorchVisionFCModel", {"weights": "IMAGENET1K_V1"})
