"""Fit the map from latents to colours with which ComfyUI shows previews while sampling.

    python scripts/fit_preview.py models/diffusers/kandinsky-2-2-decoder …

Run this once for each decoder folder. Get Models does it for the models that it downloads.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)  # see scripts/__init__.py

from scripts import pack  # noqa: E402

pack.run_with_libraries()
pack.name_pack()

from kandinsky22.utils.files import previews  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path, help="decoder folders")
    for folder in parser.parse_args().folders:
        if not (folder / "movq").is_dir():
            parser.error(f"{folder} is no decoder folder: it has no folder movq")
        explained = previews.fit_preview(folder)
        print(f"{folder / previews.FILE}: {explained:.1%} of the colours' variance explained")


if __name__ == "__main__":
    main()
