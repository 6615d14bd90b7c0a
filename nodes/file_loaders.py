"""Load one network: the UNet of a decoder, a MoVQ, or the transformer of a prior."""

from typing import Any

from comfy_api.latest import io

from ..utils.comfyui.model_files import find_file, fingerprint, list_files
from ..utils.comfyui.prior_names import find_transformer, list_transformers
from ..utils.comfyui.prior_names import fingerprint as fingerprint_transformer
from .sockets import PRIOR
from .widgets import check_file_name, check_name, weight_dtype_input


class LoadUNet(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Kandinsky22LoadUNet",
            display_name="Load UNet (Kandinsky 2.2)",
            category="Kandinsky 2.2/loaders",
            description="Loads a decoder's UNet from one file, as ModelSave writes it: a merge, "
            "or a fine-tuned decoder. The kind (text to image, inpaint or depth) is detected from "
            "the file.",
            search_aliases=["unet", "diffusion model", "safetensors", "merge", "fine-tune"],
            inputs=[
                io.Combo.Input(
                    "unet_name",
                    options=list(list_files("diffusion_models")),
                    tooltip="A safetensors file under models/diffusion_models.",
                ),
                weight_dtype_input(),
            ],
            outputs=[io.Model.Output(id="model", display_name="model")],
        )

    @classmethod
    def validate_inputs(cls, unet_name: Any) -> bool | str:
        return check_file_name(unet_name, "diffusion_models")

    @classmethod
    def fingerprint_inputs(cls, unet_name: Any, weight_dtype: Any) -> Any:
        return fingerprint(unet_name, "diffusion_models")

    @classmethod
    def execute(cls, unet_name: Any, weight_dtype: Any) -> io.NodeOutput:
        from ..utils.comfyui.load_model import load_unet

        file = find_file(unet_name, "diffusion_models")
        return io.NodeOutput(load_unet(file, weight_dtype))


class LoadMoVQ(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Kandinsky22LoadMoVQ",
            display_name="Load MoVQ (Kandinsky 2.2)",
            category="Kandinsky 2.2/loaders",
            description="Loads a MoVQ (Kandinsky's VAE) from one file, as VAESave writes it. Use "
            "it for a fine-tuned MoVQ, or with Load UNet, which has none.",
            search_aliases=["VQ", "VAE", "load vae", "safetensors", "fine-tune"],
            inputs=[
                io.Combo.Input(
                    "vae_name",
                    options=list(list_files("vae")),
                    tooltip="A safetensors file under models/vae. You do not need this node for "
                    "the published MoVQ: Load Decoder already gives it.",
                ),
            ],
            outputs=[io.Vae.Output(id="vae", display_name="vae")],
        )

    @classmethod
    def validate_inputs(cls, vae_name: Any) -> bool | str:
        return check_file_name(vae_name, "vae")

    @classmethod
    def fingerprint_inputs(cls, vae_name: Any) -> Any:
        return fingerprint(vae_name, "vae")

    @classmethod
    def execute(cls, vae_name: Any) -> io.NodeOutput:
        from ..utils.comfyui.vae import load_vae_file

        return io.NodeOutput(load_vae_file(find_file(vae_name, "vae")))


class LoadPriorTransformer(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Kandinsky22LoadPriorTransformer",
            display_name="Load Prior Transformer (Kandinsky 2.2)",
            category="Kandinsky 2.2/loaders",
            description="Loads the transformer of a prior alone: a fine-tuned one, or one to use "
            "with the CLIP of SDXL. Its encoders come from another prior, or from CLIP and CLIP "
            "Vision.",
            search_aliases=["unCLIP", "diffusion model", "fine-tune", "SDXL CLIP", "bigG"],
            inputs=[
                io.Combo.Input(
                    "prior_name",
                    options=list_transformers(),
                    tooltip="A safetensors file under models/diffusion_models, or a folder under "
                    "models/diffusers that has a prior's transformer.",
                ),
                weight_dtype_input(),
                PRIOR.input(
                    "prior",
                    optional=True,
                    tooltip="The prior whose encoders and scheduler are used. Not needed if clip "
                    "is connected.",
                ),
                io.Clip.Input(
                    "clip",
                    optional=True,
                    tooltip="SDXL's CLIP, or its clip_g alone, in place of the prior's text "
                    "encoder. Prompts are plain text: no (weights:1.2).",
                ),
                io.ClipVision.Input(
                    "clip_vision",
                    optional=True,
                    tooltip="CLIP ViT-bigG/14, in place of the prior's image encoder: for "
                    "pictures, and for an empty negative prompt.",
                ),
            ],
            outputs=[PRIOR.output("prior")],
        )

    @classmethod
    def validate_inputs(cls, prior_name: Any) -> bool | str:
        return check_name(prior_name, lambda: find_transformer(prior_name))

    @classmethod
    def fingerprint_inputs(cls, prior_name: Any, **_: Any) -> Any:
        return fingerprint_transformer(prior_name)

    @classmethod
    def execute(
        cls,
        prior_name: Any,
        weight_dtype: Any,
        prior: Any = None,
        clip: Any = None,
        clip_vision: Any = None,
    ) -> io.NodeOutput:
        from ..utils.comfyui.prior_transformers import load_transformer

        source = find_transformer(prior_name)
        lender = None if prior is None else PRIOR.take(prior)
        return io.NodeOutput(load_transformer(source, weight_dtype, lender, clip, clip_vision))
