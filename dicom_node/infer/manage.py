"""Installing and checking models: what `dicom-node models add` and `verify` do.

What comes in: a folder or a zip file that holds a bundle. What goes out: the bundle in the node's folder of
models, with a manifest of its files, or a refusal. Nothing of a bundle is run before it was checked, and a
bundle that is refused leaves nothing behind.
"""

import hashlib
import json
import os
import shutil
import tempfile
import time
import tomllib
import zipfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import torch

from dicom_node.catalogue import SIDECAR, ModelDescription, bundle_files, describe
from dicom_node.errors import BundleRefused
from dicom_node.infer.accelerate import Choice, kept, was_refused
from dicom_node.infer.bundle import METADATA, LoadedBundle, load_bundle, parse
from dicom_node.infer.engine import LocalEngine
from dicom_node.settings import Settings

MANIFEST = "SHA256SUMS"
PARTS = ("configs", "models", "docs", "scripts")
FILES = (SIDECAR, "LICENSE")
MAX_UNPACKED_BYTES = 8 * 2**30


@dataclass(frozen=True, slots=True)
class Verified:
    """What a check of a model found.

    Attributes:
        files: relative name -> SHA-256.
        changed: files that differ from the manifest, or are missing from either; empty without a manifest.
        parameters: numbers in the network.
        load_seconds: from the files to a network that is ready.
        compiled: whether an engine is in use that passed the comparison with torch; false where one gave
            something else and none is in use; None where there is nothing to say.
    """

    digest: str
    files: Mapping[str, str]
    changed: tuple[str, ...]
    parameters: int
    load_seconds: float
    compiled: bool | None = None


def verify(
    description: ModelDescription,
    *,
    trusted: Collection[str] = (),
    compiled_dir: Path | None = None,
) -> Verified:
    """Load a model as the worker would, and compare its files with its manifest.

    Args:
        description: the model.
        trusted: bundles whose own code may run (`infer.trusted_bundles`).
        compiled_dir: where the worker keeps what came of its engines.

    Raises:
        BundleRefused: the worker would refuse it too; the message names file, key and reason.
    """
    began = time.monotonic()
    bundle = load_bundle(description, torch.device("cpu"), trusted=trusted)
    seconds = time.monotonic() - began
    files = _sums(description.folder)
    listed = _read_manifest(description.folder)
    names = files.keys() | listed.keys() if listed else set()
    return Verified(
        digest=bundle.digest,
        files=files,
        changed=tuple(sorted(name for name in names if files.get(name) != listed.get(name))),
        parameters=sum(one.numel() for net in bundle.networks for one in net.parameters()),
        load_seconds=seconds,
        compiled=_compiled(bundle, compiled_dir),
    )


def _compiled(bundle: LoadedBundle, kept_in: Path | None) -> bool | None:
    if kept_in is None:
        return None
    if kept(bundle, kept_in).engine is not None:
        return True
    return False if was_refused(bundle, kept_in) else None


def add(
    source: Path, models_dir: Path, *, replace: bool = False, trusted: Collection[str] = ()
) -> ModelDescription:
    """Install a bundle.

    Args:
        source: a folder, or a zip file with a bundle at its top or in its only folder.
        models_dir: the node's folder of models.
        replace: take the place of a model of the same name.
        trusted: bundles whose own code may run (`infer.trusted_bundles`).

    Raises:
        BundleRefused: it is no bundle, may not be run, or the name is taken.
    """
    models_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=models_dir, prefix=".adding-") as place:
        bundle = _copied(source, Path(place))
        name = describe_anywhere(bundle).name
        target, ready = models_dir / name, Path(place) / name
        if target.exists() and not replace:
            raise BundleRefused(f"{name}: a model of this name is installed")
        if bundle != ready:
            bundle.rename(ready)
        load_bundle(describe(ready), torch.device("cpu"), trusted=trusted)
        (ready / MANIFEST).write_text(
            "".join(f"{digest}  {file}\n" for file, digest in _sums(ready).items())
        )
        if target.exists():
            target.rename(Path(place) / ".replaced")
        ready.rename(target)
    return describe(target)


def choose_engine(description: ModelDescription, settings: Settings) -> Choice:
    """Try every engine for a model on this machine, as the worker would in its quiet hours.

    Takes seconds to a minute; what came of it is kept in the data folder, where the worker finds it.
    """
    engine = LocalEngine(settings.infer, compiled_dir=settings.data_dir / "compiled")
    engine.load(description)
    while engine.accelerate():
        pass
    return engine.choice(description)


