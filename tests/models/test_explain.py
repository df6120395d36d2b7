"""Explanations: a network whose answer hangs on one part of the image must be explained by that part."""

import pytest
import torch
from torch import Tensor, nn

from ai_models.explain import grad_cam, occlusion


class _OneQuadrant(nn.Module):
    """Brightness of the upper left quadrant, and of nothing else; the other class wants it dark."""

    def __init__(self, dimensions: int) -> None:
        super().__init__()
        self.features = (nn.Conv2d if dimensions == 2 else nn.Conv3d)(1, 4, 3, padding=1)
        nn.init.constant_(self.features.weight, 0.1)
        nn.init.zeros_(self.features.bias)

    def forward(self, image: Tensor) -> Tensor:
        seen = torch.relu_(self.features(image))
        quadrant = seen[..., : seen.shape[-2] // 2, : seen.shape[-1] // 2]
        bright = quadrant.flatten(1).mean(1)
        return torch.stack([bright, -bright], 1)


def _shares(heat: Tensor) -> float:
    """How much of the heat lies in the quadrant."""
    h, w = heat.shape[-2:]
    return float(heat[..., : h // 2, : w // 2].sum() / heat.sum())


@pytest.mark.parametrize("spatial", [(32, 48), (8, 32, 48)])
def test_occlusion_lights_up_where_the_answer_comes_from(spatial: tuple[int, ...]) -> None:
    network = _OneQuadrant(len(spatial))
    image = torch.rand(1, 1, *spatial, generator=torch.Generator().manual_seed(0))
    heat = occlusion(network, image, [4] * len(spatial), fill=0.0)
    assert heat.shape == spatial
    assert (float(heat.min()), float(heat.max())) == (0.0, 1.0)
    assert _shares(heat) > 0.9


@pytest.mark.parametrize("spatial", [(32, 48), (8, 32, 48)])
def test_grad_cam_lights_up_where_the_evidence_is(spatial: tuple[int, ...]) -> None:
    network = _OneQuadrant(len(spatial)).train()
    image = torch.zeros(1, 1, *spatial)
    image[..., 4:12, 4:12] = 1.0
    heat = grad_cam(network, image, "features")
    assert heat.shape == spatial
    assert (float(heat.min()), float(heat.max())) == (0.0, 1.0)
    assert _shares(heat) > 0.95
    assert network.training, "explaining changed the network's mode"


def test_nothing_spoke_for_a_class_gives_a_map_of_zeros() -> None:
    network, image = _OneQuadrant(2), torch.rand(1, 1, 32, 32)
    assert float(grad_cam(network, image, "features", index=1).abs().max()) == 0.0
    assert float(grad_cam(network, torch.zeros(1, 1, 32, 32), "features").max()) == 0.0


def test_grad_cam_works_where_gradients_are_switched_off() -> None:
    network, image = _OneQuadrant(2).requires_grad_(False), torch.rand(1, 1, 16, 16)
    with torch.no_grad():
        assert float(grad_cam(network, image, "features").max()) == 1.0


def test_an_unknown_layer_is_named_in_the_error() -> None:
    with pytest.raises(ValueError, match="no layer 'head'"):
        grad_cam(_OneQuadrant(2), torch.rand(1, 1, 16, 16), "head")
