"""Priors of one pass: ECLIPSE (Patel et al., arXiv:2312.04655).

Noise and a prompt become an image embedding in one pass. The network is diffusers' PriorTransformer
without timesteps. It has 34 million parameters, and the published prior has a thousand million.
"""

from typing import Any

import torch
import torch.nn.functional as F
from diffusers import PriorTransformer
from diffusers.models.transformers.prior_transformer import PriorTransformerOutput

MASKED = -10000.0  # added to the scores of tokens that attention must ignore


class OnePassPrior(PriorTransformer):
    """The network of ECLIPSE: (noise, prompt) → image embedding."""

    @classmethod
    def build(cls, config: dict[str, Any]) -> Any:
        module: Any = cls.from_config(config)
        del module.time_proj, module.time_embedding
        return module

    @property
    def dtype(self) -> torch.dtype:
        return self.proj_in.weight.dtype

    def forward(  # type: ignore[override]
        self,
        hidden_states: torch.Tensor,
        proj_embedding: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        attention_mask: torch.Tensor,
    ) -> PriorTransformerOutput:
        """Return the embeddings (N, D) of N prompts.

        Args:
            hidden_states: noise, (N, D).
            proj_embedding: the prompts' embeddings, (N, D).
            encoder_hidden_states: the states of their tokens, (N, T, D).
            attention_mask: (N, T), False where a prompt is padded.
        """
        states: Any = self.encoder_hidden_states_proj
        last: Any = self.prd_embedding  # the token at which the embedding is read
        tokens = torch.cat(
            [
                states(encoder_hidden_states),
                self.embedding_proj(proj_embedding)[:, None],
                self.proj_in(hidden_states)[:, None],
                last.to(hidden_states.dtype).expand(len(hidden_states), -1, -1),
            ],
            dim=1,
        )
        tokens = tokens + self.positional_embedding.to(tokens.dtype)
        padding = (1 - attention_mask.to(tokens.dtype)) * MASKED
        padding = F.pad(padding, (0, self.additional_embeddings))
        mask = (padding[:, None] + self.causal_attention_mask).to(tokens.dtype)
        mask = mask.repeat_interleave(self.config["num_attention_heads"], dim=0)
        for block in self.transformer_blocks:
            tokens = block(tokens, attention_mask=mask)
        predicted = self.proj_to_clip_embeddings(self.norm_out(tokens)[:, -1])
        return PriorTransformerOutput(predicted_image_embedding=predicted)
