"""How a MODEL's UNet is to run in every sampler and stage: its attention and its memory format."""

import uuid
from typing import Any

from ..kandinsky.checks import check_choice, check_switch
from .attention import ATTENTIONS
from .model import kandinsky_of
from .model_options import ATTENTION, CHANNELS_LAST


def optimize(model: Any, attention: str, channels_last: bool) -> Any:
    """A clone of the MODEL that runs in this way; the weights are shared.

    Raises:
        ValueError: there is no such attention, or the MODEL is another model's.
    """
    kandinsky_of(model)
    check_choice("attention", attention, ATTENTIONS)
    optimized = model.clone()
    options = optimized.model_options["transformer_options"]
    options[ATTENTION] = attention
    options[CHANNELS_LAST] = check_switch("channels_last", channels_last)
    optimized.patches_uuid = uuid.uuid4()  # so ComfyUI loads it anew: see `lay_out_weights`
    return optimized
