"""The benchmark harness runs; and, slowly, loading at published size."""

import sys

import pytest
from kandinsky22.benchmarks import load, optimize


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_published_unet_loads_in_little_memory(capsys):
    """An fp32 file used as fp16 is never in memory as a whole. Prints what it measured."""
    rows = load.run(rounds=1, small=False)
    with capsys.disabled():
        sys.stdout.write(f"\n{load.table(rows)}\n")
    assert rows[0]["mib"]["ratio"] <= 0.6


def test_load_and_its_table():
    rows = load.run(rounds=1, small=True, cases=["fp16"])
    assert [row["case"] for row in rows] == ["fp16"]
    assert all(rows[0][what]["ours"] > 0 for what in ("seconds", "mib"))
    assert len(load.table(rows).splitlines()) == 3


def test_optimize_and_its_table():
    rows = optimize.run(rounds=1, small=True, pixels=64, calls=1)
    assert [row["choice"] for row in rows] == list(optimize.CHOICES)
    assert rows[0]["ratio"] == 1.0 and all(row["seconds"] > 0 for row in rows)
    assert len(optimize.table(rows).splitlines()) == 2 + len(rows)
