"""Bundled pictures and training sets, so that shared graphs run on any computer."""

from typing import Any

from comfy_api.latest import io

from ..utils.files.pictures import dataset_names, load_dataset, load_picture, picture_names


class ExamplePicture(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Kandinsky22ExamplePicture",
            display_name="Example Picture (Kandinsky 2.2)",
            category="Kandinsky 2.2/loaders",
            description="Gives a bundled picture and its mask, so that a workflow runs on any "
            "computer. Replace it with Load Image to use a picture of your own.",
            search_aliases=["sample image", "test image", "demo image", "placeholder"],
            inputs=[
                io.Combo.Input(
                    "picture",
                    options=picture_names(),
                    default="red square.png",
                    tooltip="The bundled model knows shapes like these. The mountain lake is for "
                    "the published models. Where a picture is transparent, its mask is white.",
                )
            ],
            outputs=[
                io.Image.Output(id="image", display_name="image"),
                io.Mask.Output(id="mask", display_name="mask"),
            ],
        )

    @classmethod
    def execute(cls, picture: Any) -> io.NodeOutput:
        return io.NodeOutput(*load_picture(picture))


class ExampleDataset(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Kandinsky22ExampleDataset",
            display_name="Example Dataset (Kandinsky 2.2)",
            category="Kandinsky 2.2/loaders",
            description="Gives bundled pictures and their captions to train a LoRA on. Replace it "
            "with Load Image-Text (from Folder) to use pictures of your own.",
            search_aliases=["training images", "captions", "training data", "train lora"],
            inputs=[
                io.Combo.Input(
                    "dataset",
                    options=dataset_names(),
                    tooltip="Eight shapes on dark violet, for the bundled model. Their captions "
                    "name other colours for the background on purpose: the trained LoRA then "
                    "mostly draws dark violet, even where a prompt says white, green or black.",
                )
            ],
            outputs=[
                io.Image.Output(id="images", display_name="images", is_output_list=True),
                io.String.Output(id="texts", display_name="texts", is_output_list=True),
            ],
        )

    @classmethod
    def execute(cls, dataset: Any) -> io.NodeOutput:
        return io.NodeOutput(*load_dataset(dataset))
