"""The decoder's UNet as the host's MODEL, and how a stage node runs it.

KSampler and everything else of the host's that takes a MODEL goes through `Kandinsky22`; the stage
nodes take the same MODEL and call its UNet through `prediction`.
"""

from pathlib import Path
from typing import Any

import comfy.latent_formats
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.patcher_extension
import comfy.supported_models_base
import torch
from comfy.patcher_extension import CallbacksMP, WrapperExecutor, WrappersMP, get_all_wrappers
from diffusers import UNet2DConditionModel

from . import checkpoints, decoder
from .residency import move_stray_tensors, pick_dtypes
from .weights import build_module


class Kandinsky22UNet(UNet2DConditionModel):
    """diffusers' UNet behind the signature that the host calls; state-dict keys stay diffusers'."""

    @property
    def variant(self) -> str:
        if self.config["addition_embed_type"] == "image_hint":
            return "depth"
        return "inpaint" if self.config["in_channels"] == 9 else "text_to_image"

    @property
    def grid(self) -> int:
        """Latents must be multiples of this: the UNet halves them once for each level but one."""
        return 2 ** (len(self.config["block_out_channels"]) - 1)

    @property
    def embeds_width(self) -> int:
        return self.config["encoder_hid_dim"]

    def forward(  # type: ignore[override]
        self,
        x: torch.Tensor,
        timesteps: torch.Tensor,
        context: torch.Tensor,
        hint: torch.Tensor | None = None,
        with_variance: bool = False,
        transformer_options: dict[str, Any] | None = None,
        **_,
    ) -> torch.Tensor:
        """(B, C, h, w) → epsilon (B, 4, h, w), or (B, 8, h, w) with the variance behind it.

        Args:
            context: image embeddings, (B, 1, D), as they ride in CONDITIONING.
            hint: (B, 3, 8h, 8w) in [0, 1], for the depth variant.
        """
        wrappers = get_all_wrappers(WrappersMP.DIFFUSION_MODEL, transformer_options or {})
        output = WrapperExecutor.new_class_executor(self._run, self, wrappers).execute(
            x, timesteps, context, hint=hint, transformer_options=transformer_options
        )
        return output if with_variance else output[:, : decoder.LATENT_CHANNELS]

    def _run(self, x, timesteps, context, hint=None, **_):
        conditions = {"image_embeds": context[:, 0]}
        if hint is not None:
            conditions["hint"] = hint
        output = super().forward(
            x, timesteps, context, added_cond_kwargs=conditions, return_dict=False
        )
        return output[0]


class MoVQLatents(comfy.latent_formats.LatentFormat):
    """Unscaled MoVQ latents: the scaling_factor in the published config is not used."""


class Kandinsky22Config(comfy.supported_models_base.BASE):
    unet_config = {"disable_unet_model_creation": True}
    unet_extra_config = {}
    latent_format = MoVQLatents
    memory_usage_factor = 1.0


class Kandinsky22(comfy.model_base.BaseModel):
    """The host's view of a decoder: its sampling schedule, and its UNet as `diffusion_model`."""

    def __init__(self, unet: Kandinsky22UNet, scheduler_config: dict[str, Any], dtypes):
        weights, compute = dtypes
        config = Kandinsky22Config(Kandinsky22Config.unet_config)
        # The host's word for diffusers' "linear" betas; its own "linear" is "scaled_linear".
        config.sampling_settings = {
            "beta_schedule": "sqrt_linear",
            "linear_start": scheduler_config["beta_start"],
            "linear_end": scheduler_config["beta_end"],
        }
        config.set_inference_dtype(weights, None if weights == compute else compute)
        super().__init__(config)
        self.diffusion_model = unet
        self.scheduler_config = scheduler_config


def load_model(folder: Path, weight_dtype: str = "default", disable_dynamic: bool = False):
    """The MODEL of a decoder folder: a ModelPatcher that owns a `Kandinsky22`."""
    weights, compute = dtypes = pick_dtypes(weight_dtype)
    unet = build_module(
        Kandinsky22UNet.from_config,
        folder / "unet",
        weights,
        comfy.ops.pick_operations(weights, compute),
    )
    comfy.model_management.archive_model_dtypes(unet)
    path = folder / "scheduler" / "scheduler_config.json"
    scheduler_config = checkpoints.read_json(path)
    if not {"beta_start", "beta_end"} <= set(scheduler_config):
        raise ValueError(f"{path} has no beta_start and beta_end. Download the folder again.")
    patcher_class = comfy.model_patcher.CoreModelPatcher
    if disable_dynamic:
        patcher_class = comfy.model_patcher.ModelPatcher
    patcher = patcher_class(
        Kandinsky22(unet, scheduler_config, dtypes),
        load_device=comfy.model_management.get_torch_device(),
        offload_device=comfy.model_management.unet_offload_device(),
    )
    patcher.add_callback(CallbacksMP.ON_LOAD, move_stray_tensors)
    # How the host makes the model again where it needs one without dynamic memory.
    patcher.cached_patcher_init = (load_model, (folder, weight_dtype))
    return patcher


def refuse_what_only_samplers_honour(model) -> None:
    """Raises ValueError if the MODEL carries something that only the host's samplers can do.

    A stage runs diffusers' loop: weight patches, merges and model wrappers take part in it; what
    hooks into the host's own guidance and sampling would be passed over in silence.
    """
    options = model.model_options
    inner = options.get("transformer_options", {})
    wrappers = comfy.patcher_extension.copy_nested_dicts(inner.get("wrappers", {}))
    comfy.patcher_extension.merge_nested_dicts(wrappers, model.wrappers, copy_dict1=False)
    found = [name for name in ("patches", "patches_replace") if inner.get(name)]
    found += [
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


def prediction(model, hint: torch.Tensor | None = None) -> decoder.Predict:
    """The UNet of a loaded MODEL as the decoder's loop calls it, with the MODEL's own wrappers.

    Never through `apply_model`, which rescales its input and returns another quantity.
    """
    options = comfy.patcher_extension.copy_nested_dicts(model.model_options["transformer_options"])
    comfy.patcher_extension.merge_nested_dicts(
        options.setdefault("wrappers", {}), model.wrappers, copy_dict1=False
    )
    base, device = model.model, model.load_device
    dtype = base.get_dtype_inference()

    def forward(
        x, t, c_concat=None, c_crossattn=None, control=None, transformer_options=None, **kw
    ):
        return base.diffusion_model(
            x, t, context=c_crossattn, transformer_options=transformer_options, **kw
        )

    # TorchCompileModel swaps `diffusion_model` in such a wrapper.
    wrappers = get_all_wrappers(WrappersMP.APPLY_MODEL, options)
    executor = WrapperExecutor.new_class_executor(forward, base, wrappers)

    def predict(x: torch.Tensor, t: torch.Tensor, embeds: torch.Tensor) -> torch.Tensor:
        output = executor.execute(
            x.to(dtype),
            t.to(device),
            None,
            embeds[:, None].to(dtype),
            None,
            options,
            hint=hint,
            with_variance=True,
        )
        return output.float()

    return predict
