"""Models that predict metres give hints in which near is white, as other models do."""

import numpy as np
import pytest
import torch
from helpers.tiny_models import make_depth_estimators, randomize
from kandinsky22.nodes.depth_hint import DepthHint
from kandinsky22.nodes.loaders import LoadDepthEstimator
from PIL import Image
from transformers import (
    BeitConfig,
    DepthAnythingForDepthEstimation,
    ZoeDepthConfig,
    ZoeDepthForDepthEstimation,
    ZoeDepthImageProcessor,
    pipeline,
)


def depth_anything_in_metres():
    """The weights are those of the relative model, but its config says that they predict metres."""
    relative, processor = make_depth_estimators()["tiny-depth-anything"]
    config = relative.config
    config.depth_estimation_type, config.max_depth = "metric", 20
    return randomize(DepthAnythingForDepthEstimation(config), 9), processor


def zoedepth():
    backbone = BeitConfig(
        hidden_size=24,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=32,
        patch_size=8,
        out_indices=[1, 2, 3, 4],
        reshape_hidden_states=False,
        use_relative_position_bias=True,
    )
    config = ZoeDepthConfig(
        backbone_config=backbone,
        neck_hidden_sizes=[8, 8, 16, 16],
        fusion_hidden_size=16,
        bottleneck_features=16,
        bin_embedding_dim=16,
        num_attractors=[4, 2, 2, 1],
        reassemble_factors=[4, 2, 1, 0.5],
    )
    processor = ZoeDepthImageProcessor(size={"height": 32, "width": 32}, ensure_multiple_of=32)
    return randomize(ZoeDepthForDepthEstimation(config), 10), processor


@pytest.fixture(scope="module")
def metric(models):
    for name, make in (("metric-anything", depth_anything_in_metres), ("zoedepth", zoedepth)):
        for part in make():
            part.save_pretrained(models / name)
    return models


@pytest.mark.parametrize("name", ["tiny-glpn", "metric-anything", "zoedepth"])
@pytest.mark.parametrize("size", [(64, 64), (96, 70)])
def test_near_is_white(metric, name, size):
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    image = torch.from_numpy(pixels.astype(np.float32) / 255)[None]
    ours = DepthHint.execute(LoadDepthEstimator.execute(name).args[0], image).args[0]
    reference = pipeline("depth-estimation", model=str(metric / name), device="cpu")
    metres = reference(Image.fromarray(pixels))["predicted_depth"].reshape(size)
    near = 1 / metres.clamp(min=0.01)
    near = (near - near.min()) / (near.max() - near.min())
    wanted = (near * 255).to(torch.uint8).float() / 255
    assert metres.std() > 0
    assert torch.equal(ours[0, ..., 0], wanted)
    assert ours[0, ..., 0].flatten()[metres.flatten().argmin()] == 1
    assert ours[0, ..., 0].flatten()[metres.flatten().argmax()] == 0
