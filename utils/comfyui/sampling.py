"""The noise levels of a checkpoint, for ComfyUI's samplers."""

from typing import Any

import comfy.model_base

from ..files.decoder_configs import DecoderConfigs

# The values of a scheduler's config → ComfyUI's names. ComfyUI's "linear" is "scaled_linear".
MODEL_TYPES = {
    "epsilon": comfy.model_base.ModelType.EPS,
    "v_prediction": comfy.model_base.ModelType.V_PREDICTION,
}
BETA_SCHEDULES = {"linear": "sqrt_linear", "scaled_linear": "linear"}


def sampling_of(configs: DecoderConfigs) -> tuple[Any, dict[str, Any]]:
    """Return ComfyUI's (model type, sampling settings) for a checkpoint's scheduler config.

    Raises:
        ValueError: ComfyUI's samplers do not have these noise levels or this prediction type.
    """
    scheduler = configs.scheduler
    prediction = scheduler.get("prediction_type", "epsilon")
    betas = scheduler.get("beta_schedule", "linear")
    for name, value, known in (
        ("prediction_type", prediction, MODEL_TYPES),
        ("beta_schedule", betas, BETA_SCHEDULES),
        ("trained_betas", scheduler.get("trained_betas"), (None,)),
    ):
        if value not in known:
            raise ValueError(
                f"{configs.source} has {name} {value!r:.80}, which ComfyUI's samplers cannot "
                f"follow; they know {', '.join(map(str, known))}. Use another checkpoint."
            )
    return MODEL_TYPES[prediction], {
        "beta_schedule": BETA_SCHEDULES[betas],
        "linear_start": scheduler["beta_start"],
        "linear_end": scheduler["beta_end"],
        "timesteps": scheduler.get("num_train_timesteps", 1000),
        "zsnr": scheduler.get("rescale_betas_zero_snr", False),
    }
