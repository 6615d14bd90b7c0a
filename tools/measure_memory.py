"""Measure the peak activation memory of the published networks, without allocating any memory.

    python tools/measure_memory.py                # all of them
    python tools/measure_memory.py movq depth     # only these

The code that ComfyUI runs is traced with fake tensors (shapes without contents), and the bytes that
are alive are counted. Weights do not count, and workspaces inside kernels are not visible. `fused`
is attention that keeps its scores in registers. `math` writes them to memory, as devices without a
fused kernel do. No kernel of flash attention takes MoVQ's heads of 512 channels, but the
memory-efficient one does. The constants in utils/ are numbers in memory for each latent pixel of
each item. In the parts of the prior, they are for each channel of each token of each row. For depth
estimators, some are for each pixel of the model's input, and some for each channel of its decoder.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import sys
import weakref
from collections.abc import Callable
from pathlib import Path

if __name__ == "__main__":
    ROOT = Path(__file__).resolve().parents[1]
    sys.path[0] = str(ROOT)  # see scripts/__init__.py

    from scripts import pack

    pack.enter_host()
    import comfy.cli_args

    comfy.cli_args.args.cpu = True

import comfy.ops
import torch
from accelerate import init_empty_weights
from kandinsky22.utils.comfyui.clip import ImageEncoder, TextEncoder
from kandinsky22.utils.comfyui.movq import MoVQ
from kandinsky22.utils.comfyui.unet import Kandinsky22UNet
from kandinsky22.utils.files import architectures
from kandinsky22.utils.files.layers import swap_layers
from kandinsky22.utils.kandinsky.prior import TextFeatures
from kandinsky22.utils.kandinsky.prior_networks import OnePassPrior, PriorNetwork
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import (
    MODEL_FOR_DEPTH_ESTIMATION_MAPPING,
    DepthAnythingConfig,
    Dinov2Config,
    DPTConfig,
    GLPNConfig,
)

PRIOR = {
    "prior": PriorNetwork.build,
    "one_pass_prior": OnePassPrior.build,
    "text_encoder": TextEncoder.build,
    "image_encoder": ImageEncoder.build,
}
# ECLIPSE's config is in the paper's repository, and not in `architectures`.
ONE_PASS = architectures.PRIOR["prior"] | dict(
    num_attention_heads=16, attention_head_dim=32, num_layers=10, additional_embeddings=3
)


def dinov2(width: int, layers: int, heads: int, out: list[int]) -> Dinov2Config:
    return Dinov2Config(
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        patch_size=14,
        image_size=518,
        out_indices=out,
        reshape_hidden_states=False,
    )


def depth_anything(width: int, layers: int, heads: int, out: list[int], neck: list[int], fusion):
    return DepthAnythingConfig(
        backbone_config=dinov2(width, layers, heads, out),
        reassemble_hidden_size=width,
        neck_hidden_sizes=neck,
        fusion_hidden_size=fusion,
    )


# The published configs, and the pixels that their image processors make of 518×924.
DEPTH = {
    "dpt-large": (
        DPTConfig(
            hidden_size=1024,
            intermediate_size=4096,
            num_hidden_layers=24,
            num_attention_heads=16,
            backbone_out_indices=[5, 11, 17, 23],
            neck_hidden_sizes=[256, 512, 1024, 1024],
        ),
        (384, 384),
    ),
    "dpt-hybrid": (
        DPTConfig(
            is_hybrid=True,
            readout_type="project",
            neck_hidden_sizes=[256, 512, 768, 768],
            neck_ignore_stages=[0, 1],
            reassemble_factors=[1, 1, 1, 0.5],
        ),
        (384, 384),
    ),
    "depth-anything-small": (
        depth_anything(384, 12, 6, [3, 6, 9, 12], [48, 96, 192, 384], 64),
        (518, 924),
    ),
    "depth-anything-base": (
        depth_anything(768, 12, 12, [3, 6, 9, 12], [96, 192, 384, 768], 128),
        (518, 924),
    ),
    "depth-anything-large": (
        depth_anything(1024, 24, 16, [5, 12, 18, 24], [256, 512, 1024, 1024], 256),
        (518, 924),
    ),
    "glpn": (GLPNConfig(depths=[3, 8, 27, 3], hidden_sizes=[64, 128, 320, 512]), (512, 896)),
}
NETWORKS = ("movq", *architectures.DECODERS, *PRIOR, *DEPTH)
DTYPES = (torch.float32, torch.bfloat16)
UNET_SIZES, MOVQ_SIZES = (512, 768, 1024), (512, 1024, 2048)


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all tensors that are made in it and still alive. `peak` is the most."""

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0
        self.alive: set[int] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        given = {tensor.untyped_storage()._cdata for tensor in tensors_in((args, kwargs))}
        for tensor in tensors_in(result):
            storage = tensor.untyped_storage()
            if storage._cdata not in self.alive | given:
                self.alive.add(storage._cdata)
                self.now += storage.nbytes()
                weakref.finalize(storage, self.free, storage._cdata, storage.nbytes())
        self.peak = max(self.peak, self.now)
        return result

    def free(self, storage: int, size: int) -> None:
        self.alive.remove(storage)
        self.now -= size