def describe_anywhere(folder: Path) -> ModelDescription:
    """The description of a bundle whose folder may have another name than the model.

    Raises:
        BundleRefused: there is no sidecar, or it is wrong; the message helps to write one.
    """
    file = folder / SIDECAR
    if not file.is_file():
        raise BundleRefused(
            f"{SIDECAR}: no such file; it says which series the model takes and how its labels are coded. "
            "`dicom-node models add --draft` prints one to fill in"
        )
    try:
        name = tomllib.loads(file.read_text(encoding="utf-8"))["model"]["name"]
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise BundleRefused(f"{SIDECAR}: model.name cannot be read ({error})") from error
    if not isinstance(name, str) or PurePosixPath(name).name != name or name in ("", ".", ".."):
        raise BundleRefused(f"{SIDECAR}: model.name: {name!r} is no name")
    with tempfile.TemporaryDirectory() as place:
        (Path(place) / name).mkdir()
        shutil.copyfile(file, Path(place) / name / SIDECAR)
        return describe(Path(place) / name)


def draft(folder: Path) -> str:
    """A sidecar to fill in, from what a bundle's metadata says; codes are left for a person to choose.

    Raises:
        BundleRefused: there is no metadata to go by.
    """
    try:
        metadata = parse(METADATA, (folder / METADATA).read_bytes())
    except OSError as error:
        raise BundleRefused(f"{METADATA}: {error.strerror}") from error
    data = metadata.get("network_data_format") or {}
    image = (data.get("inputs") or {}).get("image") or {}
    output: Mapping[str, Any] = next(iter((data.get("outputs") or {}).values()), {})
    shape = image.get("spatial_shape") or []
    labels = {
        int(value): str(label)
        for value, label in (output.get("channel_def") or {}).items()
        if str(value).isdigit()
    }
    task = "classification" if output.get("type") == "probabilities" else "segmentation"
    name = "".join(c if c.isalnum() else "_" for c in folder.resolve().name.lower()).strip("_")
    head = f"""\
[model]
name = {json.dumps(name)}
title = {json.dumps(str(metadata.get("name", name))[:40])}
version = {json.dumps(str(metadata.get("version", "")))}
task = "{task}"
limits = {json.dumps(str(metadata.get("intended_use", "Not stated by its authors.")))}

[input]
modality = [{json.dumps(str(image.get("modality", "CT")))}]
dimensions = {2 if len(shape) == 2 else 3}
"""
    return head + "".join(_draft_label(task, value, label) for value, label in labels.items())


def _draft_label(task: str, value: int, label: str) -> str:
    if task == "classification":
        return (
            f"\n[[classes]]\nindex = {value}\nlabel = {json.dumps(label[:64])}\n"
            'finding = ["", "SCT", ""]  # choose a code\n'
        )
    if value == 0:
        return ""
    color = [(37 * value + 90) % 200 + 40, (91 * value + 20) % 200 + 40, (53 * value) % 200 + 40]
    return (
        f"\n[[segments]]\nvalue = {value}\nlabel = {json.dumps(label[:64])}\n"
        'category = ["123037004", "SCT", "Anatomical Structure"]\n'
        f'type = ["", "SCT", ""]  # choose a code\ncolor_rgb = {color}\n'
    )


def _copied(source: Path, place: Path) -> Path:
    """A copy of a bundle's own files inside `place`; other files and links stay behind."""
    if source.is_file() and zipfile.is_zipfile(source):
        return _unpacked(source, place / "unpacked")
    if not source.is_dir():
        raise BundleRefused(f"{source}: neither a folder nor a zip file")
    bundle_files(source)  # refuses links
    to = place / "copied"
    to.mkdir()
    for part in PARTS:
        if (source / part).is_dir():
            shutil.copytree(source / part, to / part, symlinks=True)
    for file in FILES:
        if (source / file).is_file():
            shutil.copyfile(source / file, to / file)
    return to


def _unpacked(source: Path, to: Path) -> Path:
    """Unpack a zip file; names that lead out of it, links and bombs are refused."""
    with zipfile.ZipFile(source) as archive:
        members = archive.infolist()
        if sum(member.file_size for member in members) > MAX_UNPACKED_BYTES:
            raise BundleRefused(f"{source.name}: unpacks to more than {MAX_UNPACKED_BYTES} bytes")
        for member in members:
            path = PurePosixPath(member.filename)
            is_link = (member.external_attr >> 16) & 0o170000 == 0o120000
            if path.is_absolute() or ".." in path.parts or "\\" in member.filename or is_link:
                raise BundleRefused(f"{source.name}: {member.filename}: leads out of the bundle")
        archive.extractall(to)
    inside = [path for path in to.iterdir() if not path.name.startswith(("__", "."))]
    return inside[0] if len(inside) == 1 and inside[0].is_dir() else to


def _sums(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in bundle_files(folder)
    }


def _read_manifest(folder: Path) -> dict[str, str]:
    try:
        lines = (folder / MANIFEST).read_text().splitlines()
    except OSError:
        return {}
    pairs: list[Any] = [line.split("  ", 1) for line in lines if "  " in line]
    return {os.fspath(name): digest for digest, name in pairs}
