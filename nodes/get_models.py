"""Download the published models."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import folder_paths
from comfy_api.latest import io, ui

from ..utils.comfyui.progress import step_reporter
from ..utils.download.background import download
from ..utils.download.folder import PRECISIONS
from ..utils.download.progress import Progress
from ..utils.download.repositories import CHOICES, REPOSITORIES, Repository
from ..utils.kandinsky.checks import check_choice
from .widgets import write_on

ENCODERS = ("clip_vision", "text_encoders")  # users may have CLIP's encoders there already


def show_on(node_id: str, name: str, earlier: list[str]) -> Callable[[Progress], None]:
    """Return a function that shows a download on its node, and stops it if the user asked for that.

    Args:
        earlier: lines that stay above it on the node.
    """
    report = step_reporter(1)

    def show(progress: Progress) -> None:
        write_on(node_id, "\n".join([*earlier, f"{name}: {progress}"]))
        # The first argument is the index of the finished part.
        report(progress.done - 1, max(1, progress.total))

    return show


def get(repository: Repository, precision: str, show: Callable[[Progress], None]) -> str:
    """Download one model into ComfyUI's folder for it. Return a message for the user."""
    roots = [Path(root) for root in folder_paths.get_folder_paths(repository.comfyui_folder)]
    # A link that leads to nothing counts, too, because its disk may be away.
    root = next((root for root in roots if os.path.lexists(root / repository.name)), roots[0])
    elsewhere = [Path(f) for kind in ENCODERS for f in folder_paths.get_folder_paths(kind)]
    text = download(repository, root, precision, show, elsewhere)
    from ..utils.files.previews import fit_missing_preview

    fit_missing_preview(root / repository.name)
    return text


def get_all(repositories: list[Repository], precision: str, node_id: str) -> str:
    """Download each of them. Return a message for the user.

    If the folder of one exists but differs from what is published, the others are still downloaded.

    Raises:
        OSError, ValueError: a download failed. The message begins with the lines about earlier
            ones.
    """
    texts: list[str] = []
    error = None
    for repository in repositories:
        try:
            texts.append(get(repository, precision, show_on(node_id, repository.name, texts)))
        except FileExistsError as found:
            error = found
            texts.append(str(found))
        except (OSError, ValueError) as failed:
            kind = OSError if isinstance(failed, OSError) else ValueError
            raise kind("\n".join([*texts, str(failed)])) from failed
    if error:
        raise FileExistsError("\n".join(texts)) from error
    return "\n".join(texts)


class GetModels(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        sizes = ", ".join(f"{r.id} {r.gigabytes} GB" for r in REPOSITORIES.values())
        return io.Schema(
            node_id="Kandinsky22GetModels",
            display_name="Get Models (Kandinsky 2.2)",
            category="Kandinsky 2.2/loaders",
            description="Downloads published models from the Hugging Face Hub into the models "
            "folder, and checks them. If the download stops, press Download again: it continues. "
            "Files that are there already stay as they are.",
            search_aliases=["download", "hugging face", "hub", "fetch", "weights", "checkpoint"],
            is_output_node=True,
            hidden=[io.Hidden.unique_id],
            inputs=[
                io.Combo.Input(
                    "repository",
                    options=list(CHOICES),
                    tooltip="What to download. text-to-image: prior and decoder, 16 GB; enough "
                    "for image to image and mixing, too. inpaint and depth-controlnet: the prior "
                    "and their own decoder. “without the image encoder” saves 3.7 GB: choose it "
                    "only if you always write a negative prompt and never use Encode Image. Or "
                    f"choose one repository: {sizes}. If a file in models/clip_vision or "
                    "models/text_encoders is identical to a published one, it is linked or copied "
                    "and not downloaded again.",
                ),
                io.Combo.Input(
                    "precision",
                    options=list(PRECISIONS),
                    default="fp16",
                    tooltip="fp16: fp32 weights are stored in half the size, as most GPUs use "
                    "them. fp32: weights are stored as published. If you change this during a "
                    "download, it begins again.",
                ),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, repository: Any, precision: Any) -> float:
        return float("nan")  # never equal, so that the node looks at the disk each time

    @classmethod
    def execute(cls, repository: Any, precision: Any) -> io.NodeOutput:
        check_choice("repository", repository, CHOICES)
        check_choice("precision", precision, PRECISIONS)
        node_id = cls.hidden.unique_id
        text = get_all(CHOICES[repository], precision, node_id)
        write_on(node_id, text)
        return io.NodeOutput(ui=ui.PreviewText(text))
