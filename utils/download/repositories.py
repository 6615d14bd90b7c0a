"""The published repositories for this pack, and the folders of ComfyUI for such models."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any

WANTED = (".safetensors", ".json", ".txt")  # weights, configs, vocabularies
VARIANT = re.compile(r"\.(fp16|bf16|non_ema)[.-]")  # the same weights in another variant
RECORD = "download.json"  # in every folder made here: its repository, and the size of each file
LONGEST_NAME = 250  # bytes; disks take 255, and a file that is being downloaded has 5 more
MOST_SHOWN = 20  # names in a message


@dataclass(frozen=True)
class Repository:
    """A repository of the hub at one commit. Its folder here has the repository's name."""

    id: str
    commit: str
    gigabytes: float  # to download
    loader: str
    comfyui_folder: str = "diffusers"
    marker: str = "model_index.json"  # the file that marks a folder as a model
    left_out: tuple[str, ...] = ()  # folders in it that are not downloaded

    @property
    def name(self) -> str:
        return self.id.split("/")[1]

    def wanted(self, paths: Iterable[str]) -> list[str]:
        """Return which of a repository's files to download: no pickles, variants or pictures.

        Raises:
            ValueError: a name leads out of the folder, no disk takes it, or there are no
                safetensors.
        """
        depth = 2 if self.comfyui_folder == "diffusers" else 1  # a pipeline's parts have folders
        chosen: list[str] = []
        for path in paths:
            parts = PurePosixPath(path).parts
            if fault := fault_of_name(path):
                raise ValueError(
                    f"{self.id} lists a file {path!r:.300}, which {fault}. Nothing was fetched. "
                    "Check HF_ENDPOINT: this is not the repository that was published."
                )
            if path.endswith(WANTED) and not VARIANT.search(parts[-1]) and path != RECORD:
                taken = len(parts) == depth and parts[0] not in self.left_out
                if taken or path == self.marker:
                    chosen.append(path)
        both = {PurePosixPath(path).parts[0] for path in chosen if "/" in path} & {*chosen}
        if self.marker not in chosen or not any(path.endswith(WANTED[0]) for path in chosen):
            found = list(paths)
            names = ", ".join(found[:MOST_SHOWN]) + (", …" if len(found) > MOST_SHOWN else "")
            raise ValueError(
                f"{self.id} at {self.commit} has no {self.marker} or no safetensors; pickles "
                f"are not fetched. It has: {names or 'nothing'}. Check HF_ENDPOINT."
            )
        if both:
            raise ValueError(
                f"{self.id} lists {min(both)} as a file and as a folder. Nothing was fetched. "
                "Check HF_ENDPOINT: this is not the repository that was published."
            )
        return chosen


def fault_of_name(path: str) -> str:
    """Return why a file of that name cannot be written in a folder, or an empty text."""
    parts = PurePosixPath(path).parts
    if path.startswith("/") or ".." in parts or re.search(r"[\\:]", path):
        return "leads out of its folder"
    if not path.isprintable() or PurePosixPath(path).as_posix() != path:
        return "is no name that a disk takes"
    if any(len(part.encode()) > LONGEST_NAME for part in parts):
        return f"has a name of more than {LONGEST_NAME} bytes"
    return ""


LEFT_OUT = ("image_encoder",)  # without it, a prior works with a negative prompt
DECODERS = "Load Decoder"
DEPTH: dict[str, Any] = dict(
    loader="Load Depth Estimator", comfyui_folder="depth_estimators", marker="config.json"
)
# The commits are those on which other projects' lock files and caches agree. That of dpt-large is
# the one that transformers pins for its depth-estimation pipeline. That of controlnet-depth is the
# head of refs/pr/5, because main has only pickles, and only one project names it. None was looked
# up on the hub itself.
REPOSITORIES = {
    repository.name: repository
    for repository in (
        Repository(
            "kandinsky-community/kandinsky-2-2-prior",
            "9fc51ad5732afc5d031724219d22e6c42179c5a8",
            10.6,
            "Load Prior",
        ),
        Repository(
            "kandinsky-community/kandinsky-2-2-decoder",
            "9ae140d347fed8ce6e8bb3005dcc1f48543bb8e3",
            5.3,
            DECODERS,
        ),
        Repository(
            "kandinsky-community/kandinsky-2-2-decoder-inpaint",
            "db790ad5cbcabed886f069ef2710774657621702",
            5.3,
            DECODERS,
        ),
        Repository(
            "kandinsky-community/kandinsky-2-2-controlnet-depth",
            "08632524a2b7e3bed39a7901d92cdd07e37544d0",
            5.3,
            DECODERS,
        ),
        Repository(
            "depth-anything/Depth-Anything-V2-Small-hf",
            "5426e4f0f36572d16453bbda7a8389317b1bef99",
            0.1,
            **DEPTH,
        ),
        Repository("Intel/dpt-large", "bc15f29aa3a80d532f2ed650b5e16ac48d8958f9", 1.4, **DEPTH),
    )
}
PRIOR, DECODER, INPAINT, CONTROLNET, DEPTH_ANYTHING, _ = REPOSITORIES.values()
SMALL_PRIOR = replace(PRIOR, gigabytes=6.9, left_out=LEFT_OUT)
# All that a kind of workflow needs, by one name. Get Models has the first as its default.
SETS = {
    "text-to-image": [PRIOR, DECODER],
    "text-to-image without the image encoder": [SMALL_PRIOR, DECODER],
    "inpaint": [PRIOR, INPAINT],
    "depth-controlnet": [PRIOR, CONTROLNET, DEPTH_ANYTHING],
}
CHOICES = SETS | {name: [repository] for name, repository in REPOSITORIES.items()}
