"""The places of this checkout and of the ComfyUI of the tests."""

import json
import os
from pathlib import Path

PACK = Path(__file__).parents[2]
WORKFLOWS = PACK / "workflows"
# The output of scripts/host.py, set by scripts/test.py.
HOST = json.loads(os.environ["KANDINSKY22_HOST"])
