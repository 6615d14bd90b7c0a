"""Says where this checkout and the ComfyUI of the tests are."""

import json
import os
from pathlib import Path

from tools.export_workflows import api_path

PACK = Path(__file__).parents[2]
WORKFLOWS = PACK / "workflows"
# The names in workflows/api → the templates.
TEMPLATES = {api_path(path).stem: path for path in sorted(WORKFLOWS.glob("*.json"))}
# What scripts/host.py prints; scripts/test.py sets it.
HOST = json.loads(os.environ["KANDINSKY22_HOST"])
