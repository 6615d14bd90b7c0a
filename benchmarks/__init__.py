"""The measurements behind `python scripts/benchmark.py`; what they gave is in results/."""
