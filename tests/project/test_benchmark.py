"""The benchmarks alternate their runs, and report ratios, tables, rooflines and charts."""

import json
import subprocess
import sys
import time

import pytest
import torch
from helpers.checkout import PACK
from kandinsky22.utils.files import architectures
from PIL import Image

from benchmarks import checkpoints, decode, pairs, plot, report, roofline

pytestmark = pytest.mark.long

ROWS = [
    {"case": "a", "run": "Decoder", "ours": 1.0, "ratio": 0.5, "quartiles": [0.4, 0.75]},
    {"case": "b", "measured": "what has no ratio"},
    {"case": "c", "ours": 3.0, "ratio": 1.5, "quartiles": [1.25, 1.75]},
]
COLUMNS = {"case": "{case}", "ratio": report.RATIO}


def test_runs_take_turns_and_the_first_round_does_not_count():
    calls, ready = [], []
    runs = {"A": lambda: calls.append("A"), "B": lambda: calls.append("B") or time.sleep(0.01)}
    seconds = pairs.in_turns(runs, 3, before=ready.append)
    assert "".join(calls) == "".join(ready) == "ABABABAB"
    assert [len(times) for times in seconds.values()] == [3, 3]
    assert min(seconds["B"]) >= 0.01  # it sleeps that long


def test_the_ratio_is_that_of_pairs():
    """A machine that is slow for a while changes the medians, and not the ratios."""
    found = pairs.compare([1.0, 10.0, 2.0, 1.0], [2.0, 20.0, 4.0, 1.0])
    assert found == {"ours": 1.5, "theirs": 3.0, "ratio": 0.5, "quartiles": [0.5, 0.625]}


def test_tables_and_files(tmp_path):
    text = report.table(ROWS, COLUMNS)
    assert text.splitlines() == [
        "| case | ratio |",
        "| --- | --- |",
        "| a | 0.50 (0.40–0.75) |",
        "| b |  |",
        "| c | 1.50 (1.25–1.75) |",
    ]
    machine = report.describe_machine("0.0.0")
    report.save(tmp_path / "results" / "decode-thin-cpu", ROWS, COLUMNS, machine)
    saved = json.loads((tmp_path / "results" / "decode-thin-cpu.json").read_text())
    assert saved == {"machine": machine, "rows": ROWS}
    assert (tmp_path / "results" / "decode-thin-cpu.md").read_text().endswith(text + "\n")


def test_the_chart_has_a_row_for_each_ratio(tmp_path):
    with pytest.raises(FileNotFoundError, match="run a benchmark with --save first"):
        plot.draw(tmp_path / "chart.png", tmp_path)
    report.save(tmp_path / "decode-thin-cpu", ROWS, COLUMNS, {})
    assert plot.read_rows(tmp_path) == [
        ("decode, Decoder, a", 0.5, [0.4, 0.75]),
        ("decode, c", 1.5, [1.25, 1.75]),
    ]
    colours = {
        colour for _, colour in Image.open(plot.draw(tmp_path / "c.png", tmp_path)).getcolors(9999)
    }
    assert {tuple(bytes.fromhex(c[1:])) for c in (plot.BETTER, plot.WORSE)} <= colours


@pytest.mark.parametrize("pixels, tera", [(512, 1.712), (768, 3.985)])
def test_work_of_the_published_unet(pixels, tera):
    work = roofline.unet_work(
        architectures.DECODERS["text_to_image"].unet, pixels, 2, torch.float16
    )
    assert work["flops"] == pytest.approx(tera * 1e12, rel=1e-3)
    assert work["bytes"] == pytest.approx(2 * 1253.06e6, rel=1e-3)


def test_work_follows_batch_and_hint():
    configs = {
        name: decoder.unet | checkpoints.UNETS["thin"]
        for name, decoder in architectures.DECODERS.items()
    }
    one, two = (
        roofline.unet_work(configs["text_to_image"], 64, batch, torch.float32) for batch in (1, 2)
    )
    assert two["flops"] == 2 * one["flops"] and two["bytes"] == one["bytes"]
    hinted = roofline.unet_work(configs["depth"], 64, 2, torch.float32)
    assert hinted["flops"] > two["flops"]


def test_what_takes_longer_is_the_roofline():
    device = {"flops": 100.0, "bytes": 10.0}
    assert roofline.least_seconds({"flops": 500, "bytes": 20}, device) == 5
    assert roofline.least_seconds({"flops": 500, "bytes": 80}, device) == 8
    assert min(roofline.measure_device(torch.float32).values()) > 0


def test_random_checkpoints_are_the_published_ones_in_small(tmp_path):
    """They have tensors of the same names and of other shapes, and both libraries read them."""
    other, folder = tmp_path / "other" / "decoder", tmp_path / "decoder"
    checkpoints.write_decoder(other, "thin", "inpaint")
    checkpoints.write_decoder(folder, "thin")
    pipeline = checkpoints.load_pipeline("KandinskyV22Pipeline", folder, "fp32")
    with torch.device("meta"):
        unet = type(pipeline.unet).from_config(architectures.DECODERS["text_to_image"].unet)
    assert list(pipeline.unet.state_dict()) == list(unet.state_dict())
    decode.load_nodes(other, "fp32")
    model, _ = decode.load_nodes(folder, "fp32")  # not the other one of that name
    for name, tensor in model.model.diffusion_model.state_dict().items():
        assert torch.equal(tensor, pipeline.unet.state_dict()[name])


def test_the_command(tmp_path):
    command = [sys.executable, PACK / "scripts" / "benchmark.py"]
    done = subprocess.run(
        [*command, *"inpaint --steps 1 --rounds 1".split()], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "| mask, 768 px |" in done.stdout and "| stage, miniature, 1 steps" in done.stdout
