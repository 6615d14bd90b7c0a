"""Loading: a folder on disk → PRIOR, or MODEL and VAE."""

from comfy_api.latest import io

from ..utils import checkpoints
from ..utils.native_depth import NativeDepthEstimator
from ..utils.native_model import load_model
from ..utils.native_prior import NativePrior
from ..utils.native_vae import load_vae
from ..utils.residency import WEIGHT_DTYPES
from . import types


def weight_dtype_input() -> io.Input:
    return io.Combo.Input(
        "weight_dtype",
        options=list(WEIGHT_DTYPES),
        default="default",
        advanced=True,
        tooltip="The type weights are kept in. default: what the device computes well in "
        "(fp32 on a CPU, usually fp16 on a GPU).",
    )


def check_model_name(model_name: str, kind: str) -> bool | str:
    """What the host asks before it queues: True, or the message it shows on the node."""
    if model_name is None:  # it comes over a wire, and is known when the graph runs
        return True
    try:
        checkpoints.find_model(model_name, kind)
    except (FileNotFoundError, ValueError) as error:
        return str(error)
    return True


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
                    options=checkpoints.list_models("prior"),
                    tooltip="A diffusers folder under models/diffusers, or the bundled miniature.",
                ),
                weight_dtype_input(),
            ],
            outputs=[types.Prior.Output(id="prior", display_name="prior")],
        )

    @classmethod
    def validate_inputs(cls, model_name) -> bool | str:
        return check_model_name(model_name, "prior")

    @classmethod
    def fingerprint_inputs(cls, model_name, weight_dtype):
        return checkpoints.fingerprint(model_name, "prior")

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
                    options=checkpoints.list_models("decoder"),
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
        return check_model_name(model_name, "decoder")

    @classmethod
    def fingerprint_inputs(cls, model_name, weight_dtype):
        return checkpoints.fingerprint(model_name, "decoder")

    @classmethod
    def execute(cls, model_name, weight_dtype) -> io.NodeOutput:
        folder = checkpoints.find_model(model_name, "decoder")
        return io.NodeOutput(load_model(folder, weight_dtype), load_vae(folder))


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
                    options=checkpoints.list_models("depth"),
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
        return check_model_name(model_name, "depth")

    @classmethod
    def fingerprint_inputs(cls, model_name):
        return checkpoints.fingerprint(model_name, "depth")

    @classmethod
    def execute(cls, model_name) -> io.NodeOutput:
        return io.NodeOutput(NativeDepthEstimator(model_name))
