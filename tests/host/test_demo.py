"""scripts/demo.py, the README's first command, makes a picture and leaves ComfyUI unchanged."""

import re
import subprocess
import sys
from pathlib import Path

from helpers.checkout import HOST, PACK
from PIL import Image


def test_a_picture_from_a_comfyui_that_stays_as_it_is():
    folder = Path(HOST["comfyui"])
    before = [sorted(folder.iterdir()), sorted((folder / "custom_nodes").iterdir())]
    command = [sys.executable, PACK / "scripts" / "demo.py", "--comfyui", folder, "--seed", "3"]
    command += ["--prompt", "a large red circle on a blue background, in the center"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (name,) = re.findall(r"Saved (.+)", done.stdout)
    with Image.open(PACK / name) as picture:
        red, _, blue = picture.resize((3, 3)).getpixel((1, 1))
    (PACK / name).unlink()
    assert red > 2 * blue
    assert before == [sorted(folder.iterdir()), sorted((folder / "custom_nodes").iterdir())]
