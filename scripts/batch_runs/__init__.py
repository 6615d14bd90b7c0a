"""Many jobs of one workflow on several servers: what `scripts/batch.py` is made of."""
