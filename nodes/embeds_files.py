"""Save image embeddings to files, and load them."""

import os
from pathlib import Path
from typing import Any

import folder_paths
from comfy_api.latest import io

from ..utils.files.embeds import load_embeds, save_embeds
from ..utils.kandinsky.checks import check_texts
from ..utils.kandinsky.image_embeds import ImageEmbeds
from .sockets import EMBEDS


def save_as(prefix: str, embeds: ImageEmbeds) -> dict[str, str]:
    """Save embeddings to a new file of the output folder.

    Return what ComfyUI needs to know of it.
    """
    check_texts(filename_prefix=prefix)
    output = folder_paths.get_output_directory()
    try:
        folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(prefix, output)
        file = f"{name}_{counter:05}_.safetensors"
        save_embeds(embeds, Path(folder) / file)
    except (OSError, ValueError) as error:
        raise OSError(
            f"Nothing is saved under {prefix!r:.80} in {output}: {error}. Choose another "
            "filename_prefix, or make room there."
        ) from error
    return {"filename": file, "subfolder": subfolder, "type": "output"}


class SaveEmbeds(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Kandinsky22SaveEmbeds",
            display_name="Save Embeds (Kandinsky 2.2)",
            category="Kandinsky 2.2/embeds",
            description="Saves image embeddings to a safetensors file in the output folder.",
            search_aliases=["export", "store", "file"],
            is_output_node=True,
            inputs=[
                EMBEDS.input("image_embeds"),
                io.String.Input(
                    "filename_prefix",
                    default="embeds/kandinsky22",
                    tooltip="The file's name under the output folder. It may begin with folders.",
                ),
            ],
        )

    @classmethod
    def execute(cls, image_embeds: Any, filename_prefix: Any) -> io.NodeOutput:
        saved = save_as(filename_prefix, EMBEDS.take(image_embeds))
        return io.NodeOutput(ui={"embeds": [saved]})


def input_files() -> list[str]:
    """Return the files that can be chosen, by portable names.

    Unreadable folders are skipped, and links to folders are not followed, because ComfyUI calls
    this whenever it lists its nodes.
    """
    root = folder_paths.get_input_directory()
    files = [os.path.join(folder, name) for folder, _, names in os.walk(root) for name in names]
    found = [file for file in files if file.endswith(".safetensors") and os.path.isfile(file)]
    return sorted(Path(file).relative_to(root).as_posix() for file in found)


def input_file(name: str) -> Path | None:
    """Return a file of the input folder, or None.

    With " [output]" after its name, it is in another of ComfyUI's folders. The oldest ComfyUI does
    not check whether a name leaves its folder.
    """
    name, folder = folder_paths.annotated_filepath(str(name))
    root = os.path.abspath(folder or folder_paths.get_input_directory())
    path = Path(os.path.abspath(os.path.join(root, name)))
    return path if path.is_relative_to(root) and os.path.isfile(path) else None


def missing(name: str) -> str:
    return (
        f"There is no file {name!r} in the input folder. Move what Save Embeds wrote there, then "
        "press R in ComfyUI."
    )


class LoadEmbeds(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Kandinsky22LoadEmbeds",
            display_name="Load Embeds (Kandinsky 2.2)",
            category="Kandinsky 2.2/embeds",
            description="Loads image embeddings from a file in the input folder. Save Embeds "
            "writes such files; any safetensors file with one tensor (batch, width) works, too.",
            search_aliases=["import", "open", "file"],
            inputs=[
                io.Combo.Input(
                    "file",
                    options=input_files(),
                    tooltip="A file in the input folder. Through the API it may also be one in "
                    "the output folder, with ' [output]' after its name.",
                )
            ],
            outputs=[EMBEDS.output("image_embeds")],
        )

    @classmethod
    def validate_inputs(cls, file: Any) -> bool | str:
        return file is None or bool(input_file(file)) or missing(file)

    @classmethod
    def fingerprint_inputs(cls, file: Any) -> int | None:
        path = input_file(file)
        return path.stat().st_mtime_ns if path else None

    @classmethod
    def execute(cls, file: Any) -> io.NodeOutput:
        path = input_file(file)
        if path is None:
            raise FileNotFoundError(missing(file))
        return io.NodeOutput(load_embeds(path))
