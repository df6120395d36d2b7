"""A MONAI bundle, loaded as data.

What comes in: a `ModelDescription`, the digest that the job was queued with, a device. What goes out: a
`LoadedBundle`: network with weights, preprocessing, inferer, postprocessing. Each file is read once; the
bytes that were hashed are the bytes that are used.

Invariant: nothing of a bundle that is not trusted is executed: no `eval`, no import, no pickle beyond
tensors. Refusals are `BundleRefused` and name file, key and reason.
"""

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from dicom_node.catalogue import ModelDescription, bundle_files, contents_digest
from dicom_node.errors import BundleRefused
from dicom_node.infer.allowed import short_name
from dicom_node.infer.networks import TRUST, check_windows, make_networks, weight_files
from dicom_node.infer.plan import window_size
from dicom_node.infer.programs import is_program, size_of
from dicom_node.infer.resolve import Resolver

INFERENCE = ("configs/inference.json", "configs/inference.yaml", "configs/inference.yml")
METADATA = "configs/metadata.json"
MAX_CONFIG_BYTES = 4 * 2**20


@dataclass(frozen=True, slots=True)
class LoadedBundle:
    """A bundle that is ready to run.

    Attributes:
        digest: of the files that were loaded.
        networks: in evaluation mode, on the device; the answer is the mean of what they give.
        preprocessing: transforms in order, without readers.
        inferer: an inferer of MONAI; it says how to cut, `windows` does the cutting.
        postprocessing: transforms in order, without writers.
        channels: how many the network takes.
        image_key: the key that the transforms know the image by, and that the network sees.
        input_keys: the keys that the bundle's reader would read images to.
        output_key: the key that the bundle would have saved.
        is_colour: an RGB model; a grey image is repeated for it.
        rows_first: a projection is handed over as `(C, y, x)`, not as `(C, x, y)`.
        bytes: what the weights take.
        fast: the networks compiled for this machine, for windows of one size; see `accelerate`.
    """

    description: ModelDescription
    digest: str
    device: torch.device
    networks: tuple[nn.Module, ...]
    preprocessing: tuple[Any, ...]
    inferer: Any
    postprocessing: tuple[Any, ...]
    channels: int
    image_key: str
    input_keys: tuple[str, ...]
    output_key: str
    is_colour: bool
    rows_first: bool
    bytes: int
    fast: tuple[Any, ...] = ()

    @property
    def network(self) -> nn.Module:
        """The first network: the one that heat maps are made of."""
        return self.networks[0]


def is_trusted(name: str, digest: str, trusted: Collection[str]) -> bool:
    """Whether the admin's list holds this model with these very bytes: `name@digest`."""
    return f"{name}@{digest}" in trusted


def load_bundle(
    description: ModelDescription,
    device: torch.device,
    expected_digest: str | None = None,
    *,
    trusted: Collection[str] = (),
) -> LoadedBundle:
    """Read, check and make a bundle.

    Args:
        description: the model.
        device: where its network goes.
        expected_digest: what the job was queued with.
        trusted: the admin's list (`infer.trusted_bundles`) of bundles whose own code may run.

    Raises:
        BundleRefused: it changed since the job was queued, is incomplete, or asks for what is not allowed.
    """
    folder, digest = description.folder, ""
    try:
        files = read_files(folder)
        digest = contents_digest(files.items())
        if expected_digest is not None and digest != expected_digest:
            raise BundleRefused(
                f"digest is {digest[:12]}, the job wants {expected_digest[:12]}: the files were changed"
            )
        own_code = is_trusted(description.name, digest, trusted)
        return _made(description, files, digest, device, own_code)
    except BundleRefused as refused:
        how = f' ("{description.name}@{digest}")' if TRUST in str(refused) else ""
        raise BundleRefused(f"{folder.name}: {refused}{how}") from refused


