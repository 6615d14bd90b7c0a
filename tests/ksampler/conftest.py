"""Fixtures for the tests of ComfyUI's own nodes."""

import pytest
from diffusers import VQModel
from helpers.tiny_models import TEXT_TO_IMAGE


@pytest.fixture
def theirs(models) -> VQModel:
    """The tiny decoder's MoVQ as diffusers loads it."""
    return VQModel.from_pretrained(models / TEXT_TO_IMAGE / "movq")