def tensors_in(tree) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


def peak_bytes(run: Callable[[], object], kernel: str = "fused") -> int:
    """Return the most bytes that are alive while run() makes tensors."""
    attention = sdpa_kernel(SDPBackend.MATH) if kernel == "math" else contextlib.nullcontext()
    # In inference mode, a composed operation is one call, and its parts would not be visible.
    with torch.inference_mode(False), torch.no_grad(), attention, LiveBytes() as live:
        run()
    return live.peak


class TracedMoVQ(MoVQ):
    """MoVQ without its check for finite numbers, as fake tensors hold no numbers."""

    def _in_range(self, run: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor):
        return run(x)


def build(network: str, dtype: torch.dtype):
    """Build a published network with ComfyUI's layers. In FakeTensorMode it takes no memory."""
    torch.set_default_dtype(dtype)
    try:
        if network == "movq":
            module = TracedMoVQ.build(architectures.MOVQ)
        elif network in PRIOR:
            config = ONE_PASS if network == "one_pass_prior" else architectures.PRIOR[network]
            module = PRIOR[network](config)
        else:
            module = Kandinsky22UNet.from_config(architectures.DECODERS[network].unet)
    finally:
        torch.set_default_dtype(torch.float32)
    swap_layers(module, comfy.ops.disable_weight_init)
    return module.eval().requires_grad_(False)


