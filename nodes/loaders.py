"""Loading: a folder on disk → PRIOR, or MODEL and VAE."""

from comfy_api.latest import io

from ..utils.comfyui import model_folders
from ..utils.comfyui.depth_estimator import NativeDepthEstimator
from ..utils.comfyui.load_model import load_model, load_unet
from ..utils.comfyui.prior import NativePrior
from ..utils.comfyui.residency import WEIGHT_DTYPES
from ..utils.comfyui.vae import load_vae, load_vae_file
from . import types
from .widgets import check_name


def weight_dtype_input() -> io.Input:
    return io.Combo.Input(
        "weight_dtype",
        options=list(WEIGHT_DTYPES),
        default="default",
        advanced=True,
        tooltip="The type weights are kept in. default: what the device computes well in "
        "(fp32 on a CPU, usually fp16 on a GPU).",
    )


class LoadPrior(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Kandinsky22LoadPrior",
            display_name="Load Prior (Kandinsky 2.2)",
            category="Kandinsky 2.2/loaders",
            description="Loads a prior: what turns text and pictures into image embeddings.",
            search_aliases=["unCLIP", "CLIP", "text encoder", "image encoder", "load diffusers"],
            inputs=[
                io.Combo.Input(
                    "model_name",
                    options=model_folders.list_models("prior"),
                    tooltip="A diffusers folder under models/diffusers, or the bundled miniature.",
                ),
                weight_dtype_input(),
            ],
            outputs=[types.Prior.Output(id="prior", display_name="prior")],
        )

    @classmethod
    def validate_inputs(cls, model_name) -> bool | str:
        return check_name(model_name, "prior")

    @classmethod
    def fingerprint_inputs(cls, model_name, weight_dtype):
        return model_folders.fingerprint(model_name, "prior")

    @classmethod
    def execute(cls, model_name, weight_dtype) -> io.NodeOutput:
        return io.NodeOutput(NativePrior(model_name, weight_dtype))


class LoadDecoder(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Kandinsky22LoadDecoder",
            display_name="Load Decoder / Inpaint / ControlNet (Kandinsky 2.2)",
            category="Kandinsky 2.2/loaders",
            description="Loads a decoder folder: its UNet as a MODEL and its MoVQ as a VAE. The "
            "MODEL works in the stage nodes of this pack and in KSampler.",
            search_aliases=["unet", "MoVQ", "VQ", "vae", "controlnet", "depth", "load diffusers"],
            inputs=[
                io.Combo.Input(
                    "model_name",
                    options=model_folders.list_models("decoder"),
                    tooltip="A diffusers folder under models/diffusers, or the bundled miniature. "
                    "Inpaint and ControlNet need their own decoders.",
                ),
                weight_dtype_input(),
            ],
            outputs=[
                io.Model.Output(id="model", display_name="model"),
                io.Vae.Output(id="vae", display_name="vae"),
            ],
        )

    @classmethod
    def validate_inputs(cls, model_name) -> bool | str:
        return check_name(model_name, "decoder")

    @classmethod
    def fingerprint_inputs(cls, model_name, weight_dtype):
        return model_folders.fingerprint(model_name, "decoder")

    @classmethod
    def execute(cls, model_name, weight_dtype) -> io.NodeOutput:
        folder = model_folders.find_model(model_name, "decoder")
        return io.NodeOutput(load_model(folder, weight_dtype), load_vae(folder))


class LoadUNet(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Kandinsky22LoadUNet",
            display_name="Load UNet (Kandinsky 2.2)",
            category="Kandinsky 2.2/loaders",
            description="Loads a decoder's UNet from one file, as ModelSave writes it: a merge, or "
            "a fine-tuned decoder. Which of the three kinds it is, its tensors tell.",
            search_aliases=["unet", "diffusion model", "safetensors", "merge", "fine-tune"],
            inputs=[
                io.Combo.Input(
                    "unet_name",
                    options=list(model_folders.list_files("diffusion_models")),
                    tooltip="A safetensors file under models/diffusion_models.",
                ),
                weight_dtype_input(),
            ],
            outputs=[io.Model.Output(id="model", display_name="model")],
        )

    @classmethod
    def validate_inputs(cls, unet_name) -> bool | str:
        return check_name(unet_name, "diffusion_models", model_folders.find_file)

    @classmethod
    def fingerprint_inputs(cls, unet_name, weight_dtype):
        return model_folders.file_fingerprint(unet_name, "diffusion_models")

    @classmethod
    def execute(cls, unet_name, weight_dtype) -> io.NodeOutput:
        file = model_folders.find_file(unet_name, "diffusion_models")
        return io.NodeOutput(load_unet(file, weight_dtype))


class LoadDepthEstimator(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Kandinsky22LoadDepthEstimator",
            display_name="Load Depth Estimator (Kandinsky 2.2)",
            category="Kandinsky 2.2/loaders",
            description="Loads a model that sees depth in a picture: DPT, Depth Anything, GLPN, … "
            "from transformers.",
            search_aliases=["depth anything", "DPT", "MiDaS", "GLPN", "depth map", "controlnet"],
            inputs=[
                io.Combo.Input(
                    "model_name",
                    options=model_folders.list_models("depth"),
                    tooltip="A transformers folder under models/depth_estimators, or the bundled "
                    "miniature.",
                ),
            ],
            outputs=[
                types.DepthEstimator.Output(id="depth_estimator", display_name="depth_estimator")
            ],
        )

    @classmethod
    def validate_inputs(cls, model_name) -> bool | str:
        return check_name(model_name, "depth")

    @classmethod
    def fingerprint_inputs(cls, model_name):
        return model_folders.fingerprint(model_name, "depth")

    @classmethod
    def execute(cls, model_name) -> io.NodeOutput:
        return io.NodeOutput(NativeDepthEstimator(model_name))


class LoadMoVQ(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Kandinsky22LoadMoVQ",
            display_name="Load MoVQ (Kandinsky 2.2)",
            category="Kandinsky 2.2/loaders",
            description="Loads a MoVQ from one file, as VAESave writes it: to use it with another "
            "decoder, or a fine-tuned one.",
            search_aliases=["VQ", "VAE", "load vae", "safetensors", "fine-tune"],
            inputs=[
                io.Combo.Input(
                    "vae_name",
                    options=list(model_folders.list_files("vae")),
                    tooltip="A safetensors file under models/vae. Load Decoder brings its own MoVQ "
                    "along; this is for another.",
                ),
            ],
            outputs=[io.Vae.Output(id="vae", display_name="vae")],
        )

    @classmethod
    def validate_inputs(cls, vae_name) -> bool | str:
        return check_name(vae_name, "vae", model_folders.find_file)

    @classmethod
    def fingerprint_inputs(cls, vae_name):
        return model_folders.file_fingerprint(vae_name, "vae")

    @classmethod
    def execute(cls, vae_name) -> io.NodeOutput:
        return io.NodeOutput(load_vae_file(model_folders.find_file(vae_name, "vae")))
