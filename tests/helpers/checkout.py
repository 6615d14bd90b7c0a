"""Says where this checkout and the ComfyUI of the tests are."""

import json
import os
from pathlib import Path

PACK = Path(__file__).parents[2]
WORKFLOWS = PACK / "workflows"
# What scripts/host.py prints; scripts/test.py sets it.
HOST = json.loads(os.environ["KANDINSKY22_HOST"])
