"""scripts/demo.py, the README's first command."""

import re
import subprocess
import sys
from pathlib import Path

from checkout import HOST, PACK
from PIL import Image


def run(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, PACK / "scripts" / "demo.py", "--comfyui", HOST["comfyui"]]
    return subprocess.run([*command, *arguments], capture_output=True, text=True)


def test_a_picture_from_a_comfyui_that_stays_as_it_is():
    folder = Path(HOST["comfyui"])
    before = [sorted(folder.iterdir()), sorted((folder / "custom_nodes").iterdir())]
    done = run("--prompt", "a large red circle on a blue background, in the center", "--seed", "3")
    assert done.returncode == 0, done.stderr
    (name,) = re.findall(r"Saved (.+)", done.stdout)
    with Image.open(PACK / name) as picture:
        red, _, blue = picture.resize((3, 3)).getpixel((1, 1))
    (PACK / name).unlink()
    assert red > 2 * blue
    assert before == [sorted(folder.iterdir()), sorted((folder / "custom_nodes").iterdir())]


def test_a_workflow_that_is_not_there():
    done = run("--workflow", "nothing")
    assert done.returncode == 1 and "It has: area_composition" in done.stderr
