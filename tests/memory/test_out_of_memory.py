"""If memory runs out in a stage or during loading, the error says so and the next run is right."""

import gc
import math
import weakref

import comfy.model_management
import pytest
import torch
from helpers.every_stage import AT_ONCE, IN_STEPS, each
from kandinsky22.nodes.loaders import LoadDecoder, LoadDepthEstimator, LoadPrior
from torch.utils._python_dispatch import TorchDispatchMode


def takes_memory(operator, output) -> bool:
    """Return whether an operator allocates memory: no view, not in place, no empty tensor."""
    if any(result.alias_info for result in operator._schema.returns):
        return False
    outputs = output if isinstance(output, tuple | list) else [output]
    return any(torch.is_tensor(o) and o.untyped_storage().nbytes() for o in outputs)


class Device(TorchDispatchMode):
    """A device with room for the outputs of some operators, which then once reports to be full."""

    def __init__(self, room: float = math.inf):
        super().__init__()
        self.room = room
        self.calls = 0
        self.outputs: list[weakref.ref] = []  # of all operators; those that nothing holds are empty
        self.error = torch.OutOfMemoryError(f"CUDA out of memory, after {room} operators.")

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        output = operator(*args, **(kwargs or {}))
        if takes_memory(operator, output):
            self.calls += 1
            if self.calls == self.room + 1:
                raise self.error
        if torch.is_tensor(output):
            self.outputs.append(weakref.ref(output))
        return output

    def held(self) -> int:
        """Return how many of the outputs are still alive."""
        return sum(output() is not None for output in self.outputs)


def run_to_the_end(run) -> Device:
    with Device() as device:
        run()
    return device


def run_out_of_memory(run, room: int) -> Device:
    """Check that ComfyUI gets the device's own error."""
    with Device(room) as device:
        try:
            run()
        except comfy.model_management.OOM_EXCEPTION as error:
            assert error is device.error
            device.error = None
        else:
            pytest.fail(f"nobody was told that memory ran out at operator {room + 1}")
    return device


def state_of(module: torch.nn.Module) -> list:
    """Return all that a run could change in a module."""
    layers = [
        (name, layer.training, vars(layer).get("comfy_cast_weights"), vars(layer).get("wide"))
        for name, layer in module.named_modules()
    ]
    return [layers, *module.parameters(), *module.buffers()]


def copy(state: list) -> list:
    return [part.clone() if torch.is_tensor(part) else part for part in state]


def same(state: list, before: list) -> bool:
    return all(
        torch.equal(a, b) if torch.is_tensor(a) else a == b
        for a, b in zip(state, before, strict=True)
    )


@pytest.mark.long
@pytest.mark.parametrize("place", [0.4, 0.7, 1])
@each(IN_STEPS | AT_ONCE)
def test_out_of_memory(request, build, place):
    """Memory runs out at the last operator of a stage, and earlier."""
    stage = build(request.getfixturevalue)
    wanted, whole = stage.run(), run_to_the_end(stage.run)
    inputs, state = copy(stage.inputs), copy(state_of(stage.module))
    gc.collect()
    gc.disable()
    try:
        broken = run_out_of_memory(stage.run, int(place * (whole.calls - 1)))
        # All memory is free again at once. Only moved weights stay where they are.
        assert broken.held() <= whole.held()
    finally:
        gc.enable()
    comfy.model_management.unload_all_models()  # ComfyUI does this after such an error
    assert not comfy.model_management.loaded_models()
    assert same(stage.inputs, inputs) and same(state_of(stage.module), state)
    assert torch.equal(stage.run(), wanted)


LOADERS = {
    "prior": lambda: LoadPrior.execute("kandinsky-2-2-tiny-prior", "bf16").args[0],
    "decoder": lambda: LoadDecoder.execute("kandinsky-2-2-tiny-decoder", "bf16").args,
    "depth": lambda: LoadDepthEstimator.execute("tiny-dpt").args[0],
}


@pytest.mark.parametrize("place", [0.2, 0.9])
@pytest.mark.parametrize("load", LOADERS.values(), ids=LOADERS)
def test_out_of_memory_while_loading(models, nothing_shared, load, place):
    run_out_of_memory(load, int(place * run_to_the_end(load).calls))
    assert load()


@pytest.mark.parametrize("verb", ["decode", "encode"])
def test_the_host_goes_on_in_tiles(load_decoder, verb):
    """If MoVQ runs out of memory, ComfyUI's VAE tries once more, in tiles."""
    vae = load_decoder()[1]
    x = torch.rand(1, 4, 8, 8) if verb == "decode" else torch.rand(1, 64, 64, 3)
    wanted = getattr(vae, verb)(x)
    with Device(run_to_the_end(lambda: getattr(vae, verb)(x)).calls // 2) as device:
        result = getattr(vae, verb)(x)
    assert device.calls > device.room
    assert (result - wanted).abs().max() < 0.05
    assert torch.equal(getattr(vae, verb)(x), wanted)
