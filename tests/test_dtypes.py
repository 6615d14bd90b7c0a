"""Our networks answer for their type at once, and as diffusers would after looking everywhere."""

import pytest
import torch
from diffusers.models.modeling_utils import get_parameter_dtype
from kandinsky22.nodes.loaders import LoadDecoder
from kandinsky22.utils.native_prior import NativePrior


@pytest.mark.parametrize("name, dtype", [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_the_type_is_that_of_the_weights(models, nothing_shared, name, dtype):
    model = LoadDecoder.execute("kandinsky-2-2-tiny-decoder", name).args[0]
    prior = NativePrior("kandinsky-2-2-tiny-prior", name)
    for module in (model.model.diffusion_model, prior.transformer.patcher.model.module):
        assert module.dtype == get_parameter_dtype(module) == dtype
    assert model.model.get_dtype() == dtype  # the host's question
