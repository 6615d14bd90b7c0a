"""The wrappers that other nodes, such as EasyCache, put around the UNet."""

from typing import Any

import torch
from comfy.patcher_extension import WrapperExecutor


class Wrapped:
    """A UNet, which may be compiled, and the wrappers around it.

    To torch.compile this is a value without parts. It does not bear the UNet as an argument of the
    UNet itself.
    """

    def __init__(self, unet: Any, wrappers: list[Any]):
        self.unet, self.wrappers = unet, wrappers


def call(wrapped: Wrapped, *arguments: torch.Tensor, **given: Any) -> torch.Tensor:
    """Return the UNet's output with the variance, from within the wrappers.

    The wrappers run outside torch.compile, which would keep the state that a cache had in the call
    that it traced. The UNet within them runs as it is.
    """

    def run(*arguments: torch.Tensor, **given: Any) -> torch.Tensor:
        return wrapped.unet(*arguments, with_variance=True, **given)

    executor = WrapperExecutor.new_class_executor(run, wrapped.unet, wrapped.wrappers)
    return executor.execute(*arguments, **given)


run_wrapped: Any = torch.compiler.disable(call)