def read_files(folder: Path) -> dict[str, bytes]:
    """The bundle's files by relative name, in the order of the digest."""
    try:
        return {
            path.relative_to(folder).as_posix(): path.read_bytes() for path in bundle_files(folder)
        }
    except OSError as error:
        raise BundleRefused(f"{error.filename}: {error.strerror}") from error


def _made(
    description: ModelDescription,
    files: Mapping[str, bytes],
    digest: str,
    device: torch.device,
    trusted: bool,
) -> LoadedBundle:
    config_name, config = _configuration(files)
    metadata = _metadata(files, description)
    resolver = Resolver(config, config_name, device, files, trusted=trusted)
    names = weight_files(description, files)

    def network_def() -> nn.Module:
        network = resolver.resolve("network_def")
        if not isinstance(network, nn.Module):
            raise BundleRefused(f"{config_name}: network_def: is no network")
        return network

    if not names or not all(is_program(name) for name in names):
        network_def()
    preprocessing = _transforms(resolver, config, "preprocessing", config_name)
    inferer = resolver.resolve("inferer")
    postprocessing = _transforms(resolver, config, "postprocessing", config_name)
    channels = _channels(metadata)
    _check_channels(description, resolver.raw("network_def"), channels, config_name)
    networks = make_networks(names, files, network_def, device, trusted=trusted)
    check_windows(names, networks, channels, window_size(inferer))
    _check_heatmap(description, networks[0])
    image_key = _image_key(preprocessing)
    return LoadedBundle(
        description=description,
        digest=digest,
        device=device,
        networks=networks,
        preprocessing=preprocessing,
        inferer=inferer,
        postprocessing=postprocessing,
        channels=channels,
        image_key=image_key,
        input_keys=_keys_of(resolver, "preprocessing", "LoadImage") or (image_key,),
        output_key=next(iter(_keys_of(resolver, "postprocessing", "SaveImage")), "pred"),
        is_colour=_is_colour(description, metadata, channels),
        rows_first=_rows_first(resolver.raw("preprocessing")),
        bytes=sum(size_of(network) for network in networks),
    )


def _configuration(files: Mapping[str, bytes]) -> tuple[str, Mapping[str, Any]]:
    name = next((name for name in INFERENCE if name in files), None)
    if name is None:
        raise BundleRefused(f"{INFERENCE[0]}: no such file")
    config = parse(name, files[name])
    if not isinstance(config, dict):
        raise BundleRefused(f"{name}: holds no keys")
    return name, config


def parse(name: str, content: bytes) -> Any:
    """JSON or YAML as plain data.

    Raises:
        BundleRefused: it is neither, is too large, or a YAML tag asks for an object.
    """
    if len(content) > MAX_CONFIG_BYTES:
        raise BundleRefused(f"{name}: {len(content)} bytes, too large for a configuration")
    try:
        text = content.decode("utf-8")
        return json.loads(text) if name.endswith(".json") else yaml.safe_load(text)
    except (UnicodeDecodeError, json.JSONDecodeError, yaml.YAMLError, RecursionError) as error:
        raise BundleRefused(f"{name}: {' '.join(str(error).split())[:300]}") from error


def _metadata(files: Mapping[str, bytes], description: ModelDescription) -> Mapping[str, Any]:
    if METADATA not in files:
        raise BundleRefused(f"{METADATA}: no such file")
    metadata = parse(METADATA, files[METADATA])
    if not isinstance(metadata, dict) or "version" not in metadata:
        raise BundleRefused(f"{METADATA}: version: is missing")
    if str(metadata["version"]) != description.model.version:
        raise BundleRefused(
            f"{METADATA}: version: is {metadata['version']}, "
            f"dicom.toml says {description.model.version}"
        )
    return metadata


