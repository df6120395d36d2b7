"""The Ray engine: each model in an actor somewhere in a cluster, kept warm.

What comes in and goes out is what `LocalEngine` takes and gives. The image travels by Ray's object store,
the prediction comes back the same way; headers stay here. One actor for each model that this worker has used,
with the share of a GPU that the settings say. A worker has one call under way, so what waits, waits in the
database, in its order and under its limits, never in Ray. An actor that dies, or whose host does, is started
again elsewhere and asked once more under the same lease; after `TRIES` deaths the model is what breaks.

Ray may lose anything: the truth is the database, the bytes are the spool's.
"""

import os
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from dicom_node.catalogue import ModelDescription
from dicom_node.errors import ConfigurationError, ModelFailed, NodeError
from dicom_node.infer.engine import Engine, LocalEngine
from dicom_node.observe.logging import get_logger
from dicom_node.records import Image, Prediction, Volume
from dicom_node.settings import InferSettings

log = get_logger(__name__)

TRIES = 3
KNOCK_SECONDS = 5.0
NAMESPACE = "dicom-node"


class RayEngine:
    """Runs models on a Ray cluster. For one thread, as the local engine."""

    def __init__(
        self,
        settings: InferSettings,
        compiled_dir: Path | None = None,
        inner: Callable[[InferSettings, Path | None], Engine] | None = None,
    ) -> None:
        """
        Args:
            settings: where the cluster is, and what an actor takes of it.
            compiled_dir: where actors keep compiled networks, each on its own host.
            inner: what an actor runs models with; default: `LocalEngine`.

        Raises:
            ConfigurationError: Ray is not installed, or no cluster answers.
        """
        self._ray = _connected(settings)
        self._settings = settings
        self._make = partial(inner or _local, settings, compiled_dir)
        self._actors: dict[tuple[str, str | None], Any] = {}

    def load(self, description: ModelDescription, digest: str | None = None) -> None:
        """Start an actor with the model, and wait until it is warm.

        Raises:
            BundleRefused: it may not be loaded, or is not the model that the job was queued with.
            ModelFailed: it kills every actor that loads it, or the cluster has no room for it.
        """
        self._asked(description, digest, "load", ())

    def predict(
        self,
        description: ModelDescription,
        image: Image,
        digest: str | None = None,
        also: Sequence[Image] = (),
    ) -> Prediction:
        """Run a model on an image; arguments and errors as those of the local engine, and of `load`."""
        # one copy into the object store, from which an actor on this host maps it
        given = self._ray.put([_without_headers(one) for one in (image, *also)])
        made: Prediction = self._asked(description, digest, "predict", (given,))
        return made

    def accelerate(self) -> bool:
        """Actors compile nothing: they have no quiet hour that this worker knows of."""
        return False

    def close(self) -> None:
        """Let the actors go, and leave the cluster."""
        for key in list(self._actors):
            self._forget(key)
        self._ray.shutdown()

    def _asked(
        self, description: ModelDescription, digest: str | None, what: str, given: tuple[Any, ...]
    ) -> Any:
        lost = (
            self._ray.exceptions.RayActorError,
            self._ray.exceptions.WorkerCrashedError,
            self._ray.exceptions.ObjectLostError,
            self._ray.exceptions.OutOfMemoryError,
        )
        key = (description.name, digest)
        for tries in range(1, TRIES + 1):
            actor = self._actor(key)
            try:
                answer, error = self._ray.get(
                    getattr(actor, what).remote(description, digest, *given)
                )
            except lost as reason:
                self._forget(key)
                log.warning(
                    "inference actor lost",
                    model=description.name,
                    reason=type(reason).__name__,
                    tries=tries,
                )
                continue
            if error is not None:
                raise error
            return answer
        raise ModelFailed(f"the inference actor died {TRIES} times on it")

    def _actor(self, key: tuple[str, str | None]) -> Any:
        if key not in self._actors:
            wanted = self._settings.ray
            began = time.monotonic()
            remote = self._ray.remote(_Actor).options(
                num_gpus=wanted.gpus,
                num_cpus=wanted.cpus,
                resources=dict(wanted.resources),
                max_restarts=0,
            )
            actor = remote.remote(self._make)
            ready, _ = self._ray.wait([actor.here.remote()], timeout=wanted.start_seconds)
            if not ready:
                self._ray.kill(actor)
                raise ModelFailed(
                    f"the cluster had no room for {key[0]} within {wanted.start_seconds:g} s"
                )
            self._actors[key] = actor
            seconds = round(time.monotonic() - began, 2)
            log.info("inference actor started", model=key[0], seconds=seconds)
        return self._actors[key]

    def _forget(self, key: tuple[str, str | None]) -> None:
        if (actor := self._actors.pop(key, None)) is not None:
            self._ray.kill(actor)


class _Actor:
    """What runs in the cluster: an engine of its own, asked for one model."""

    def __init__(self, make: Callable[[], Engine]) -> None:
        self._engine = make()

    def here(self) -> int:
        """Says that the actor has begun."""
        return os.getpid()

    def load(
        self, description: ModelDescription, digest: str | None
    ) -> tuple[None, NodeError | None]:
        try:
            self._engine.load(description, digest)
        except NodeError as error:
            return None, error
        return None, None

    def predict(
        self, description: ModelDescription, digest: str | None, images: Sequence[Image]
    ) -> tuple[Prediction | None, NodeError | None]:
        image, *also = images
        try:
            return self._engine.predict(description, image, digest, also), None
        except NodeError as error:
            return None, error


def _local(settings: InferSettings, compiled_dir: Path | None) -> Engine:
    return LocalEngine(settings, compiled_dir=compiled_dir)


def _without_headers(image: Image) -> Image:
    """An image as a model sees it: hundreds of data sets would be packed and unpacked for nothing."""
    return replace(image, headers=()) if isinstance(image, Volume) else image


def _knock(address: str) -> None:
    """Raise `OSError` where nobody listens at host:port; Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if host and port.isdecimal() and "/" not in address:
        socket.create_connection((host, int(port)), KNOCK_SECONDS).close()


def _connected(settings: InferSettings) -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anybody
    try:
        import ray
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            "infer.engine: ray is not installed; pip install 'dicom-node[ray]'"
        ) from error
    if not ray.is_initialized():
        try:
            _knock(settings.ray.address)
            ray.init(
                address=settings.ray.address,
                namespace=NAMESPACE,
                log_to_driver=False,
                configure_logging=False,
            )
        except (OSError, RuntimeError, ValueError) as error:
            raise ConfigurationError(
                f"infer.ray.address: no Ray cluster answers at {settings.ray.address}"
            ) from error
    return ray
