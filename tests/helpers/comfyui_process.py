"""Run ComfyUI in its own process, with this pack or without, and report what changes.

    python tests/helpers/comfyui_process.py {ours,theirs} FOLDER [PACK ...]

It loads the packs. `ours`: it then loads this pack, and runs a graph of its nodes. `theirs`: it
imports what this pack imports, and runs diffusers' pipelines and a graph of ComfyUI's own nodes.
The last line of its output is {"imported": changes by then, "ran": changes at the end, "made": a
checksum of each file in FOLDER/output}.
"""

import asyncio
import gc
import hashlib
import json
import locale
import logging
import os
import random
import signal
import sys
import types
import warnings
from pathlib import Path

sys.path[0] = str(Path(__file__).parents[1])

from helpers.checkout import HOST, PACK  # noqa: E402

sys.path.insert(0, HOST["comfyui"])

import comfy.cli_args  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
import utils.json_util  # noqa: E402, F401

comfy.cli_args.args.cpu = True

import execution  # noqa: E402
import folder_paths  # noqa: E402
import server  # noqa: E402

import nodes  # noqa: E402

WATCHED = (
    "comfy",
    "nodes",
    "execution",
    "folder_paths",
    "server",
    "latent_preview",
    "app",
    "torch",
)
WATCHED += (
    "node_helpers",
    "numpy",
    "PIL",
    "safetensors",
    "logging",
    "warnings",
    "builtins",
    "json",
)


def namespaces():
    """Yield (name, attributes) of modules, and of the classes that are defined in them."""
    for name, module in list(sys.modules.items()):
        if isinstance(module, types.ModuleType) and name.split(".")[0] in WATCHED:
            yield name, vars(module)
            for key, value in list(vars(module).items()):
                if isinstance(value, type) and value.__module__ == name:
                    yield f"{name}.{key}", vars(value)


def identity(value):
    """Return the identity of code, or the value of a setting, without what fills up at work."""
    if isinstance(value, types.FunctionType | types.BuiltinFunctionType | type):
        return id(value)
    if isinstance(value, staticmethod | classmethod | property):
        return id(value)
    if isinstance(value, bool | int | float | str | bytes | None):
        return value
    if isinstance(value, torch.dtype | torch.device):
        return str(value)
    return type(value).__name__


def settings() -> dict:
    """Return the settings of torch, Python and the process."""
    backends = torch.backends
    return {
        "dtype": str(torch.get_default_dtype()),
        "device": str(torch.get_default_device()),
        "threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "grad": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "precision": (torch.get_float32_matmul_precision(), backends.cuda.matmul.allow_tf32),
        "cudnn": (backends.cudnn.benchmark, backends.cudnn.deterministic, backends.cudnn.enabled),
        "fused": (backends.cuda.flash_sdp_enabled(), backends.cuda.math_sdp_enabled()),
        "autocast": torch.is_autocast_enabled("cpu"),
        "hooks": [len(hooks) for key, hooks in vars(torch.nn.modules.module).items()
                  if key.startswith("_global") and isinstance(hooks, dict)],
        "torch random": hashlib.sha256(torch.get_rng_state().numpy()).hexdigest(),
        "numpy random": hashlib.sha256(np.random.get_state()[1].tobytes()).hexdigest(),
        "random": hash(random.getstate()),
        "environment": dict(os.environ),
        "folder": os.getcwd(),
        "locale": locale.setlocale(locale.LC_ALL),
        "warnings": [repr(each) for each in warnings.filters],
        "signals": [repr(signal.getsignal(each)) for each in signal.valid_signals()],
        "path": (list(sys.path), len(sys.meta_path)),
        "streams": (id(sys.stdout), id(sys.stderr), id(sys.excepthook), sys.getrecursionlimit()),
        "collector": (gc.isenabled(), gc.get_threshold()),
    }  # fmt: skip


def loggers():
    everyone = {"root": logging.getLogger(), **logging.Logger.manager.loggerDict}
    for name, logger in everyone.items():
        if isinstance(logger, logging.Logger):
            held = [id(each) for each in (*logger.handlers, *logger.filters)]
            yield name, (logger.level, logger.propagate, logger.disabled, held)


def snapshot() -> dict:
    state = {f"setting {name}": value for name, value in settings().items()}
    state |= {f"logger {name}": value for name, value in loggers()}
    for name, attributes in namespaces():
        state |= {f"{name}.{key}": identity(value) for key, value in list(attributes.items())}
    return state


def changes(before: dict) -> list[str]:
    """Return the names of what has changed, is new, or is gone."""
    after = snapshot()
    unlike = [name for name in before | after if before.get(name, "") != after.get(name, "")]
    return sorted(unlike)


def node(kind: str, **inputs) -> dict:
    return {"class_type": kind, "inputs": inputs}


