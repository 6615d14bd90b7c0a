"""The measurements of `python scripts/benchmark.py`. Their results are in results/."""
