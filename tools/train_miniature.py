"""Make the miniature Kandinsky 2.2 from scratch: data, training, export and scores.

    python tools/train_miniature.py                       # every stage, on the CPU
    python tools/train_miniature.py --stage unet --steps 8000 --device cuda
    python tools/train_miniature.py --export models
    python tools/train_miniature.py --score               # of the folders in --export's default

Every stage is seeded, writes checkpoints into the work folder and resumes from them. The stages
movq-decoder, prior and depth do not need the UNet, so they can run in a second process at the same
time.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)  # see scripts/__init__.py

from scripts import host, pack  # noqa: E402

pack.run_with_libraries()

import torch  # noqa: E402

from tools.miniature import (  # noqa: E402
    cards,
    children,
    clip_training,
    dataset,
    depth,
    export,
    grids,
    lora,
    movq,
    prior,
    score,
    unet,
)

WORK = host.cache_folder() / "miniature"
log = logging.getLogger("miniature")


def make_latents(work: Path, seed: int, steps: int) -> None:
    """Encode the training set (`seed` and `steps` are for stages that use them)."""
    movq.encode_dataset(work)


def make_pictures(work: Path, seed: int, steps: int) -> None:
    """Draw the training set."""
    dataset.make_dataset(work, seed)


STAGES: dict[str, tuple[Callable[[Path, int, int], None], int]] = {
    "data": (make_pictures, 0),
    "movq": (movq.train_encoder, movq.ENCODER_STEPS),
    "latents": (make_latents, 0),
    "clip": (clip_training.train_clip, clip_training.STEPS),
    "prior": (prior.train_prior, prior.STEPS),
    "movq-decoder": (movq.train_decoder, movq.DECODER_STEPS),
    "depth": (depth.train_depth, depth.STEPS),
    "unet": (unet.train_unet, unet.STEPS),
    "inpaint": (children.train_inpaint, children.INPAINT_STEPS),
    "controlnet": (children.train_controlnet, children.CONTROLNET_STEPS),
    "lora": (lora.train_lora, lora.STEPS),
}


def read_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--stage", choices=STAGES, action="append", help="run only this stage; may be repeated"
    )
    parser.add_argument("--steps", type=int, help="replaces the stage's own number of steps")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument(
        "--threads", type=int, help="number of torch threads (default: torch's own)"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--work", type=Path, default=WORK, help="folder for checkpoints and stored latents"
    )
    parser.add_argument("--export", type=Path, metavar="DIR", help="write the model folders there")
    parser.add_argument(
        "--models", type=Path, default=ROOT / "models", help="model folders for --score"
    )
    parser.add_argument(
        "--score", nargs="*", choices=score.PARTS, help="compute all scores, or these"
    )
    parser.add_argument("--grids", type=Path, metavar="DIR", help="write sample pictures there")
    return parser.parse_args()


def main() -> None:
    """Run the chosen stages. By default, run all of them, then export, grids and scores."""
    arguments = read_arguments()
    work, models = arguments.work, arguments.export or arguments.models
    work.mkdir(parents=True, exist_ok=True)
    handlers = [logging.StreamHandler(), logging.FileHandler(work / "log.txt")]
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", handlers=handlers)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    torch.set_default_device(arguments.device)
    everything = not (
        arguments.stage or arguments.export or arguments.grids or arguments.score is not None
    )
    for name in arguments.stage or (STAGES if everything else []):
        stage, steps = STAGES[name]
        log.info("stage %s", name)
        stage(work, arguments.seed, arguments.steps or steps)
    torch.set_default_device("cpu")  # scores are for the CPU, whatever device trained
    if arguments.export or everything:
        export.export_all(work, models, arguments.seed)
    if arguments.grids or everything:
        grids.draw_grids(models, arguments.grids or work / "grids")
    if arguments.score is not None or everything:
        scores = score.score_all(models, work / "scores.json", arguments.score)
        sys.stdout.write(cards.score_table(scores) + "\n")
    if arguments.export or arguments.score is not None or everything:
        cards.write_cards(models, work / "scores.json", arguments.seed)


if __name__ == "__main__":
    main()
