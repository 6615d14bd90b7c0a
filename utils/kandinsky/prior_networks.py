"""The prior's transformer, which reads a prompt once for all of its steps.

diffusers' PriorTransformer projects the text, and makes its attention mask, again at every step.
Here `read` does that once. `forward` computes the rest, with the same bits.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import PriorTransformer

from .lean_layers import attention_layers
from .prior import TextFeatures

MASKED = -10000.0  # added to the scores of tokens that attention must ignore


@dataclass(frozen=True, eq=False)
class Prompts:
    """What no step changes. The transformer works on N rows of L tokens, each W wide.

    Attributes:
        first: the tokens of the text and its embedding, (N, T + 1, W).
        last: the token at which the result is read, (N, 1, W), or (N, 0, W) if the config has none.
        places: the positions of the tokens between them, (1, number of these tokens, W).
        mask: what is added to the scores of attention, (N · heads, L, L).
    """

    first: torch.Tensor
    last: torch.Tensor
    places: torch.Tensor
    mask: torch.Tensor


class PriorNetwork(PriorTransformer):
    """The published prior: (noisy embedding, timestep, prompt) → image embedding."""

    @classmethod
    def build(cls, config: dict[str, Any]) -> Any:
        module: Any = cls.from_config(config)
        attention_layers(module)
        return module

    def read(self, text: TextFeatures) -> Prompts:
        """Return the tokens and the mask of N prompts, for all steps."""
        embeds = self.embedding_proj_norm(text.embeds) if self.embedding_proj_norm else text.embeds
        states = self.encoder_hidden_states_proj
        first = [
            states(text.states) if states else text.states,
            self.embedding_proj(embeds)[:, None],
        ]
        tokens = torch.cat(first, dim=1)
        places = self.positional_embedding.to(tokens.dtype)
        before, rows = tokens.shape[1], len(tokens)
        last = tokens[:, :0]
        if self.prd_embedding is not None:
            last = self.prd_embedding.to(tokens.dtype).expand(rows, -1, -1) + places[:, -1:]
        after = places.shape[1] - last.shape[1]
        padding = (1 - text.mask.to(tokens.dtype)) * MASKED
        padding = F.pad(padding, (0, self.additional_embeddings))
        mask = (padding[:, None] + self.causal_attention_mask).to(tokens.dtype)
        mask = mask.repeat_interleave(self.config["num_attention_heads"], dim=0)
        return Prompts(tokens + places[:, :before], last, places[:, before:after], mask)

    def forward(  # type: ignore[override]
        self, noisy: torch.Tensor, timestep: torch.Tensor, prompts: Prompts
    ) -> torch.Tensor:
        """Return the predicted embeddings (N, D) for noisy ones (N, D) at one timestep (scalar)."""
        time = self.time_proj(timestep.expand(len(noisy))).to(noisy.dtype)
        return self.run([self.time_embedding(time), self.proj_in(noisy)], prompts)

    def run(self, inputs: list[torch.Tensor], prompts: Prompts) -> torch.Tensor:
        """Return the predicted embeddings (N, D). The inputs (N, W) are tokens of this step.

        Raises:
            ValueError: the config has positions for another number of tokens.
        """
        tokens = torch.stack(inputs, dim=1)
        if tokens.shape[1] != prompts.places.shape[1]:
            wrong = self.config["additional_embeddings"]
            needed = wrong + tokens.shape[1] - prompts.places.shape[1]
            raise ValueError(f"additional_embeddings is {wrong}, and this prior needs {needed}.")
        tokens = tokens + prompts.places
        tokens = torch.cat([prompts.first, tokens, prompts.last], dim=1)
        tokens = self.norm_in(tokens) if self.norm_in else tokens
        for block in self.transformer_blocks:
            tokens = block(tokens, attention_mask=prompts.mask)
        return self.proj_to_clip_embeddings(self.norm_out(tokens)[:, -1])


class OnePassPrior(PriorNetwork):
    """A prior of one pass: ECLIPSE (Patel et al., arXiv:2312.04655). It has no timesteps.

    It has 34 million parameters, and the published prior has a thousand million.
    """

    @classmethod
    def build(cls, config: dict[str, Any]) -> Any:
        module = super().build(config)
        del module.time_proj, module.time_embedding
        return module

    def forward(  # type: ignore[override]
        self, noise: torch.Tensor, prompts: Prompts
    ) -> torch.Tensor:
        """Return the embeddings (N, D) of N prompts from noise (N, D)."""
        return self.run([self.proj_in(noise)], prompts)