def our_graph() -> dict:
    """Return stages on the bundled model, without KSampler, which seeds torch's generator."""
    mini, load = "kandinsky-2-2-mini-{}", dict(weight_dtype="default")
    steps = dict(seed=1, steps=4, cfg=4.0, sampler_name="euler")
    pair = dict(image_embeds=["prior", 0], negative_image_embeds=["prior", 1])
    graph = {
        "load": node("Kandinsky22LoadPrior", model_name=mini.format("prior"), **load),
        "decoder": node("Kandinsky22LoadDecoder", model_name=mini.format("decoder"), **load),
        "depth": node(
            "Kandinsky22LoadDecoder", model_name=mini.format("controlnet-depth"), **load
        ),
        "estimator": node("Kandinsky22LoadDepthEstimator", model_name="mini-depth-estimator"),
        "prior": node(
            "Kandinsky22Prior",
            **dict(prior=["load", 0], prompt="a red circle", negative_prompt="a blue square"),
            **dict(seed=1, steps=4, cfg=4.0, batch_size=1),
        ),
        "saved": node("Kandinsky22SaveEmbeds", image_embeds=["prior", 0], filename_prefix="a"),
        "canvas": node("EmptyLatentImage", width=64, height=64, batch_size=1),
        "grey": node("EmptyImage", width=64, height=64, batch_size=1, color=0x808080),
        "latent": node("VAEEncode", pixels=["grey", 0], vae=["decoder", 1]),
        "hint": node("Kandinsky22DepthHint", depth_estimator=["estimator", 0], image=["grey", 0]),
        "one": node("Kandinsky22Decoder", model=["decoder", 0], latent=["canvas", 0], **pair,
                    **steps, scheduler="checkpoint"),
        "two": node("Kandinsky22ControlNetImg2Img", model=["depth", 0], latent=["latent", 0],
                    hint=["hint", 0], denoise=0.5, **pair, **steps, scheduler="checkpoint"),
    }  # fmt: skip
    for name in ("one", "two"):
        pixels = node("VAEDecode", samples=[name, 0], vae=["decoder", 1])
        image = node("SaveImage", images=[f"{name} pixels", 0], filename_prefix=name)
        graph |= {f"{name} pixels": pixels, f"{name} saved": image}
    return graph


def their_graph() -> dict:
    return {
        "grey": node("EmptyImage", width=64, height=64, batch_size=1, color=0x808080),
        "saved": node("SaveImage", images=["grey", 0], filename_prefix="grey"),
        "shown": node("PreviewImage", images=["grey", 0]),
    }


def import_theirs() -> None:
    """Import what this pack imports from other libraries, in its order."""
    import accelerate  # noqa: F401
    import comfy_api.latest  # noqa: F401
    from diffusers import PriorTransformer, UnCLIPScheduler, UNet2DConditionModel, VQModel  # noqa: F401
    from diffusers.models.attention_processor import AttnAddedKVProcessor  # noqa: F401
    from transformers import (  # noqa: F401
        AutoImageProcessor,
        AutoModelForDepthEstimation,
        CLIPImageProcessor,
        CLIPTextModelWithProjection,
        CLIPTokenizer,
        CLIPVisionModelWithProjection,
    )


def run_theirs() -> None:
    """Run the same models in the libraries' own pipelines."""
    import diffusers
    import transformers

    models = PACK / "models"
    name = models / "kandinsky-2-2-mini-prior"
    prior = diffusers.KandinskyV22PriorPipeline.from_pretrained(name, torch_dtype=torch.float32)
    generator = torch.Generator().manual_seed(0)
    embeds = prior("a red circle", num_inference_steps=2, generator=generator).to_tuple()
    name = models / "kandinsky-2-2-mini-decoder"
    decoder = diffusers.KandinskyV22Pipeline.from_pretrained(name, torch_dtype=torch.float32)
    sides = dict(height=64, width=64, num_inference_steps=2, generator=generator)
    (picture,) = decoder(*embeds, **sides).images
    name = str(models / "mini-depth-estimator")
    transformers.pipeline("depth-estimation", model=name, device="cpu")(picture)


def execute(graph: dict) -> None:
    valid = asyncio.run(execution.validate_prompt("it", graph, None))
    assert valid[0], valid
    settings = {"lru": 0, "ram": 0, "ram_inactive": 0}
    executor = execution.PromptExecutor(server.PromptServer.instance, False, settings)
    executor.execute(graph, "it", {}, valid[2])
    assert executor.success, executor.status_messages


def main(kind: str, folder: str, *packs: str) -> None:
    for name in ("output", "temp", "user"):
        getattr(folder_paths, f"set_{name}_directory")(f"{folder}/{name}")
    server.PromptServer(asyncio.new_event_loop())
    before = snapshot()
    for pack in packs:
        assert asyncio.run(nodes.load_custom_node(pack))
    if kind == "ours":
        assert asyncio.run(nodes.load_custom_node(str(PACK)))
    else:
        import_theirs()
    imported = changes(before)
    with torch.inference_mode():
        if kind == "theirs":
            run_theirs()
    execute(our_graph() if kind == "ours" else their_graph())
    ran = changes(before)
    files = sorted(path for path in Path(folder, "output").rglob("*") if path.is_file())
    made = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    report = {"imported": imported, "ran": ran, "made": made}
    sys.__stdout__.write(json.dumps(report) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
