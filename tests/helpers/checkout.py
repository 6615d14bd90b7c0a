"""Where the pack and the host are."""

import json
import os
from pathlib import Path

PACK = Path(__file__).parent.parent
WORKFLOWS = PACK / "workflows"
# What scripts/host.py prints; scripts/test.py sets it.
HOST = json.loads(os.environ["KANDINSKY22_HOST"])
