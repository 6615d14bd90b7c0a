"""One training loop for every stage: seeded, resumable, with an average of the weights."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
from tqdm import tqdm

log = logging.getLogger("miniature")

LossFn = Callable[[int, torch.Generator], tuple[torch.Tensor, dict[str, torch.Tensor | float]]]


def seeded(seed: int) -> torch.Generator:
    """Return a generator on torch's default device."""
    return torch.Generator(torch.get_default_device()).manual_seed(seed)


def load_stored(path: Path, hint: str):
    """Load a file of `save_atomic` to torch's default device."""
    if not path.exists():
        raise FileNotFoundError(f"{path}: not there yet. Run --stage {hint} first.")
    return torch.load(path, weights_only=True, map_location=torch.get_default_device())


def save_atomic(value: object, path: Path) -> None:
    """Write beside the target, then rename, so that an interrupt never leaves half of a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(path.suffix + ".part")
    torch.save(value, partial)
    partial.replace(path)


def learning_rate(step: int, steps: int, peak: float, warmup: int = 100) -> float:
    """Return the rate of a linear warm-up, and then a cosine down to 2 % of the peak."""
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, steps - warmup))
    return peak * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))


def train(
    name: str,
    module: torch.nn.Module,
    loss_fn: LossFn,
    steps: int,
    rate: float,
    work: Path,
    seed: int,
    decay: float = 0.999,
    weight_decay: float = 0.01,
    clip: float = 1.0,
    save_every: int = 200,
    after_save: Callable[[torch.nn.Module, int], None] | None = None,
) -> torch.nn.Module:
    """Train `module` to `steps`, from `work/checkpoints/<name>.pt` if it is there.

    Only parameters with requires_grad are trained. `loss_fn(step, generator)` gives the loss and
    values to log. Its generator depends only on the seed and the step, so a resumed run equals an
    uninterrupted one. Returns `module` with the averaged weights.
    """
    path = work / "checkpoints" / f"{name}.pt"
    wanted = [p for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(wanted, lr=rate, betas=(0.9, 0.98), weight_decay=weight_decay)
    average = {k: v.detach().clone() for k, v in module.state_dict().items()}
    step = 0
    if path.exists():
        state = load_stored(path, name)
        module.load_state_dict(state["module"])
        average = state["average"]
        optimizer.load_state_dict(state["optimizer"])
        step = state["step"]
        log.info("%s: resumed at step %d of %d", name, step, steps)
    seen: dict[str, float] = {}
    began, first = time.time(), step
    bar = tqdm(total=steps, initial=step, desc=name, mininterval=20, dynamic_ncols=True)
    while step < steps:
        generator = seeded(seed * 1_000_003 + step)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps, rate)
        loss, shown = loss_fn(step, generator)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(wanted, clip)
        optimizer.step()
        step += 1
        bar.update()
        keep = min(decay, (1 + step) / (10 + step))
        with torch.no_grad():
            for key, value in module.state_dict().items():
                if value.is_floating_point():
                    average[key].lerp_(value, 1 - keep)
                else:
                    average[key].copy_(value)
        for key, value in {"loss": loss.detach(), **shown}.items():
            seen[key] = 0.98 * seen.get(key, float(value)) + 0.02 * float(value)
        if step % 100 == 0:
            speed = (step - first) / (time.time() - began)
            text = " ".join(f"{k} {v:.4f}" for k, v in seen.items())
            log.info("%s %d/%d: %s (%.2f steps/s)", name, step, steps, text, speed)
        if step % save_every == 0 or step == steps:
            state = {"module": module.state_dict(), "average": average, "step": step}
            save_atomic({**state, "optimizer": optimizer.state_dict()}, path)
            if after_save:
                after_save(module, step)
    bar.close()
    module.load_state_dict(average)
    return module.eval()


def load_average(name: str, module: torch.nn.Module, work: Path) -> torch.nn.Module:
    """Return `module` with the averaged weights of a stage's checkpoint, frozen."""
    stored = load_stored(work / "checkpoints" / f"{name}.pt", name)
    module.load_state_dict(stored["average"])
    return module.eval().requires_grad_(False)
