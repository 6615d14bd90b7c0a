"""These tests let the host use the GPU. None of them has been run so far: there was none.

    python scripts/test.py --no-lint -m gpu tests/gpu

from the project's root, on a machine that has one; together with other tests they would be too
late, the host having settled on the CPU. They run without the server, and so without its dynamic
memory (as with --disable-dynamic-vram).
"""

import comfy.cli_args
import pytest
import torch


def pytest_configure(config):
    if config.option.markexpr == "gpu":
        comfy.cli_args.args.cpu = not torch.cuda.is_available()


@pytest.fixture(autouse=True)
def gpu(monkeypatch):
    """Convolutions in float32 are that, and not TF32, which is what both torch and the host leave
    on: it is off by 5e-3 in six steps."""
    import comfy.model_management

    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)

    if comfy.model_management.get_torch_device().type != "cuda":
        pytest.skip("the host has no GPU: see the top of tests/gpu/conftest.py")
