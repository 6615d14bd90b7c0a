"""Watching a module at work; starting a command as a terminal does; a server's cache."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

import comfy.model_management
import pytest
import torch


@contextmanager
def watched(module: torch.nn.Module, on_call=lambda calls: None) -> Iterator[list[int]]:
    """Yields a list that gets the batch size of every call of the module."""
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
    """Stop `run()` in the module's second call, and see that it is the last one."""

    def stop(calls):
        if len(calls) == 2:
            comfy.model_management.interrupt_current_processing(True)

    with watched(module, stop) as calls:
        with pytest.raises(comfy.model_management.InterruptProcessingException):
            run()
    assert len(calls) == 2


def as_in_a_terminal() -> None:
    """What a shell starts in the background does not hear Ctrl+C; nor would the command."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def node(kind: str, **inputs) -> dict:
    return {"class_type": kind, "inputs": inputs}


def forget_outputs(server) -> None:
    """Empty the server's cache; it does so after the next prompt, so give it one."""
    server.post("/free", {"unload_models": True, "free_memory": True})
    empty = node("EmptyImage", width=8, height=8, batch_size=1, color=0)
    server.run({"1": empty, "2": node("PreviewImage", images=["1", 0])})
