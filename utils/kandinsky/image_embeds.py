"""Image embeddings, the values that travel from the prior's nodes to the decoder's nodes.

Values on wires are immutable, because ComfyUI caches them and gives them to several nodes.
"""

from dataclasses import dataclass

import torch


@dataclass(frozen=True, eq=False)
class ImageEmbeds:
    """CLIP image embeddings, the condition of every decoding stage.

    `tensor` is float32 on the CPU, (B, D). D is 1280 for the published checkpoints.
    """

    tensor: torch.Tensor

    def __post_init__(self):
        tensor = self.tensor
        shape = tuple(getattr(tensor, "shape", ()))
        if not torch.is_tensor(tensor) or len(shape) != 2:
            raise ValueError(
                f"Image embeddings are a (batch, width) tensor, not {shape or tensor!r:.80}. They "
                "come from Prior, Encode Image or Zero Embeds."
            )
        if tensor.shape[0] == 0:
            raise ValueError("These image embeddings are an empty batch. At least one is needed.")
        if tensor.shape[1] == 0:
            raise ValueError("These image embeddings are 0 wide: there is nothing in them.")
        tensor = tensor.detach().to("cpu", torch.float32)
        if not torch.isfinite(tensor).all():
            raise ValueError(
                "The image embeddings contain NaN or infinity. If a node has just made them, load "
                "its model with weight_dtype fp32 or bf16; if they were loaded, make them again."
            )
        object.__setattr__(self, "tensor", tensor)

    @property
    def batch(self) -> int:
        return self.tensor.shape[0]

    @property
    def width(self) -> int:
        return self.tensor.shape[1]

    def check_width(self, width: int, taker: str) -> None:
        """Raise ValueError if these embeddings are not `width` wide, as `taker` needs them."""
        if self.width != width:
            raise ValueError(
                "Choose models of one family, both published or both bundled, in Load Prior and "
                f"Load Decoder. These image embeddings are {self.width} wide, and {taker} takes "
                f"{width}: they come from another family of models."
            )
