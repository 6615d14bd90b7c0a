"""How a stage runs a MODEL, and which parts of the MODEL a stage cannot honour.

`options` are always the MODEL's `model_options.wrapped_options`.
"""

from types import SimpleNamespace
from typing import Any

import comfy.model_management
import torch
from comfy.patcher_extension import WrapperExecutor, WrappersMP, get_all_wrappers

from ..kandinsky import decoder
from ..kandinsky.checks import check_numbers
from .foreign_parts import refuse_foreign_parts
from .model_options import (
    GUIDANCE,
    IN_GUIDANCE,
    IN_THE_UNET,
    SAMPLING_MODULES,
    is_override,
    node_of,
    refuse_mixed_kinds,
    unet_arguments,
)
from .unet import Conditions

FUNCTION_WRAPPER = "model_function_wrapper"
# The objects of a MODEL that TorchCompileModel and ModelComputeDtype replace.
HONOURED_OBJECTS = ("diffusion_model", "manual_cast_dtype")


def is_honoured(kind: str, wrapper: Any) -> bool:
    """Return whether a stage honours a wrapper: of the UNet, of guidance, or of a known module."""
    known = getattr(wrapper, "__module__", "").endswith(SAMPLING_MODULES)
    return known or kind in IN_THE_UNET or kind in IN_GUIDANCE


def cfg_of_steps(
    model: Any, options: dict[str, Any], cfg: float, timesteps: torch.Tensor
) -> list[float]:
    """Return the cfg at each timestep, by the CFG Override nodes on a MODEL.

    They get a guider that predicts nothing, and the cfg that they set on it is read.
    """
    guider = SimpleNamespace(cfg=cfg)
    wrappers = [*filter(is_override, get_all_wrappers(WrappersMP.PREDICT_NOISE, options))]
    overrides = WrapperExecutor.new_class_executor(lambda *_: guider.cfg, guider, wrappers)
    sigmas = model.get_model_object("model_sampling").sigma(timesteps).cpu()
    found = [overrides.execute(None, sigma) for sigma in sigmas]
    return [float(check_numbers(**{"cfg (of CFG Override)": value})[0]) for value in found]


def refuse_what_only_samplers_honour(model: Any, options: dict[str, Any]) -> None:
    """Raise ValueError if the MODEL carries something that only ComfyUI's samplers can honour.

    A stage runs diffusers' loop, with weight patches, merges, guidance and model wrappers. A hook
    into the loop of ComfyUI's samplers would be ignored silently.
    """
    refuse_foreign_parts(model.model.diffusion_model, options)
    refuse_mixed_kinds(model)
    found = {
        name: part
        for name, part in model.model_options.items()
        if name not in GUIDANCE and (name.endswith("_function") or name == FUNCTION_WRAPPER)
    }
    for kind in options["wrappers"]:
        for wrapper in get_all_wrappers(kind, options):
            if not is_honoured(kind, wrapper):
                found[f"{kind} wrapper"] = wrapper
    for name, part in model.object_patches.items():
        if name not in HONOURED_OBJECTS:
            found[f"another {name}"] = part
    named = [f"{node_of(part)} ({name})" for name, part in found.items()]
    if model.hook_patches:
        named.append("hooks")
    if named:
        raise ValueError(
            f"Only ComfyUI's own samplers can apply this change to the MODEL: {', '.join(named)}. "
            "Use KSampler instead of this node, or connect the MODEL from before the node that "
            "made the change."
        )


def kept_memory(model: Any, rows: int) -> int:
    """Return the bytes that a stage keeps for all of its steps, for `rows` of embeddings."""
    base = model.model
    size = comfy.model_management.dtype_size(base.get_dtype_inference())
    return rows * base.diffusion_model.kept_numbers * size


def reader(unet: Any, hint: torch.Tensor | None, dtype: torch.dtype) -> Any:
    """Return a function of embeddings (N, D) that has the UNet read them and the hint only once."""
    known: dict[Any, tuple[torch.Tensor, Conditions]] = {}

    def read(embeds: torch.Tensor) -> Conditions:
        # The embeddings are kept, so that no other tensor gets their address.
        key = embeds.data_ptr(), embeds.shape, embeds.stride()
        if key not in known:
            rows = None if hint is None else hint[-len(embeds) :]
            known[key] = embeds, unet.condition(embeds[:, None].to(dtype), rows)
        return known[key][1]

    return read


def prediction(
    model: Any, options: dict[str, Any], hint: torch.Tensor | None = None
) -> decoder.Predict:
    """Return the UNet of a loaded MODEL, with the MODEL's wrappers, as the decoder's loop calls it.

    It does not use `apply_model`, which rescales its input and returns another quantity.
    """
    base, device = model.model, model.load_device
    dtype = base.get_dtype_inference()

    def forward(
        x: torch.Tensor,
        t: torch.Tensor,
        c_concat: Any = None,
        c_crossattn: Any = None,
        control: Any = None,
        transformer_options: Any = None,
        **kw: Any,
    ) -> torch.Tensor:
        kw |= unet_arguments(transformer_options, base.diffusion_model)
        return base.diffusion_model(
            x, t, context=c_crossattn, transformer_options=transformer_options, **kw
        )

    # TorchCompileModel swaps `diffusion_model` in such a wrapper.
    wrappers = get_all_wrappers(WrappersMP.APPLY_MODEL, options)
    executor = WrapperExecutor.new_class_executor(forward, base, wrappers)

    conditions_of = reader(base.diffusion_model, hint, dtype)

    def predict(x: torch.Tensor, t: torch.Tensor, embeds: torch.Tensor) -> torch.Tensor:
        conditions = conditions_of(embeds)
        output = executor.execute(
            x.to(dtype),
            t.to(device, torch.float32),
            None,
            conditions.context,
            None,
            options,
            hint=conditions.hint,
            conditions=conditions,
            with_variance=True,
        )
        return output.float()

    return predict
