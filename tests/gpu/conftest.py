"""These tests let ComfyUI use the GPU. None of them has run so far, as there was no GPU.

    python scripts/test.py --no-lint -m gpu tests/gpu

runs them from the project's root, on a machine that has one. Together with other tests they would
be too late, as ComfyUI has chosen the CPU by then. They run without the server, and so without its
dynamic memory (as with --disable-dynamic-vram).
"""

import comfy.cli_args
import pytest
import torch


def pytest_configure(config):
    if config.option.markexpr == "gpu":
        comfy.cli_args.args.cpu = not torch.cuda.is_available()


@pytest.fixture(autouse=True)
def gpu(monkeypatch):
    """Convolutions in float32 do not use TF32, which torch and ComfyUI use by default.

    TF32 is off by 5e-3 in six steps.
    """
    import comfy.model_management

    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)

    if comfy.model_management.get_torch_device().type != "cuda":
        pytest.skip("the host has no GPU: see the top of tests/gpu/conftest.py")
