"""The local engine: models on one device, kept warm.

What comes in: a model's description, an image, the digest the job was queued with. What goes out: a
`Prediction`. Several models stay loaded; the one that was used least recently goes first when they take
more than their share of memory. Not for several threads at once: one worker process, one engine.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import psutil
import torch

from dicom_node.catalogue import ModelDescription
from dicom_node.errors import ConfigurationError
from dicom_node.infer.accelerate import Choice, kept, try_next
from dicom_node.infer.bundle import LoadedBundle, load_bundle
from dicom_node.infer.engines import Precision
from dicom_node.infer.runner import run
from dicom_node.records import Image, Prediction
from dicom_node.settings import InferSettings

SHARE_FOR_WEIGHTS = 0.4
"""Of the device's memory; the rest is for images and what the networks make of them."""


class Engine(Protocol):
    """What a worker needs of an engine, wherever it runs models."""

    def load(self, description: ModelDescription, digest: str | None = None) -> object:
        """Have a model ready; errors as those of `LocalEngine`."""
        ...

    def predict(
        self,
        description: ModelDescription,
        image: Image,
        digest: str | None = None,
        also: Sequence[Image] = (),
    ) -> Prediction:
        """Run a model on an image; errors as those of `LocalEngine`."""
        ...

    def accelerate(self) -> bool:
        """Use a quiet moment; whether there was anything to do."""
        ...


class LocalEngine:
    """Loads models when they are first needed and runs them on this machine's device."""

    def __init__(
        self,
        settings: InferSettings,
        weights_limit: int | None = None,
        compiled_dir: Path | None = None,
    ) -> None:
        """
        Args:
            settings: device and threads.
            weights_limit: bytes that loaded models may take together; default: a share of the memory.
            compiled_dir: where compiled networks are kept; default: none are made.
        """
        self.device = choose_device(settings.device)
        if settings.threads:
            torch.set_num_threads(settings.threads)
        self._limit = weights_limit or int(SHARE_FOR_WEIGHTS * _memory(self.device))
        self._loaded: OrderedDict[tuple[str, str], LoadedBundle] = OrderedDict()
        self._trusted = frozenset(settings.trusted_bundles)
        self._compiled_dir = compiled_dir if settings.cpu_engine == "auto" else None
        self._precision: Precision = settings.precision
        self._complete: set[tuple[str, str]] = set()

    def load(self, description: ModelDescription, digest: str | None = None) -> LoadedBundle:
        """The model, loaded; the same object again while it stays warm and its digest is the one wanted.

        Raises:
            BundleRefused: it may not be loaded, or is not the model that the job was queued with.
        """
        if digest is not None and (description.name, digest) in self._loaded:
            key = (description.name, digest)
        else:
            bundle = load_bundle(description, self.device, digest, trusted=self._trusted)
            key = (description.name, bundle.digest)
            if key not in self._loaded:
                self._loaded[key] = bundle
                if self._compiled_dir is not None:
                    self._use(key, kept(bundle, self._compiled_dir, self._precision))
        self._loaded.move_to_end(key)
        self._make_room(key)
        return self._loaded[key]

    def predict(
        self,
        description: ModelDescription,
        image: Image,
        digest: str | None = None,
        also: Sequence[Image] = (),
    ) -> Prediction:
        """Run a model on an image, and on further ones of its grid where it takes several at once.

        Raises:
            BundleRefused: see `load`.
            NotApplicable: the image says nothing, or is of another kind than the model takes.
            ModelFailed: the model broke on it.
        """
        return run(self.load(description, digest), image, also)

    def accelerate(self) -> bool:
        """Try one more engine for one of the loaded models, if there is one left to try.

        It takes seconds, so the worker does it while no job waits; until then torch answers.

        Returns:
            Whether anything was tried.
        """
        left = [key for key in self._loaded if key not in self._complete]
        if self._compiled_dir is None or not left:
            return False
        bundle = self._loaded[left[0]]
        self._use(left[0], try_next(bundle, self._compiled_dir, self._precision))
        return True

    def choice(self, description: ModelDescription) -> Choice:
        """Which engine runs a model that is loaded."""
        if self._compiled_dir is None:
            return Choice()
        return kept(self.load(description), self._compiled_dir, self._precision)

    def _use(self, key: tuple[str, str], choice: Choice) -> None:
        self._loaded[key] = replace(self._loaded[key], fast=choice.networks)
        if choice.complete:
            self._complete.add(key)

    @property
    def warm(self) -> tuple[str, ...]:
        """Names of the loaded models, the one used last at the end."""
        return tuple(name for name, _ in self._loaded)

    def _make_room(self, keep: tuple[str, str]) -> None:
        while sum(map(_bytes, self._loaded.values())) > self._limit:
            oldest = next(iter(self._loaded))
            if oldest == keep:
                return
            del self._loaded[oldest]
            self._complete.discard(oldest)
            if self.device.type == "cuda":
                torch.cuda.empty_cache()


def choose_device(name: str) -> torch.device:
    """`auto` takes a GPU where there is one.

    Raises:
        ConfigurationError: the name is none, or the device is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigurationError(f"infer.device: {name!r} is no device") from error
    if device.type not in ("cpu", "cuda"):
        raise ConfigurationError(f"infer.device: {name!r}: only cpu and cuda are known")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigurationError(f"infer.device: {name!r}, but torch finds no GPU here")
    return device


def _bytes(bundle: LoadedBundle) -> int:
    """What a loaded model takes; a faster engine has weights of its own."""
    return bundle.bytes * (2 if bundle.fast else 1)


def _memory(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return int(psutil.virtual_memory().total)
