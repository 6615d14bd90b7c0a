"""Download the published models from the Hugging Face Hub, checked and ready for ComfyUI.

    python scripts/get_models.py --list
    python scripts/get_models.py text-to-image
    python scripts/get_models.py dpt-large --precision fp32 --models-dir ~/ComfyUI/models

After an interrupt, the next run resumes the download. HF_ENDPOINT, HF_HOME, HF_TOKEN and
HF_HUB_OFFLINE mean the same as for huggingface_hub.
"""

from __future__ import annotations

import argparse
import sys
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)  # see scripts/__init__.py

from scripts import pack  # noqa: E402

INSTALLED = Path(__file__).absolute().parents[1]  # resolve() would follow a link


def has_hub() -> bool:
    """Return whether the libraries of utils/download are here.

    It needs neither ComfyUI nor torch.
    """
    try:
        hub = tuple(map(int, version("huggingface_hub").split(".")[:2]))
    except PackageNotFoundError:
        return False
    return hub >= (0, 34) and find_spec("numpy") is not None


if not has_hub():
    pack.run_elsewhere("huggingface_hub 0.34 or newer, or no numpy")
pack.name_pack()

from kandinsky22.utils.download.background import download  # noqa: E402
from kandinsky22.utils.download.folder import PRECISIONS  # noqa: E402
from kandinsky22.utils.download.progress import Progress  # noqa: E402
from kandinsky22.utils.download.repositories import (  # noqa: E402
    CHOICES,
    REPOSITORIES,
    SETS,
    Repository,
)

ENCODERS = ("clip_vision", "text_encoders", "clip")  # ComfyUI's folders for CLIP's encoders
NEW_LINE = "\n" if sys.stderr.isatty() else ""  # after a line of progress


def read_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="what to download: " + ", ".join(CHOICES)
    )
    parser.add_argument("--list", action="store_true", help="list the models and download nothing")
    parser.add_argument(
        "--precision", choices=PRECISIONS, default="fp16", help="stored precision (default: fp16)"
    )
    parser.add_argument(
        "--models-dir",
        type=Path,
        metavar="DIR",
        help="ComfyUI's models folder (default: that of this installation)",
    )
    arguments = parser.parse_args()
    if not arguments.names and not arguments.list:
        parser.error("say which, or --list")
    if unknown := [name for name in arguments.names if name not in CHOICES]:
        parser.error(f"no model named {unknown[0]!r}; there is: {', '.join(CHOICES)}")
    if arguments.models_dir is None and not arguments.list:
        if INSTALLED.parent.name != "custom_nodes":
            parser.error("say where with --models-dir: the models folder of a ComfyUI")
        arguments.models_dir = INSTALLED.parent.parent / "models"
    return arguments


def fetch(repository: Repository, root: Path, precision: str) -> None:
    """Download a model. On a terminal, one line shows the progress.

    Raise the errors of `download`.
    """

    def show(progress: Progress) -> None:
        if NEW_LINE:
            line = f"\r{repository.name}: {progress}\033[K"
            print(line, end="", file=sys.stderr, flush=True)

    elsewhere = [root.parent / kind for kind in ENCODERS]
    print(NEW_LINE + download(repository, root, precision, show, elsewhere))
    folder = (root / repository.name).absolute()
    if (folder / "movq").is_dir():  # only the node does this itself, because it has torch
        script = INSTALLED / "scripts" / "fit_preview.py"
        print(f'Once, for previews: python "{script}" "{folder}"')


def main() -> int:
    """Download each model, and stop at the first error.

    If another folder is in the place of a model, the others are still downloaded.
    """
    arguments = read_arguments()
    if arguments.list:
        for name, repository in REPOSITORIES.items():
            print(f"{name:39} {repository.gigabytes:4} GB  {repository.id}")
        for name, parts in SETS.items():
            size = sum(repository.gigabytes for repository in parts)
            names = " + ".join(repository.name for repository in parts)
            print(f"{name:39} {size:4.1f} GB  {names}")
        return 0
    code = 0
    for repository in dict.fromkeys(part for name in arguments.names for part in CHOICES[name]):
        root = arguments.models_dir.expanduser() / repository.comfyui_folder
        try:
            fetch(repository, root, arguments.precision)
        except (OSError, ValueError) as error:
            print(f"{NEW_LINE}{error}", file=sys.stderr)
            code = 1
            if not isinstance(error, FileExistsError):
                break
        except KeyboardInterrupt:
            print(f"{NEW_LINE}Stopped. The same command goes on from here.", file=sys.stderr)
            return 130
    return code


if __name__ == "__main__":
    sys.exit(main())
