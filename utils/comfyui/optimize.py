"""Set how a MODEL's UNet runs in every sampler and stage: its attention and its memory format."""

import uuid
from typing import Any

from ..kandinsky.checks import check_choice, check_switch
from .model import kandinsky_of
from .model_options import ATTENTION, ATTENTIONS, CHANNELS_LAST


def optimize(model: Any, attention: str, channels_last: bool) -> Any:
    """Return a clone of the MODEL that runs in this way. The weights are shared.

    Raises:
        ValueError: there is no such attention, or the MODEL is not a Kandinsky 2.2 decoder.
    """
    kandinsky_of(model)
    check_choice("attention", attention, ATTENTIONS)
    optimized = model.clone()
    options = optimized.model_options["transformer_options"]
    options[ATTENTION] = attention
    options[CHANNELS_LAST] = check_switch("channels_last", channels_last)
    optimized.patches_uuid = uuid.uuid4()  # makes ComfyUI load it again: see `lay_out_weights`
    return optimized
