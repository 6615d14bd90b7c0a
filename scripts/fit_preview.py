"""Fit the map from latents to colours with which ComfyUI shows a forming picture.

    python scripts/fit_preview.py models/diffusers/kandinsky-2-2-decoder …

Once for each decoder folder; Get Models does it for what it fetches.
"""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import sys
import types
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

import host  # noqa: E402

if importlib.util.find_spec("diffusers") is None:  # then this runs again where it is
    sys.exit(subprocess.call([host.ensure().python, *sys.argv]))

package = types.ModuleType("kandinsky22")  # this checkout, whatever its folder's name
package.__path__ = [str(ROOT)]
sys.modules["kandinsky22"] = package

from kandinsky22.utils import preview  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path, help="decoder folders")
    for folder in parser.parse_args().folders:
        explained = preview.fit_preview(folder)
        print(f"{folder / preview.FILE}: {explained:.1%} of the colours' variance explained")


if __name__ == "__main__":
    main()
