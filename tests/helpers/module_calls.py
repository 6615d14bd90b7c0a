"""Count the calls of a module while it works, or interrupt it in one of them."""

from collections.abc import Iterator
from contextlib import contextmanager

import comfy.model_management
import pytest
import torch


@contextmanager
def watched(module: torch.nn.Module, on_call=lambda calls: None) -> Iterator[list[int]]:
    """Yield a list that gets the batch size of every call of the module."""
    calls: list[int] = []

    def note(_, args):
        calls.append(args[0].shape[0])
        on_call(calls)

    hook = module.register_forward_pre_hook(note)
    try:
        yield calls
    finally:
        hook.remove()


def interrupt_at_the_second_call(module: torch.nn.Module, run) -> None:
    """Stop `run()` in the module's second call, and check that it is the last one."""

    def stop(calls):
        if len(calls) == 2:
            comfy.model_management.interrupt_current_processing(True)

    with watched(module, stop) as calls:
        with pytest.raises(comfy.model_management.InterruptProcessingException):
            run()
    assert len(calls) == 2