def run_movq(movq, verb: str, pixels: int, batch: int, dtype: torch.dtype):
    if verb == "encode":
        return movq.encode(torch.empty(batch, 3, pixels, pixels, dtype=dtype))
    return movq.decode(torch.empty(batch, 4, pixels // 8, pixels // 8, dtype=dtype))


def run_unet(unet, pixels: int, batch: int, dtype: torch.dtype):
    inputs = unet.config.in_channels if unet.variant == "inpaint" else 4
    depth = unet.variant == "depth"
    return unet(
        torch.empty(batch, inputs, pixels // 8, pixels // 8, dtype=dtype),
        torch.empty(batch, dtype=dtype),
        torch.empty(batch, 1, unet.embeds_width, dtype=dtype),
        hint=torch.empty(batch, 3, pixels, pixels, dtype=dtype) if depth else None,
        with_variance=True,
    )


def measure(network: str, pixels: int, batch: int, dtype: torch.dtype, kernel: str, verb="decode"):
    """Return the numbers in memory at the peak, for each latent pixel of each item."""
    with torch.inference_mode(False), FakeTensorMode(), torch.device("cpu"):
        module = build(network, dtype)
        if network == "movq":
            peak = peak_bytes(lambda: run_movq(module, verb, pixels, batch, dtype), kernel)
        else:
            peak = peak_bytes(lambda: run_unet(module, pixels, batch, dtype), kernel)
    return peak / dtype.itemsize / (pixels // 8) ** 2 / batch


def run_prior(module, network: str, rows: int, dtype: torch.dtype) -> tuple[int, int]:
    """Run a part of the prior. Return (tokens, channels) of its input."""
    config = module.config
    if network == "text_encoder":
        tokens = config.max_position_embeddings
        module(torch.zeros(rows, tokens, dtype=torch.long))
        return tokens, config.hidden_size
    if network == "image_encoder":
        module(torch.empty(rows, 3, config.image_size, config.image_size, dtype=dtype))
        return (config.image_size // config.patch_size) ** 2 + 1, config.hidden_size
    states = torch.empty(rows, config.num_embeddings, config.embedding_dim, dtype=dtype)
    text = TextFeatures(states[:, 0], states, torch.ones(states.shape[:2], dtype=torch.bool))
    time = [torch.tensor(1)] if network == "prior" else []
    module(states[:, 0], *time, module.read(text))
    tokens = config.num_embeddings + config.additional_embeddings
    return tokens, config.num_attention_heads * config.attention_head_dim


def measure_prior(network: str, rows: int, dtype: torch.dtype) -> float:
    """Return the numbers in memory at the peak of a part of the prior, per channel and token."""
    sizes = []
    with torch.inference_mode(False), FakeTensorMode(), torch.device("cpu"):
        module = build(network, dtype)
        peak = peak_bytes(lambda: sizes.extend(run_prior(module, network, rows, dtype)))
    return peak / dtype.itemsize / rows / math.prod(sizes)


def fill_with_fakes(module: torch.nn.Module, dtype: torch.dtype) -> None:
    """Give a module on the meta device fake tensors, as FakeTensorMode takes no meta tensors."""
    for layer in module.modules():
        for name, tensor in list(layer.named_parameters(recurse=False)):
            fake = torch.nn.Parameter(torch.empty(tensor.shape, dtype=dtype), requires_grad=False)
            setattr(layer, name, fake)
        for name, tensor in list(layer.named_buffers(recurse=False)):
            kind = dtype if tensor.is_floating_point() else tensor.dtype
            layer._buffers[name] = torch.empty(tensor.shape, dtype=kind)


def measure_depth(name: str, rows: int, dtype: torch.dtype, kernel: str) -> tuple[int, int]:
    """Return (bytes at the peak, bytes of weights) of a depth estimator on `rows` pictures."""
    config, pixels = DEPTH[name]
    with torch.inference_mode(False), init_empty_weights():
        module = MODEL_FOR_DEPTH_ESTIMATION_MAPPING[type(config)](config)
    swap_layers(module.eval(), comfy.ops.disable_weight_init)
    with torch.inference_mode(False), FakeTensorMode(), torch.device("cpu"):
        fill_with_fakes(module, dtype)
        peak = peak_bytes(lambda: module(torch.empty(rows, 3, *pixels, dtype=dtype)), kernel)
    return peak, sum(weight.numel() for weight in module.parameters()) * dtype.itemsize


def print_depth(names: list[str]) -> None:
    print("\ndepth estimator        pixels    dtype    attention        MiB  per pixel")
    for name in names:
        height, width = DEPTH[name][1]
        for dtype in DTYPES:
            for kernel in ("fused", "math"):
                peak, _ = measure_depth(name, 1, dtype, kernel)
                each = peak / dtype.itemsize / (height * width)
                kind = str(dtype).removeprefix("torch.")
                size = f"{height}×{width}"
                print(
                    f"{name:22} {size:9} {kind:8} {kernel:9} {peak / 2**20:10,.0f} {each:10.1f}",
                    flush=True,
                )


def print_prior(networks: list[str]) -> None:
    print("\nnetwork                rows  dtype     per channel and token")
    for network in networks:
        for rows in (1, 8):
            for dtype in DTYPES:
                name, found = str(dtype).removeprefix("torch."), measure_prior(network, rows, dtype)
                print(f"{network:20} {rows:6}  {name:8} {found:22.2f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "networks", nargs="*", metavar="NETWORK", help="default: all of " + ", ".join(NETWORKS)
    )
    networks = parser.parse_args().networks or NETWORKS
    if unknown := set(networks) - set(NETWORKS):
        parser.error(f"{', '.join(unknown)}: choose from {', '.join(NETWORKS)}")
    if pictures := [name for name in networks if name not in (*PRIOR, *DEPTH)]:
        print_pictures(pictures)
    if prior := [network for network in networks if network in PRIOR]:
        print_prior(prior)
    if depth := [network for network in networks if network in DEPTH]:
        print_depth(depth)


def print_pictures(networks: list[str]) -> None:
    print("network              pixels batch  dtype    attention        MiB  per latent pixel")
    for network in networks:
        sizes, batches = (MOVQ_SIZES, (1,)) if network == "movq" else (UNET_SIZES, (1, 2, 4))
        for verb in ("decode", "encode") if network == "movq" else ("",):
            for pixels in sizes:
                for batch in batches:
                    for dtype in DTYPES:
                        for kernel in ("fused", "math"):
                            each = measure(network, pixels, batch, dtype, kernel, verb)
                            size = each * batch * (pixels // 8) ** 2 * dtype.itemsize
                            print(
                                f"{network + ' ' + verb:20} {pixels:6} {batch:5}  "
                                f"{str(dtype).removeprefix('torch.'):8} {kernel:9} "
                                f"{size / 2**20:10,.0f} {each:17,.0f}",
                                flush=True,
                            )


if __name__ == "__main__":
    main()
