"""The peak main memory of a server for text_to_image with a negative prompt, on a CPU.

It is for the whole process, from its start to the PNG: VmHWM, the peak of its resident memory, with
the pages of its memory-mapped files. Another checkout of this pack can take part, such as one from
before a change: `git worktree add ../before COMMIT`, `--against ../before`.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from .checkpoints import BUNDLED, DTYPES, checkpoints
from .graph import workflow

PACK = Path(__file__).resolve().parents[1]
COLUMNS = {
    "case": "{case}",
    "pack": "{pack}",
    "MiB": "{mib:.0f}",
}
NEGATIVE = "low quality"


def peak_of(pack: Path, folders: dict[str, Path], prompt: dict) -> int:
    """Return the peak MiB of a server with that checkout."""
    from scripts.comfyui import Server
    from scripts.host import ensure

    with tempfile.TemporaryDirectory() as work:
        base = Path(work)
        (base / "models").mkdir()
        if folders["prior"].parent != BUNDLED:
            (base / "models" / "diffusers").symlink_to(folders["prior"].parent)
        with Server(ensure(), base, cpu=True, pack=pack) as server:
            server.run(prompt)
            assert server.process
            status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) // 1024


def run(
    size: str = "full",
    dtype: str = "fp16",
    pixels: int = 128,
    steps: int = 2,
    against: Path | None = None,
) -> list[dict]:
    """Return a row for this checkout, and one for the other before it."""
    rows = []
    with checkpoints(size, "prior", "text_to_image", dtype=DTYPES[dtype]) as folders:
        prompt = workflow(folders, dtype, pixels, steps)
        prompt["Kandinsky22Prior"]["inputs"] |= {"negative_prompt": NEGATIVE, "steps": steps}
        for pack in filter(None, (against, PACK)):
            row = {"case": f"{size}, {steps} + {steps} steps, {pixels} px, {dtype}"}
            row |= {"pack": "this one" if pack == PACK else str(against)}
            rows.append(row | {"mib": peak_of(Path(pack).resolve(), folders, prompt)})
    return rows
