"""The nodes, in the order of the data flow: prompt → prior → embeddings → decoder → latents."""

import folder_paths
from comfy_api.latest import ComfyExtension, io

from .conditioning import Conditioning, DepthConditioning, InpaintConditioning
from .controlnet import ControlNet, ControlNetImg2Img
from .decoder import Decoder
from .depth_hint import DepthHint
from .embeds import EmbedsFromClipVision, EmbedsToClipVision, EncodeImage, ZeroEmbeds
from .embeds_files import LoadEmbeds, SaveEmbeds
from .example_picture import ExampleDataset, ExamplePicture
from .file_loaders import LoadMoVQ, LoadPriorTransformer, LoadUNet
from .get_models import GetModels
from .img2img import Img2Img
from .inpaint import Inpaint
from .interpolate import Interpolate, InterpolateSequence
from .loaders import LoadDecoder, LoadDepthEstimator, LoadPrior
from .lora import LoadDecoderLora, LoadPriorLora
from .optimize import Optimize
from .paste_back import PasteBack
from .prior import PriorEmb2Emb, SamplePrior

NODES: list[type[io.ComfyNode]] = [
    LoadPrior,
    LoadPriorTransformer,
    LoadDecoder,
    LoadUNet,
    LoadMoVQ,
    LoadDepthEstimator,
    LoadDecoderLora,
    LoadPriorLora,
    SamplePrior,
    PriorEmb2Emb,
    EncodeImage,
    ZeroEmbeds,
    EmbedsFromClipVision,
    EmbedsToClipVision,
    Interpolate,
    InterpolateSequence,
    SaveEmbeds,
    LoadEmbeds,
    DepthHint,
    Optimize,
    Decoder,
    Img2Img,
    Inpaint,
    ControlNet,
    ControlNetImg2Img,
    PasteBack,
    Conditioning,
    DepthConditioning,
    InpaintConditioning,
    GetModels,
    ExamplePicture,
    ExampleDataset,
]


class Kandinsky22Extension(ComfyExtension):
    async def on_load(self) -> None:
        # ComfyUI has no folder for depth estimators. extra_model_paths.yaml may name more folders.
        folder_paths.add_model_folder_path(
            "depth_estimators", f"{folder_paths.models_dir}/depth_estimators"
        )

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return NODES
