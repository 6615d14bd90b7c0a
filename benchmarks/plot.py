"""The saved ratios as a chart: a dot for the median, a line for the quartiles, 1 in the middle."""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from .report import RESULTS

NOT_AGAINST_DIFFUSERS = ("batch", "optimize", "solvers")
FILE = RESULTS / "ratios.png"
WIDTH, ROW, LABELS, MARGIN = 1200, 34, 620, 24
INK, FAINT, BETTER, WORSE = "#1f2933", "#c3ccd5", "#1f7a4d", "#b3541e"
LIMITS = (0.0, 2.0)  # of the ratios; others are drawn at the edge


def read_rows(folder: Path = RESULTS) -> list[tuple[str, float, list[float]]]:
    """Return (what, ratio, quartiles) of each pair that was measured with diffusers."""
    rows = []
    for file in sorted(folder.glob("*.json")):
        command = file.stem.split("-")[0]
        for row in json.loads(file.read_text("utf-8"))["rows"]:
            if "quartiles" in row and command not in NOT_AGAINST_DIFFUSERS:
                words = [command, row.get("run"), row.get("what"), row["case"]]
                rows.append((", ".join(filter(None, words)), row["ratio"], row["quartiles"]))
    return rows


def draw(file: Path = FILE, folder: Path = RESULTS) -> Path:
    """Write the chart and return its path. Raise FileNotFoundError if nothing was saved."""
    rows = read_rows(folder)
    if not rows:
        raise FileNotFoundError(f"No ratios in {folder}: run a benchmark with --save first.")
    height = MARGIN * 2 + ROW * (len(rows) + 2)
    image = Image.new("RGB", (WIDTH, height), "white")
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(15)

    def place(ratio: float) -> float:
        low, high = LIMITS
        part = (min(max(ratio, low), high) - low) / (high - low)
        return LABELS + part * (WIDTH - LABELS - 3 * MARGIN)

    title = "ours / diffusers: left of 1 is less time, or less memory; median and quartiles"
    pen.text((MARGIN, MARGIN), title, INK, font)
    top, bottom = MARGIN + ROW, height - MARGIN
    for tick in (0, 0.5, 1, 1.5, 2):
        x = place(tick)
        pen.line([(x, top + ROW), (x, bottom)], INK if tick == 1 else FAINT, 2 if tick == 1 else 1)
        pen.text((x, top + ROW / 2), f"{tick:g}", INK, font, anchor="mm")
    for index, (what, ratio, (low, high)) in enumerate(rows):
        y, colour = top + ROW * (index + 1.5), BETTER if ratio <= 1 else WORSE
        pen.text((MARGIN, y), what, INK, font, anchor="lm")
        pen.line([(place(low), y), (place(high), y)], colour, 4)
        x = place(ratio)
        pen.ellipse((x - 6, y - 6, x + 6, y + 6), colour)
        pen.text(
            (WIDTH - MARGIN, y),
            f"{ratio:.2f}" if ratio >= 0.01 else f"{ratio:.4f}",
            INK,
            font,
            anchor="rm",
        )
    image.save(file)
    return file
