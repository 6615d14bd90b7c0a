"""Load a model folder: a prior, a decoder with its MoVQ, a depth estimator."""

from typing import Any

from comfy_api.latest import io

from ..utils.comfyui.model_folders import find_model, fingerprint, list_models
from .sockets import DEPTH_ESTIMATOR, PRIOR
from .widgets import NAMES_OF_THE_MODEL, check_model_name, weight_dtype_input


class LoadPrior(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Kandinsky22LoadPrior",
            display_name="Load Prior (Kandinsky 2.2)",
            category="Kandinsky 2.2/loaders",
            description="Loads a prior, which turns text and pictures into image embeddings.",
            search_aliases=[
                *("unCLIP", "CLIP", "text encoder", "image encoder", "load diffusers"),
                *NAMES_OF_THE_MODEL,
            ],
            inputs=[
                io.Combo.Input(
                    "model_name",
                    options=list_models("prior"),
                    tooltip="A diffusers folder under models/diffusers or in the Hugging Face "
                    "cache, or the bundled model.",
                ),
                weight_dtype_input(),
            ],
            outputs=[PRIOR.output("prior")],
        )

    @classmethod
    def validate_inputs(cls, model_name: Any) -> bool | str:
        return check_model_name(model_name, "prior")

    @classmethod
    def fingerprint_inputs(cls, model_name: Any, weight_dtype: Any) -> Any:
        return fingerprint(model_name, "prior")

    @classmethod
    def execute(cls, model_name: Any, weight_dtype: Any) -> io.NodeOutput:
        from ..utils.comfyui.load_prior import load_prior

        return io.NodeOutput(load_prior(find_model(model_name, "prior"), weight_dtype))


class LoadDecoder(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Kandinsky22LoadDecoder",
            display_name="Load Decoder (Kandinsky 2.2)",
            category="Kandinsky 2.2/loaders",
            description="Loads a decoder folder: its UNet as a MODEL and its MoVQ as a VAE. The "
            "MODEL works in Decoder, Img2Img, Inpaint and the ControlNet nodes, and in KSampler.",
            search_aliases=[
                *("unet", "MoVQ", "VQ", "vae", "inpaint", "controlnet", "depth", "load diffusers"),
                *NAMES_OF_THE_MODEL,
            ],
            inputs=[
                io.Combo.Input(
                    "model_name",
                    options=list_models("decoder"),
                    tooltip="A diffusers folder under models/diffusers or in the Hugging Face "
                    "cache, or the bundled model. Inpaint and ControlNet need their own decoders.",
                ),
                weight_dtype_input(),
            ],
            outputs=[
                io.Model.Output(id="model", display_name="model"),
                io.Vae.Output(id="vae", display_name="vae"),
            ],
        )

    @classmethod
    def validate_inputs(cls, model_name: Any) -> bool | str:
        return check_model_name(model_name, "decoder")

    @classmethod
    def fingerprint_inputs(cls, model_name: Any, weight_dtype: Any) -> Any:
        return fingerprint(model_name, "decoder")

    @classmethod
    def execute(cls, model_name: Any, weight_dtype: Any) -> io.NodeOutput:
        from ..utils.comfyui.load_model import load_model
        from ..utils.comfyui.vae import load_vae

        folder = find_model(model_name, "decoder")
        return io.NodeOutput(load_model(folder, weight_dtype), load_vae(folder))


class LoadDepthEstimator(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Kandinsky22LoadDepthEstimator",
            display_name="Load Depth Estimator (Kandinsky 2.2)",
            category="Kandinsky 2.2/loaders",
            description="Loads a model that estimates the depth in a picture: DPT, Depth "
            "Anything, GLPN and others of transformers.",
            search_aliases=["depth anything", "DPT", "MiDaS", "GLPN", "depth map", "controlnet"],
            inputs=[
                io.Combo.Input(
                    "model_name",
                    options=list_models("depth"),
                    tooltip="A transformers folder under models/depth_estimators or "
                    "models/diffusers or in the Hugging Face cache, or the bundled estimator.",
                ),
            ],
            outputs=[DEPTH_ESTIMATOR.output("depth_estimator")],
        )

    @classmethod
    def validate_inputs(cls, model_name: Any) -> bool | str:
        return check_model_name(model_name, "depth")

    @classmethod
    def fingerprint_inputs(cls, model_name: Any) -> Any:
        return fingerprint(model_name, "depth")

    @classmethod
    def execute(cls, model_name: Any) -> io.NodeOutput:
        from ..utils.comfyui.depth_estimator import LoadedDepthEstimator

        return io.NodeOutput(LoadedDepthEstimator(find_model(model_name, "depth")))
