"""The work of a step is counted on a simulated GPU of shapes without numbers."""

import pytest
import torch

from benchmarks import count, report
from benchmarks.simulated_gpu import GPU, put, simulated_gpu

pytestmark = pytest.mark.long


def test_calls_copies_and_waits_are_counted():
    with simulated_gpu() as gpu:
        on_cpu = torch.ones(4, 8)
        x = on_cpu.to(GPU)
        assert gpu.count == {"aten": 1, "aten _to_copy": 1, "copies": 1, "waits": 1, "bytes": 256}
        gpu.count.clear()
        y = x.t() + on_cpu.to(GPU, non_blocking=True).t()
        assert y.shape == (8, 4) and y.device == GPU
        assert (gpu.count["aten add"], gpu.count["aten"]) == (1, 2)  # a view is not a call
        assert (gpu.count["copies"], gpu.count["waits"]) == (1, 0)
        if y.sum() > 0:
            gpu.count["waits"] += 10  # the branch of an unknown number
        y.cpu()
        assert gpu.count["waits"] == 12
        assert on_cpu.sum().item() == 32  # real


def test_the_peak_is_what_lives_at_once():
    with simulated_gpu() as gpu:
        layer = put(torch.nn.Linear(1000, 1000, device="meta"), torch.float16)
        before, x = gpu.now, torch.zeros(1000, 1000, dtype=torch.float16, device=GPU)
        for _ in range(3):
            x = layer(x)
    assert gpu.peak - before == 2 * 2 * 1000 * 1000


def test_comfyui_and_torch_are_as_before():
    import comfy.model_management as management

    plain = management.load_models_gpu, torch.tensor
    with pytest.raises(KeyError), simulated_gpu():
        assert management.get_torch_device() == GPU
        raise KeyError
    assert plain == (management.load_models_gpu, torch.tensor)


def test_no_step_waits_for_the_gpu():
    """This holds for the prior and every decoding stage.

    Each step of diffusers waits several times.
    """
    from benchmarks.counted_runs import build, decoding, prior_runs

    with simulated_gpu() as gpu:
        assert count.measure(gpu, prior_runs(torch.float16)["Prior"], 2)["waits"] == 0
        for variant in ("text_to_image", "inpaint", "depth"):
            model, _ = build(torch.float16, variant)
            for from_picture in (False, True)[: 1 if variant == "inpaint" else 2]:
                for sampler in (("ddpm", "checkpoint"), ("dpmpp_2m", "karras")):
                    run = decoding(variant, from_picture, model, 64, sampler)
                    case = variant, from_picture, sampler
                    assert count.measure(gpu, run, 3)["waits"] == 0, case


def test_a_call_of_the_unet_is_leaner_than_diffusers():
    from benchmarks.counted_runs import build, decoding, ksampler, pipeline

    with simulated_gpu() as gpu:
        model, unet = build(torch.float16, "text_to_image")
        theirs = count.measure(gpu, pipeline("text_to_image", False, unet, 64))["aten"]
        ours = count.measure(gpu, decoding("text_to_image", False, model, 64))["aten"]
        sampled = count.measure(gpu, ksampler("text_to_image", model, 64))["aten"]
    assert ours <= 0.83 * theirs and sampled <= 0.92 * theirs


def test_the_table(monkeypatch):
    """Every row has all counts. The other tests check the numbers."""
    counted = dict.fromkeys(("aten", "copies", "waits", "gb", "alive"), 1)
    counted |= {kind.replace(", ", "_"): 1 for kind in count.SHOWN}
    monkeypatch.setattr(count, "measure", lambda *_: counted)
    rows = count.run(pixels=64)
    assert [row["run"] for row in rows].count("diffusers") == 6 and len(rows) == 18
    lines = report.table(rows, count.COLUMNS).splitlines()
    assert all(row["run"] == "diffusers" or row["told"] > 0 for row in rows)
    assert len(lines) == 20 and "|  |" not in "".join(
        line for line in lines if "diffusers" not in line
    )
