"""The least time that a device needs, by its arithmetic rate, its bandwidth, and the work.

Williams, Waterman & Patterson, "Roofline: An Insightful Visual Performance Model" (2009).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from .pairs import finish


def best_seconds(run: Callable[[], Any], tries: int = 10) -> float:
    seconds = []
    for _ in range(tries):
        finish()
        start = time.perf_counter()
        run()
        finish()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def measure_device(dtype: torch.dtype) -> dict[str, float]:
    """Return FLOP and bytes per second, from a product of matrices and a copy of a tensor."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    side, numbers = (8192, 2**30) if device == "cuda" else (2048, 2**26)
    a, b = torch.randn(2, side, side, device=device).to(dtype)
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")  # TF32 on a GPU, as its convolutions use it anyway
    source = torch.ones(numbers, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    rates = {
        "flops": 2 * side**3 / best_seconds(lambda: a @ b),
        "bytes": 2 * numbers / best_seconds(lambda: target.copy_(source)),
    }
    torch.set_float32_matmul_precision(precision)
    return rates


def count_work(build: Callable[[], Any], forward: Callable[[Any], Any], dtype: torch.dtype) -> dict:
    """Return the FLOP of one forward, and the bytes of the weights it reads.

    Nothing is computed.
    """
    # Outside inference mode and with attention in its parts, every product is visible.
    with torch.inference_mode(False), torch.no_grad(), FakeTensorMode():
        module = build()
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            forward(module)
    weights = sum(parameter.numel() for parameter in module.parameters())
    return {"flops": counter.get_total_flops(), "bytes": weights * dtype.itemsize}


def unet_work(config: dict[str, Any], pixels: int, batch: int, dtype: torch.dtype) -> dict:
    """Return the work of one call of a UNet with `batch` items, guidance included."""
    from diffusers import UNet2DConditionModel

    side = pixels // 8
    x = (batch, config["in_channels"] if config["in_channels"] != 8 else 4, side, side)

    def forward(unet):
        conditions = {"image_embeds": torch.empty(batch, config["encoder_hid_dim"])}
        if config["addition_embed_type"] == "image_hint":
            conditions["hint"] = torch.empty(batch, 3, pixels, pixels)
        return unet(torch.empty(x), torch.tensor(1), None, added_cond_kwargs=conditions)

    return count_work(lambda: UNet2DConditionModel.from_config(config), forward, dtype)


def prior_work(config: dict[str, Any], batch: int, dtype: torch.dtype) -> dict:
    """Return the work of one call of a prior's transformer with `batch` items and guidance."""
    from diffusers import PriorTransformer

    width, tokens = config["embedding_dim"], config["num_embeddings"]

    def forward(transformer):
        mask = torch.ones(batch, tokens, dtype=torch.bool)
        embeds, states = torch.empty(batch, width), torch.empty(batch, tokens, width)
        return transformer(embeds, torch.tensor(1), embeds, states, mask)

    return count_work(lambda: PriorTransformer.from_config(config), forward, dtype)


def least_seconds(work: dict[str, float], device: dict[str, float]) -> float:
    """Return the longer of two times: the arithmetic, and reading every weight once."""
    return max(work[what] / device[what] for what in ("flops", "bytes"))
