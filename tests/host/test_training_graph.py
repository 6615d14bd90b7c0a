"""The graph of docs/training.md: from a folder of pictures and texts to a picture with the LoRA."""

import re
import subprocess
import sys

import numpy as np
import pytest
from helpers.checkout import PACK
from PIL import Image
from safetensors import safe_open

pytestmark = pytest.mark.long
PAGE = (PACK / "docs" / "training.md").read_text("utf-8")


def write_dataset(folder) -> None:
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    for i, (size, text) in enumerate(
        [((64, 64), "a red cat"), ((96, 64), "a dog"), ((64, 64), "")]
    ):
        pixels = generator.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"picture{i}.png")
        (folder / f"picture{i}.txt").write_text(text)


def graph(known: dict) -> dict:
    def node(kind, **inputs):
        return {"class_type": kind, "inputs": inputs}

    widgets = {
        **{"batch_size": 1, "steps": 3, "grad_accumulation_steps": 1, "learning_rate": 0.01},
        **{"rank": 4, "optimizer": "AdamW", "loss_function": "MSE", "seed": 1},
        **{"training_dtype": "fp32", "lora_dtype": "fp32", "quantized_backward": False},
        **{"algorithm": "LoRA", "gradient_checkpointing": True, "checkpoint_depth": 1},
        **{"offloading": False, "existing_lora": "[None]"},
        **{"bucket_mode": False, "bypass_mode": False},
    }
    takes = known["TrainLoraNode"]["input"]["required"]
    sampling = {
        "seed": 1,
        "steps": 3,
        "cfg": 4.0,
        "sampler_name": "ddpm",
        "scheduler": "checkpoint",
    }
    kind = {"model_name": "kandinsky-2-2-tiny-decoder", "weight_dtype": "default"}
    prior = {"prior": ["prior", 0], "negative_prompt": "", "seed": 1, "steps": 2, "cfg": 4.0}
    return {
        "data": node("LoadImageTextDataSetFromFolder", folder="thing"),
        "prior": node("Kandinsky22LoadPrior", **kind | {"model_name": "kandinsky-2-2-tiny-prior"}),
        "decoder": node("Kandinsky22LoadDecoder", **kind),
        "scale": node(
            *["ImageScaleToMaxDimension"],
            image=["data", 0], upscale_method="area", largest_size=64,
        ),
        "latents": node("VAEEncode", pixels=["scale", 0], vae=["decoder", 1]),
        "texts": node("Kandinsky22Prior", **prior, prompt=["data", 1], batch_size=1),
        "positive": node("Kandinsky22Conditioning", image_embeds=["texts", 0]),
        "train": node(
            *["TrainLoraNode"],
            model=["decoder", 0], latents=["latents", 0], positive=["positive", 0],
            **{name: value for name, value in widgets.items() if name in takes},
        ),
        "save": node("SaveLoRA", lora=["train", 0], prefix="loras/thing", steps=["train", 2]),
        "plot": node("LossGraphNode", loss=["train", 1], filename_prefix="loss"),
        "apply": node(
            *["LoraModelLoader"],
            model=["decoder", 0], lora=["train", 0], strength_model=1.0, bypass=False,
        ),
        "prompt": node("Kandinsky22Prior", **prior, prompt="a red cat", batch_size=1),
        "canvas": node("EmptyLatentImage", width=64, height=64, batch_size=1),
        "draw": node(
            *["Kandinsky22Decoder"],
            model=["apply", 0], image_embeds=["prompt", 0], negative_image_embeds=["prompt", 1],
            latent=["canvas", 0], **sampling,
        ),
        "pixels": node("VAEDecode", samples=["draw", 0], vae=["decoder", 1]),
        "picture": node("SaveImage", images=["pixels", 0], filename_prefix="trained"),
    }  # fmt: skip


def test_a_folder_becomes_a_lora(server, object_info):
    write_dataset(server.base / "input" / "thing")
    result = server.run(graph(object_info))
    assert {i["filename"].split("_")[0] for i in result.images} >= {"trained"}
    (file,) = (server.output / "loras").glob("thing_3_steps_*.safetensors")
    with safe_open(file, "pt") as lora:
        names = set(lora.keys())
    assert any(name.startswith("diffusion_model.") for name in names) and len(names) > 100


def test_the_script_of_the_page_trains_on_a_folder(server):
    """It runs word for word, with the server's address and fewer steps."""
    write_dataset(server.base / "input" / "my style")
    (script,) = re.findall(r"^```python\n(.+?)^```$", PAGE, re.M | re.S)
    assert '"steps": 1000' in script and "http://127.0.0.1:8188" in script
    script = script.replace('"steps": 1000', '"steps": 2').replace(
        "http://127.0.0.1:8188", server.url
    )
    subprocess.run([sys.executable, "-c", script], cwd=PACK, check=True, timeout=600)
    assert list((server.output / "loras").glob("my_style_2_steps_*.safetensors"))


def test_a_folder_as_one_batch_is_refused_in_words(server, object_info):
    """The error is the one in docs/training.md, and the next run works."""
    wrong = graph(object_info)
    wrong["batch"] = {
        "class_type": "ImageBatch",
        "inputs": {"image1": ["one", 0], "image2": ["one", 0]},
    }
    wrong["one"] = {
        "class_type": "EmptyImage",
        "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 255},
    }
    wrong["scale"]["inputs"]["image"] = ["batch", 0]
    wrong["embeds"] = {
        "class_type": "Kandinsky22EncodeImage",
        "inputs": {"prior": ["prior", 0], "image": ["scale", 0]},
    }
    wrong["positive"]["inputs"]["image_embeds"] = ["embeds", 0]
    (said,) = re.findall(r'"(Put Rebatch Images[^"]+)"', PAGE)
    with pytest.raises(Exception, match=said.removesuffix(".")):
        server.run(wrong)
    assert server.run(graph(object_info)).images
