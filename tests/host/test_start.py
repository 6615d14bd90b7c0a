"""ComfyUI starts without waiting for large libraries, and says at once if one is missing."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.checkout import HOST, PACK

# As main.py loads a pack, and as the first page that asks for the nodes reads them.
PROGRAM = """
import asyncio, json, sys
sys.path.insert(0, sys.argv[1])
import comfy.cli_args
comfy.cli_args.args.cpu = True
import utils.json_util, nodes, execution, server
for name in sys.argv[3:]:
    sys.modules[name] = None
before = set(sys.modules)
loaded = asyncio.run(nodes.load_custom_node(sys.argv[2]))
ours = [node for name, node in nodes.NODE_CLASS_MAPPINGS.items() if "Kandinsky22" in name]
for node in ours:
    node.INPUT_TYPES()
new = {name.split(".")[0] for name in set(sys.modules) - before}
print(json.dumps([loaded, len(ours), sorted(new)]))
"""


def load_pack(*without: str) -> tuple[bool, int, set[str], str]:
    """Return (whether it loaded, nodes, new top-level modules, what ComfyUI logged)."""
    command = [sys.executable, "-c", PROGRAM, HOST["comfyui"], str(PACK), *without]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    loaded, count, new = json.loads(done.stdout.splitlines()[-1])
    return loaded, count, set(new), done.stderr


@pytest.mark.long
def test_no_large_library_is_imported():
    """diffusers and peft take more than a second, and ComfyUI would wait for them."""
    loaded, count, new, log = load_pack()
    assert loaded and count == 32, log
    assert not new & {"diffusers", "peft", "accelerate", "transformers", "torchvision", "ray"}


@pytest.mark.long
def test_a_missing_library_is_named_with_the_command():
    loaded, count, _, log = load_pack("diffusers", "accelerate")
    assert not loaded and not count
    assert "accelerate, diffusers is missing in the Python that runs ComfyUI" in log
    assert f'"{sys.executable}" -m pip install -r "{PACK / "requirements.txt"}"' in log
    assert Path(PACK / "requirements.txt").is_file()
