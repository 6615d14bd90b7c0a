"""Check that ComfyUI can make a change of a weight from its parts in a LoRA file."""

from pathlib import Path

import torch

from .headers import DTYPES

Parts = dict[str, torch.Tensor]  # by their endings
# Parts that are useless without each other.
WHOLES = (
    ("lora_A.weight", "lora_B.weight"),
    ("lora_down.weight", "lora_up.weight"),
    ("lora.down.weight", "lora.up.weight"),
    ("lora_linear_layer.down.weight", "lora_linear_layer.up.weight"),
    ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"),
    ("hada_t1", "hada_t2"),
    ("lokr_w1_a", "lokr_w1_b"),
    ("lokr_w2_a", "lokr_w2_b"),
    ("a1.weight", "a2.weight", "b1.weight", "b2.weight"),
)
# Groups of parts. The first has as many rows and columns as the others have rows.
TUCKER = (
    ("hada_t1", "hada_w1_a", "hada_w1_b"),
    ("hada_t2", "hada_w2_a", "hada_w2_b"),
    ("lokr_t2", "lokr_w2_a", "lokr_w2_b"),
)
# A part → the parts of which it needs one.
WITH = {
    "lora_magnitude_vector": ("lora_A.weight", "lora_down.weight", "lora.down.weight"),
    "hada_t1": ("hada_w1_a",),
    "lora_B.bias": ("lora_B.weight",),
    "lokr_w1": ("lokr_w2", "lokr_w2_a"),
    "lokr_w1_a": ("lokr_w2", "lokr_w2_a"),
    "lokr_t2": ("lokr_w2_a",),
    "lokr_w2": ("lokr_w1", "lokr_w1_a"),
    "lokr_w2_a": ("lokr_w1", "lokr_w1_a"),
}
# Parts that show that a weight is changed.
UPS = ("lora_B.weight", "lora_up.weight", "lora.up.weight", "lora_linear_layer.up.weight")
OTHERS = ("hada_w1_a", "lokr_w1", "lokr_w1_a", "a1.weight", "oft_blocks", "diff", "w_norm")
CHANGES = (*UPS, *OTHERS, "set_weight")


def check_tensor(path: Path, key: str, ending: str, tensor: torch.Tensor) -> None:
    """Raise ValueError for a tensor that no LoRA has: empty, of a wrong type, with NaN."""
    what, shape = "", list(tensor.shape)
    if ending == "alpha":
        if tensor.numel() != 1 or tensor.dtype == torch.bool or tensor.is_complex():
            what = f"a tensor of {tensor.dtype} and of shape {shape}, not one number"
        elif not abs(tensor.float().item()) < 1e38:
            what = f"{tensor.item()}, not a finite number"
    elif ending == "reshape_weight":
        what = "a new shape for a weight, which nothing here can have"
    elif tensor.dtype not in DTYPES.values():
        what = f"a tensor of {tensor.dtype}, not of floating-point numbers that are known here"
    elif not tensor.numel():
        what = f"empty: its shape is {shape}"
    elif not tensor.ndim:
        what = "a single number, which is no part of a weight"
    elif not tensor.float().isfinite().all():
        what = "not finite: it has NaN or infinity in it"
    if what:
        raise ValueError(f"{path.name} is damaged: {key} is {what}. Use another file.")


def check_whole(path: Path, written: str, parts: Parts) -> None:
    """Raise ValueError if a part is there without another part that it needs."""
    missing = [
        next(part for part in whole if part not in parts)
        for whole in WHOLES
        if 0 < sum(part in parts for part in whole) < len(whole)
    ]
    for part, others in WITH.items():
        if part in parts and not any(other in parts for other in others):
            missing.append(others[0])
    if missing:
        name = f"{written}.{missing[0]}"
        raise ValueError(f"{path} lacks {name!r}: it is damaged. Download it again.")
    if len(several := [part for part in CHANGES if part in parts]) > 1:
        raise ValueError(
            f"{path.name} has several changes for {written} ({' and '.join(several)}), and ComfyUI "
            "takes one. Save each in a file of its own."
        )
    if "lora_E" in parts:
        raise ValueError(f"{path.name} is AdaLoRA ({written}.lora_E), which ComfyUI cannot apply.")


def fits_together(parts: Parts, shape: list[int]) -> bool:
    """Return whether the parts that ComfyUI does not check fit a weight's shape, too.

    ComfyUI folds any product of as many numbers into the shape, and stretches what is too short.
    """
    for core, a, b in TUCKER:
        if core in parts and list(parts[core].shape[:2]) != [len(parts[a]), len(parts[b])]:
            return False
    if "lokr_t2" in parts:
        first = parts["lokr_w1" if "lokr_w1" in parts else "lokr_w1_b"]
        core, a, b = (parts[name] for name in TUCKER[2])
        sides = [first.shape[-1] * b.shape[-1], *core.shape[2:]]
        if (first.ndim, core.ndim, a.ndim, b.ndim) != (2, 4, 2, 2) or sides != shape[1:]:
            return False
    flat = [1] * (len(shape) - 2)
    lengths = [shape[:1] + [1] + flat, [1] + shape[1:2] + flat]  # of outputs, or of inputs
    if "dora_scale" in parts and list(parts["dora_scale"].shape) not in lengths:
        return False
    return all(rows == shape[0] for rows in heights(parts))


def heights(parts: Parts) -> list[int]:
    """Return how many rows each product in a change has."""
    found = [len(parts[up]) for up in UPS if up in parts]
    for core, a, _ in TUCKER[:2]:
        if a in parts:
            found.append(parts[a].shape[-1] if core in parts else len(parts[a]))
    first = [parts[name] for name in ("lokr_w1", "lokr_w1_a") if name in parts]
    if first and "lokr_w2" in parts:
        found.append(len(first[0]) * len(parts["lokr_w2"]))
    elif first:
        side = -1 if "lokr_t2" in parts else 0
        found.append(len(first[0]) * parts["lokr_w2_a"].shape[side])
    return found


def unfold_core(parts: Parts) -> None:
    """Replace the second factor of a LoKr, which has a Tucker core, by its product.

    ComfyUI's own product has a memory layout that its next multiplication cannot use.
    """
    core, a, b = (parts[name].float() for name in TUCKER[2])
    w2 = torch.einsum("i j k l, j r, i p -> p r k l", core, b, a).contiguous()
    if "alpha" in parts and "lokr_w1" in parts:  # ComfyUI ignores alpha for two whole factors
        w2 *= parts["alpha"] / len(b)
    parts["lokr_w2"] = w2
