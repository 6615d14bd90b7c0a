"""How a stage runs a MODEL: what on it takes part in diffusers' loop, and what cannot."""

from typing import Any

import comfy.model_management
import comfy.patcher_extension
import torch
from comfy.patcher_extension import WrapperExecutor, WrappersMP, get_all_wrappers

from . import decoder
from .native_unet import choices, refuse_foreign_parts


def refuse_what_only_samplers_honour(model: Any) -> None:
    """Raises ValueError if the MODEL carries something that only the host's samplers can do.

    A stage runs diffusers' loop: weight patches, merges and model wrappers take part in it; what
    hooks into the host's own guidance and sampling would be passed over in silence.
    """
    options = model.model_options
    inner = options.get("transformer_options", {})
    wrappers = comfy.patcher_extension.copy_nested_dicts(inner.get("wrappers", {}))
    comfy.patcher_extension.merge_nested_dicts(wrappers, model.wrappers, copy_dict1=False)
    refuse_foreign_parts(inner)
    found = [
        name for name in options if name.endswith("_function") or name == "model_function_wrapper"
    ]
    honoured = (WrappersMP.APPLY_MODEL, WrappersMP.DIFFUSION_MODEL)
    found += [
        f"{kind} wrapper"
        for kind, groups in wrappers.items()
        if kind not in honoured and any(groups.values())
    ]
    found += [f"another {name}" for name in model.object_patches if name != "diffusion_model"]
    if model.hook_patches:
        found.append("hooks")
    if found:
        raise ValueError(
            f"This MODEL carries what a Kandinsky 2.2 stage cannot honour: {', '.join(found)}. "
            "Use KSampler for this, or connect the MODEL from before the node that added it."
        )


def prediction(model: Any, hint: torch.Tensor | None = None) -> decoder.Predict:
    """The UNet of a loaded MODEL as the decoder's loop calls it, with the MODEL's own wrappers.

    Never through `apply_model`, which rescales its input and returns another quantity.
    """
    options = comfy.patcher_extension.copy_nested_dicts(model.model_options["transformer_options"])
    comfy.patcher_extension.merge_nested_dicts(
        options.setdefault("wrappers", {}), model.wrappers, copy_dict1=False
    )
    base, device = model.model, model.load_device
    dtype = base.get_dtype_inference()
    at_once = comfy.model_management.device_supports_non_blocking(device)  # not Apple's

    def forward(
        x: torch.Tensor,
        t: torch.Tensor,
        c_concat: Any = None,
        c_crossattn: Any = None,
        control: Any = None,
        transformer_options: Any = None,
        **kw: Any,
    ) -> torch.Tensor:
        kw |= choices(transformer_options)
        return base.diffusion_model(
            x, t, context=c_crossattn, transformer_options=transformer_options, **kw
        )

    # TorchCompileModel swaps `diffusion_model` in such a wrapper.
    wrappers = get_all_wrappers(WrappersMP.APPLY_MODEL, options)
    executor = WrapperExecutor.new_class_executor(forward, base, wrappers)

    def predict(x: torch.Tensor, t: torch.Tensor, embeds: torch.Tensor) -> torch.Tensor:
        output = executor.execute(
            x.to(dtype),
            t.to(device, torch.float32, non_blocking=at_once),
            None,
            embeds[:, None].to(dtype),
            None,
            options,
            hint=hint,
            with_variance=True,
        )
        return output.float()

    return predict
