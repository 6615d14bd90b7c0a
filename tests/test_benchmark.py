"""The benchmark harness runs; and, slowly, loading at published size."""

import sys

import pytest
from kandinsky22.benchmarks import load


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_published_unet_loads_in_little_memory(capsys):
    """An fp32 file used as fp16 is never in memory as a whole. Prints what it measured."""
    rows = load.run(rounds=1, small=False)
    with capsys.disabled():
        sys.stdout.write(f"\n{load.table(rows)}\n")
    assert rows[0]["mib"]["ratio"] <= 0.6


def test_the_table_has_a_row_a_case():
    rows = load.run(rounds=1, small=True)
    assert [row["case"] for row in rows] == list(load.CASES)
    assert all(row[what]["ours"] > 0 for row in rows for what in ("seconds", "mib"))
    assert len(load.table(rows).splitlines()) == 2 + len(rows)
