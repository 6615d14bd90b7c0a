"""LoRA files are found in ComfyUI's folders and among the bundled ones. The bundled LoRA works."""

import re

import pytest
import torch
from helpers.checkout import PACK
from helpers.lora_reference import (
    SPELLINGS,
    load,
    make_pairs,
    write,
)
from kandinsky22.nodes.lora import LoadDecoderLora, LoadPriorLora
from kandinsky22.utils.comfyui.model_files import list_files
from safetensors import safe_open

BUNDLED = "kandinsky-2-2-mini-night.safetensors"


def test_lists_the_hosts_files_and_the_bundled(models, loras):
    (loras / "sub").mkdir(exist_ok=True)
    pairs = make_pairs("decoder")
    write(loras / "sub", "deep", pairs, SPELLINGS["peft"])
    options = LoadDecoderLora.define_schema().inputs[1].options
    assert {"sub/deep.safetensors", BUNDLED} <= set(options)
    assert options == LoadPriorLora.define_schema().inputs[1].options
    assert list_files("loras")[BUNDLED] == PACK / "models" / "loras" / BUNDLED
    LoadDecoderLora.execute(load("decoder"), "sub/deep.safetensors", 1.0)


def test_a_users_file_wins(models, loras):
    before = LoadDecoderLora.fingerprint_inputs(lora_name=BUNDLED, strength=1.0)
    name = BUNDLED.removesuffix(".safetensors")
    mine = loras / write(loras, name, make_pairs("decoder"), SPELLINGS["diffusers"])
    try:
        assert list_files("loras")[BUNDLED] == mine
        assert LoadDecoderLora.fingerprint_inputs(lora_name=BUNDLED, strength=1.0) != before
    finally:
        mine.unlink()


@pytest.mark.parametrize("name", ["nothing.safetensors", "../../etc/passwd", "/etc/passwd"])
def test_wrong_names(models, loras, name):
    message = "No file named .* among loras. Found: .*Put it into .*press R"
    assert re.search(message, LoadDecoderLora.validate_inputs(name))
    with pytest.raises(FileNotFoundError, match=message):
        LoadPriorLora.execute(load("prior"), name, 1.0)


def test_names_over_a_wire_are_known_later():
    assert LoadDecoderLora.validate_inputs(None) is True
    assert LoadPriorLora.validate_inputs(BUNDLED) is True


@pytest.mark.long
def test_the_bundled_one_makes_it_night(models, caplog):
    from helpers.node_miniature import MARGIN, SCENES, NodeMiniature
    from kandinsky22.nodes.decoder import Decoder

    from tools.miniature.lora import score_lora

    class Nights(NodeMiniature):
        def decode_at_night(self, embeds, negative, seed):
            model, vae = self.load("decoder")
            model = LoadDecoderLora.execute(model, BUNDLED, 1.0).args[0]
            self.loaded["kandinsky-2-2-mini-night"] = model, vae
            canvas = {"samples": torch.zeros(len(embeds), 4, 16, 16)}
            return self.run(Decoder, "night", embeds, negative, canvas, seed)

    scores = score_lora(Nights(), SCENES)
    assert "left out" not in caplog.text
    assert scores["lora: night without"] == 0 and scores["lora: night with"] >= 0.95 - MARGIN
    for what in ("shape", "colour", "place"):
        assert scores[f"lora: {what} stays"] >= 0.90 - MARGIN


def test_the_bundled_one_says_what_it_is():
    with safe_open(list_files("loras")[BUNDLED], framework="pt") as file:
        about = file.metadata()
        names = list(file.keys())
    assert about["base_model"] == "kandinsky-2-2-mini-decoder" and about["license"] == "apache-2.0"
    assert all(re.fullmatch(r"lora_unet_\w+\.lora_(up|down)\.weight", name) for name in names)
    assert list_files("loras")[BUNDLED].stat().st_size < 50_000