def _transforms(
    resolver: Resolver, config: Mapping[str, Any], key: str, file: str
) -> tuple[Any, ...]:
    if key not in config and key == "postprocessing":
        return ()
    if key not in config:
        raise BundleRefused(f"{file}: {key}: is missing, so the bundle takes no image")
    made = resolver.resolve(key)
    transforms = getattr(made, "transforms", made)
    if not isinstance(transforms, list | tuple):
        raise BundleRefused(f"{file}: {key}: is no Compose and no list of transforms")
    return tuple(_flattened(transforms))


def _flattened(transforms: Any) -> Iterator[Any]:
    for transform in transforms:
        if type(transform).__name__ == "Compose":
            yield from _flattened(transform.transforms)
        else:
            yield transform


def _input_format(metadata: Mapping[str, Any]) -> Mapping[str, Any]:
    inputs = (metadata.get("network_data_format") or {}).get("inputs") or {}
    image: Mapping[str, Any] = inputs.get("image") or next(iter(inputs.values()), {})
    return image


def _is_colour(description: ModelDescription, metadata: Mapping[str, Any], channels: int) -> bool:
    says = str(_input_format(metadata).get("format", "")).upper()
    return description.input.dimensions == 2 and (says == "RGB" or channels == 3)


def _channels(metadata: Mapping[str, Any]) -> int:
    channels = _input_format(metadata).get("num_channels", 1)
    if not isinstance(channels, int) or not 1 <= channels <= 64:
        raise BundleRefused(f"{METADATA}: network_data_format: num_channels is {channels!r}")
    return channels


def _check_channels(description: ModelDescription, raw: Any, channels: int, file: str) -> None:
    """Catch now what would break, or be cut off silently, when the first image comes."""
    if not isinstance(raw, dict):
        return
    takes = raw.get("in_channels")
    if isinstance(takes, int) and takes != channels:
        raise BundleRefused(
            f"{file}: network_def: in_channels is {takes}, {METADATA} gives {channels}"
        )
    gives = raw.get("out_channels")
    highest = max((segment.value for segment in description.segments), default=0)
    if isinstance(gives, int) and gives > 1 and highest > gives:
        raise BundleRefused(
            f"{file}: network_def: out_channels is {gives}, dicom.toml has a segment {highest}"
        )


def _check_heatmap(description: ModelDescription, network: nn.Module) -> None:
    layer = description.outputs.heatmap_layer
    if not description.outputs.heatmap or description.model.task != "classification":
        return
    if layer is None:
        raise BundleRefused(
            "dicom.toml: outputs.heatmap_layer: is missing, and a heat map is wanted"
        )
    if layer not in dict(network.named_modules()):
        raise BundleRefused(
            f"dicom.toml: outputs.heatmap_layer: network_def has no layer {layer!r}"
        )


def _image_key(preprocessing: tuple[Any, ...]) -> str:
    for transform in preprocessing:
        keys = getattr(transform, "keys", None)
        if keys:
            return str(keys[0])
    return "image"


def _keys_of(resolver: Resolver, stage: str, kind: str) -> tuple[str, ...]:
    """The keys of a stage's last reader or writer, which were dropped; empty where there is none."""
    steps = (resolver.raw(stage) or {}).get("transforms")
    if not isinstance(steps, list):
        return ()
    found: tuple[str, ...] = ()
    for index, step in enumerate(steps):
        if isinstance(step, dict) and short_name(str(step.get("_target_"))) == f"{kind}d":
            keys = resolver.resolve(f"{stage}#transforms#{index}#keys")
            found = tuple(keys) if isinstance(keys, list | tuple) else (str(keys),)
    return found


def _rows_first(raw: Any) -> bool:
    """Whether the bundle's reader keeps rows first: `LoadImaged` with `reverse_indexing` false."""
    steps = raw.get("transforms") if isinstance(raw, dict) else None
    for step in steps if isinstance(steps, list) else ():
        if isinstance(step, dict) and short_name(str(step.get("_target_"))).startswith("LoadImage"):
            return step.get("reverse_indexing") is False
    return False
