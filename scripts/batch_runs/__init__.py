"""Run many jobs of one workflow on several servers: the modules of `scripts/batch.py`."""
