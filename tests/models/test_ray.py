"""The Ray engine on a real cluster of two nodes: the same prediction, and a node killed in mid-inference."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dicom_node.catalogue import ModelDescription
from dicom_node.errors import ConfigurationError, ModelFailed, NotApplicable
from dicom_node.infer.cluster import RayEngine
from dicom_node.infer.engine import Engine, LocalEngine
from dicom_node.records import Image, Prediction, Segmentation
from dicom_node.settings import InferSettings
from tests.builders.bundles import write_bundle
from tests.builders.volumes import volume

ray = pytest.importorskip("ray")
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("ray")]


class Held:
    """A model that says on which node it runs, and waits there until it is let go."""

    def __init__(self, folder: Path, settings: InferSettings, _: Path | None) -> None:
        self._folder = folder
        self._inner = LocalEngine(settings)

    def load(self, description: ModelDescription, digest: str | None = None) -> object:
        return self._inner.load(description, digest)

    def predict(
        self,
        description: ModelDescription,
        image: Image,
        digest: str | None = None,
        also: Sequence[Image] = (),
    ) -> Prediction:
        node = ray.get_runtime_context().get_node_id()
        (self._folder / node).touch()
        while (self._folder / "hold").exists():
            threading.Event().wait(0.05)
        if (self._folder / "die").exists():
            os._exit(1)
        return self._inner.predict(description, image, digest, also)

    def accelerate(self) -> bool:
        return False


class TwoNodes:
    """A head without room for actors, and nodes that have it."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": 200 << 20}
        self.cluster = Cluster(initialize_head=True, head_node_args=head)
        self.nodes = [self.add(), self.add()]

    def add(self) -> Any:
        return self.cluster.add_node(num_cpus=1, object_store_memory=200 << 20)

    def kill(self, node_id: str) -> None:
        node = next(one for one in self.nodes if one.node_id == node_id)
        self.nodes.remove(node)
        self.cluster.remove_node(node, allow_graceful=False)

    def settings(self, **values: Any) -> InferSettings:
        where = {"address": self.cluster.address, "gpus": 0, "start_seconds": 60.0, **values}
        return InferSettings(device="cpu", threads=1, engine="ray", ray=where)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def cluster() -> Iterator[TwoNodes]:
    made = TwoNodes()
    try:
        yield made
    finally:
        ray.shutdown()
        made.cluster.shutdown()


@pytest.fixture(scope="module")
def bright(tmp_path_factory: pytest.TempPathFactory) -> ModelDescription:
    return write_bundle(tmp_path_factory.mktemp("models") / "bright")


def an_image() -> Image:
    return volume(np.random.default_rng(1).normal(100, 50, (12, 24, 20)).astype(np.float32))


def held(cluster: TwoNodes, folder: Path) -> tuple[RayEngine, Engine]:
    inner = partial(Held, folder)
    return RayEngine(cluster.settings(), inner=inner), LocalEngine(InferSettings(device="cpu"))


def test_a_node_killed_in_mid_inference_is_made_good_on_another(
    cluster: TwoNodes, bright: ModelDescription, tmp_path: Path
) -> None:
    engine, local = held(cluster, tmp_path)
    engine.load(bright, bright.digest)
    (tmp_path / "hold").touch()
    made: list[Prediction] = []
    asked = threading.Thread(
        target=lambda: made.append(engine.predict(bright, an_image(), bright.digest))
    )
    asked.start()
    first = None
    while first is None:
        first = next((path for path in tmp_path.iterdir() if path.name != "hold"), None)
        assert asked.is_alive()
    cluster.kill(first.name)
    (tmp_path / "hold").unlink()
    asked.join(60)
    (prediction,) = made
    assert isinstance(prediction, Segmentation)
    expected = local.predict(bright, an_image(), bright.digest)
    assert isinstance(expected, Segmentation)
    assert np.array_equal(prediction.labels, expected.labels)
    assert prediction.notes == expected.notes
    ran_on = {path.name for path in tmp_path.iterdir()}
    assert len(ran_on) == 2
    # the model's own refusals come back as what they are
    flat = volume(np.zeros((4, 8, 8), np.float32))
    with pytest.raises(NotApplicable, match="every value of the image is the same"):
        engine.predict(bright, flat, bright.digest)
    # a model that kills whoever runs it is told of, and not tried for ever
    (tmp_path / "die").touch()
    with pytest.raises(ModelFailed, match="died 3 times"):
        engine.predict(bright, an_image(), bright.digest)
    for key in list(engine._actors):
        engine._forget(key)


def test_a_cluster_without_room_is_told_of(cluster: TwoNodes, bright: ModelDescription) -> None:
    engine = RayEngine(cluster.settings(cpus=64.0, start_seconds=0.5))
    with pytest.raises(ModelFailed, match="no room for bright"):
        engine.load(bright, bright.digest)


def test_a_cluster_that_is_not_there_is_a_matter_of_configuration() -> None:
    ray.shutdown()
    where = InferSettings(engine="ray", ray={"address": "127.0.0.1:1"})  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="no Ray cluster answers"):
        RayEngine(where)
