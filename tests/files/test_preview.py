"""Previews have a picture's colours, by the map from latents that is stored with a checkpoint."""

import json
import shutil

import latent_preview
import pytest
import torch
from helpers.checkout import PACK
from kandinsky22.nodes.loaders import LoadDecoder
from kandinsky22.utils.files import previews

MINI = "kandinsky-2-2-mini-decoder"


def previewed(model, latents: torch.Tensor) -> torch.Tensor:
    """Return ComfyUI's preview (h, w, 3) in [0, 1] of latents (1, 4, h, w)."""
    previewer = latent_preview.get_previewer(model.load_device, model.model.latent_format)
    return torch.tensor(list(previewer.decode_latent_to_preview(latents).getdata())) / 255


@pytest.fixture
def previews_on(monkeypatch):
    from comfy.cli_args import LatentPreviewMethod

    monkeypatch.setattr(latent_preview.args, "preview_method", LatentPreviewMethod.Auto)


def test_a_preview_has_the_pictures_colours(previews_on):
    model, vae = LoadDecoder.execute(MINI, "default").args
    picture = torch.zeros(1, 128, 128, 3) + torch.tensor([0.85, 0.9, 0.8])
    picture[:, 32:96, 32:96] = torch.tensor([0.8, 0.1, 0.2])
    expected = torch.nn.functional.avg_pool2d(picture.movedim(-1, 1), 8).movedim(1, -1)
    shown = previewed(model, vae.encode(picture)).reshape(1, 16, 16, 3)
    assert (shown - expected).abs().mean() < 0.05


def test_a_folder_without_the_map_has_no_previews(previews_on, load_decoder):
    model = load_decoder("kandinsky-2-2-tiny-decoder")[0]
    assert latent_preview.get_previewer("cpu", model.model.latent_format) is None


def test_fitting_writes_what_is_bundled(tmp_path):
    """The bundled map is the function's result for the bundled weights."""
    shutil.copytree(PACK / "models" / MINI / "movq", tmp_path / "movq")
    bundled = json.loads((tmp_path / previews.FILE).read_text())
    (tmp_path / previews.FILE).unlink()
    assert previews.fit_preview(tmp_path) > 0.95
    fitted = json.loads((tmp_path / previews.FILE).read_text())
    for name in bundled:
        assert torch.allclose(
            torch.tensor(fitted[name]), torch.tensor(bundled[name]), rtol=0, atol=2e-3
        )


@pytest.mark.parametrize(
    "content",
    [
        "[]",
        "{",
        '{"latent_rgb_factors": [[1, 2]]}',
        '{"latent_rgb_factors": [[1, 2, 3]], "latent_rgb_factors_bias": [1, 2, 3]}',
    ],
)
def test_a_damaged_map_is_named(tmp_path, content):
    (tmp_path / "movq").mkdir()
    (tmp_path / previews.FILE).write_text(content)
    with pytest.raises(ValueError, match="latent_rgb_factors.json is not a map of 4 .*Delete it"):
        previews.read_preview(tmp_path)
