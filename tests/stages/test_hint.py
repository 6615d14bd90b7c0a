"""Depth hints equal those of transformers' depth-estimation pipeline."""

import re
import shutil

import numpy as np
import pytest
import torch
from kandinsky22.nodes.depth_hint import DepthHint
from kandinsky22.nodes.loaders import LoadDepthEstimator
from PIL import Image
from transformers import pipeline


@pytest.mark.parametrize("name", ["tiny-dpt", "tiny-depth-anything"])
@pytest.mark.parametrize("size", [(64, 64), (96, 70)])
def test_equals_the_pipeline(models, name, size):
    pixels = np.random.default_rng(0).integers(0, 256, (2, *size, 3), dtype=np.uint8)
    image = torch.from_numpy(pixels.astype(np.float32) / 255)
    before = image.clone()
    estimator = LoadDepthEstimator.execute(name).args[0]

    reference = pipeline("depth-estimation", model=str(models / name), device="cpu")
    for i in range(2):
        ours = DepthHint.execute(estimator, image[i : i + 1]).args[0]
        theirs = torch.from_numpy(np.array(reference(Image.fromarray(pixels[i]))["depth"])) / 255
        assert ours.shape == (1, *size, 3)
        assert all(torch.equal(ours[0, ..., c], theirs) for c in range(3))
    assert DepthHint.execute(estimator, image).args[0].shape == (2, *size, 3)
    assert torch.equal(image, before)


def test_flat_depth_gives_zeros(models):
    from kandinsky22.utils.kandinsky.depth import estimate_depth

    class Flat:
        """An image processor's two methods, with a model whose depth is the same everywhere."""

        def __call__(self, images, return_tensors):
            return type("Values", (), {"pixel_values": torch.zeros(len(images), 3, 8, 8)})

        def post_process_depth_estimation(self, outputs, target_sizes):
            return [{"predicted_depth": torch.full(size, 3.0)} for size in target_sizes]

    images = torch.rand(2, 3, 32, 32)
    maps = estimate_depth(Flat(), lambda x: x, images, torch.device("cpu"), torch.float32)
    assert torch.equal(maps, torch.zeros(2, 32, 32))


def test_only_an_estimator_sees_depth(models):
    with pytest.raises(ValueError, match="5 came where a KANDINSKY22_DEPTH_ESTIMATOR belongs"):
        DepthHint.execute(5, torch.zeros(1, 64, 64, 3))


def test_a_picture_too_small_to_see_depth_in(models):
    estimator = LoadDepthEstimator.execute("tiny-glpn").args[0]
    with pytest.raises(ValueError, match="500×1 pixels is too small.*32"):
        DepthHint.execute(estimator, torch.rand(1, 1, 500, 3))


@pytest.mark.parametrize("channels", [1, 4])
def test_grey_and_transparent_pictures(models, channels):
    estimator = LoadDepthEstimator.execute("tiny-glpn").args[0]
    assert DepthHint.execute(estimator, torch.rand(1, 64, 64, channels)).args[0].shape[-1] == 3


@pytest.mark.parametrize(
    "name, message",
    [
        ("nothing", "No model named 'nothing' for Load Depth Estimator.*tiny-glpn.*Looked in"),
        ("a-text-encoder", "a CLIPTextModelWithProjection, not a depth estimator.*tiny-glpn"),
    ],
)
def test_bad_names(models, name, message):
    other = models / "a-text-encoder"
    shutil.copytree(models / "kandinsky-2-2-tiny-prior" / "text_encoder", other)
    try:
        assert re.search(message, LoadDepthEstimator.validate_inputs(name))
    finally:
        shutil.rmtree(other)
