"""Every benchmark runs, and both sides of a comparison compute the same. Times are not checked."""

import sys

import comfy_extras.nodes_custom_sampler as host
import pytest

from benchmarks import (
    decode,
    graph,
    inpaint,
    load,
    loops,
    memory,
    optimize,
    prior,
    report,
    solvers,
)

pytestmark = pytest.mark.long


def shown(module, rows: list[dict]) -> list[dict]:
    """Return the rows, after a check that they fill a table."""
    assert len(report.table(rows, module.COLUMNS).splitlines()) == 2 + len(rows)
    return rows


def test_prior():
    rows = shown(prior, prior.run(batch=(1, 2), steps=2, rounds=1))
    assert [row["case"] for row in rows] == [f"miniature, 2 steps, batch {n}, fp32" for n in (1, 2)]
    assert rows[0]["difference"] == 0.0 and all(row["over_least"] > 0 for row in rows)


def test_decode():
    rows = shown(decode, decode.run(steps=2, rounds=1, channels_last=True))
    assert [row["run"] for row in rows] == [run for run in decode.AGAINST if "compiled" not in run]
    differences = {row["run"]: row.get("difference") for row in rows}
    assert differences["Decoder"] == differences["VAE Decode"] == 0.0
    assert 0.0 < differences["Decoder, channels last"] < 1e-3


def test_loops():
    (row,) = shown(loops, loops.run(steps=2, rounds=1))
    assert row["case"] == "miniature, 25 + 2 steps, 128 px, fp32" and row["ratio"] > 0


def test_inpaint():
    rows = shown(inpaint, inpaint.run(steps=2, rounds=1))
    assert [row["difference"] for row in rows] == [0.0, 0.0]


def test_optimize():
    rows = shown(optimize, optimize.run(size="thin", pixels=64, rounds=1, calls=1))
    assert [row["choice"] for row in rows] == list(optimize.CHOICES)
    assert rows[0]["ratio"] == 1.0


def test_load():
    rows = shown(load, load.run(size="thin", rounds=1, cases=["fp16"]))
    assert [row["what"] for row in rows] == ["seconds", "MiB"]
    assert all(row["ours"] > 0 for row in rows)


def test_memory():
    (row,) = shown(memory, memory.run(size="thin", pixels=64, rounds=1))
    assert row["ours"] > 0 and row["theirs"] > 0
    assert all(outcome.endswith(" s") for outcome in row["outcomes"].values())


def test_solvers():
    few = (("dpmpp_2m", "karras", 10), ("heun", "trailing", 2))
    intervals = (("dpmpp_2m", "karras", 10, 0.1, 0.5),) if hasattr(host, "CFGOverride") else ()
    rows = solvers.run(1, 2, few, (("ddim", 6, 0.4),), intervals)
    reference, fast, second_order, cached, *guided_less = shown(solvers, rows)
    assert reference["calls"] == 100 and reference["inside"] == 1.0
    assert fast["calls"] == 10 and second_order["calls"] == 3  # Heun's last step is one of Euler's
    assert cached["calls"] < 6  # the cache leaves out calls
    assert fast["follows"] > 0.9
    for row in guided_less:  # calls without guidance count half
        assert 5 < row["calls"] < 10 and row["follows"] > 0.9


def test_shares_of_a_graph():
    spans = [
        ("request", 0.0, 0.0),
        ("Kandinsky22Prior", 0.5, 1.5),
        ("UNet", 2.0, 6.0),
        ("Kandinsky22Decoder", 1.9, 6.5),
        ("MoVQ", 7.0, 8.0),
        ("VAEDecode", 6.9, 8.1),
        ("done", 9.0, 10.0),
    ]
    assert graph.shares(spans) == pytest.approx({"host": 10 - 1 - 4.6 - 1, "rest": 0.5})


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_graph():
    """It runs on a real server, on which a cached node does not run."""
    rows = shown(graph, graph.run(steps=2, rounds=1))
    assert len(rows) == 3 and rows[0]["ratio"] > 0
    for row in rows[1:]:
        assert 0 < row["value"][1] < 30


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_published_unet_loads_in_little_memory(capsys):
    """An fp32 file used as fp16 is never in memory as a whole. The test prints its measurements."""
    rows = load.run(rounds=1)
    with capsys.disabled():
        sys.stdout.write(f"\n{report.table(rows, load.COLUMNS)}\n")
    assert rows[1]["what"] == "MiB" and rows[1]["ratio"] <= 0.6
