"""The nodes' ids, inputs, outputs and defaults are those that workflow files rely on."""

import asyncio
import inspect

import pytest
from comfy_api.latest import io
from kandinsky22.nodes import NODES, Kandinsky22Extension
from kandinsky22.nodes.get_models import GetModels

# Frozen: id → (input ids, output ids). Workflow files and scripts name these.
SAMPLING = ("seed", "steps", "cfg", "sampler_name", "scheduler")
POSITIVE_NEGATIVE = ("image_embeds", "negative_image_embeds")
CONTRACT = {
    "LoadPrior": (("model_name", "weight_dtype"), ("prior",)),
    "LoadPriorTransformer": (
        ("prior_name", "weight_dtype", "prior", "clip", "clip_vision"),
        ("prior",),
    ),
    "LoadDecoder": (("model_name", "weight_dtype"), ("model", "vae")),
    "LoadUNet": (("unet_name", "weight_dtype"), ("model",)),
    "LoadMoVQ": (("vae_name",), ("vae",)),
    "LoadDepthEstimator": (("model_name",), ("depth_estimator",)),
    "GetModels": (("repository", "precision"), ()),
    "ExamplePicture": (("picture",), ("image", "mask")),
    "ExampleDataset": (("dataset",), ("images", "texts")),
    "LoadDecoderLora": (("model", "lora_name", "strength"), ("model",)),
    "LoadPriorLora": (("prior", "lora_name", "strength"), ("prior",)),
    "Prior": (
        ("prior", "prompt", "negative_prompt", "seed", "steps", "cfg", "batch_size"),
        POSITIVE_NEGATIVE,
    ),
    "PriorEmb2Emb": (
        ("prior", "image_embeds", "prompt", "negative_prompt", "strength", "seed", "steps", "cfg"),
        POSITIVE_NEGATIVE,
    ),
    "EncodeImage": (("prior", "image"), ("image_embeds",)),
    "ZeroEmbeds": (("prior",), ("image_embeds",)),
    "EmbedsFromClipVision": (("clip_vision_output",), ("image_embeds",)),
    "EmbedsToClipVision": (("image_embeds",), ("clip_vision_output",)),
    "Interpolate": (("count", "method"), ("image_embeds",)),
    "InterpolateSequence": (("start_embeds", "end_embeds", "frames", "method"), ("image_embeds",)),
    "SaveEmbeds": (("image_embeds", "filename_prefix"), ()),
    "LoadEmbeds": (("file",), ("image_embeds",)),
    "DepthHint": (("depth_estimator", "image"), ("hint",)),
    "Decoder": (("model", *POSITIVE_NEGATIVE, "latent", *SAMPLING), ("latent",)),
    "Img2Img": (("model", *POSITIVE_NEGATIVE, "latent", *SAMPLING, "denoise"), ("latent",)),
    "Inpaint": (("model", *POSITIVE_NEGATIVE, "latent", "mask", *SAMPLING), ("latent",)),
    "ControlNet": (("model", *POSITIVE_NEGATIVE, "latent", "hint", *SAMPLING), ("latent",)),
    "ControlNetImg2Img": (
        ("model", *POSITIVE_NEGATIVE, "latent", "hint", *SAMPLING, "denoise"),
        ("latent",),
    ),
    "PasteBack": (("original", "repainted", "mask", "feather"), ("image",)),
    "Optimize": (("model", "attention", "channels_last"), ("model",)),
    "Conditioning": (("image_embeds",), ("conditioning",)),
    "DepthConditioning": (("positive", "negative", "hint"), ("positive", "negative")),
    "InpaintConditioning": (
        ("positive", "negative", "latent", "mask"),
        ("positive", "negative", "latent"),
    ),
}
DEFAULTS = {
    "Prior": dict(negative_prompt="", steps=25, cfg=4.0, batch_size=1),
    "PriorEmb2Emb": dict(negative_prompt="", strength=0.3, steps=25, cfg=4.0),
    "Decoder": dict(steps=50, cfg=4.0, sampler_name="ddpm", scheduler="checkpoint"),
    "Img2Img": dict(denoise=0.3),
    "ControlNetImg2Img": dict(denoise=0.5),
    "PasteBack": dict(feather=0),
    "Interpolate": dict(method="linear"),
    "InterpolateSequence": dict(frames=8, method="slerp"),
    "LoadPrior": dict(weight_dtype="default"),
    "LoadPriorTransformer": dict(weight_dtype="default"),
    "LoadUNet": dict(weight_dtype="default"),
    "Optimize": dict(attention="sdpa", channels_last=False),
    "GetModels": dict(precision="fp16"),
    "ExamplePicture": dict(picture="red square.png"),
    "LoadDecoderLora": dict(strength=1.0),
    "LoadPriorLora": dict(strength=1.0),
}


@pytest.fixture(autouse=True)
def folders(models):
    """Loaders list the content of ComfyUI's folders."""


def schema_of(node) -> io.Schema:
    schema = node.define_schema()
    schema.validate()
    return schema


each_node = pytest.mark.parametrize("node", NODES, ids=lambda node: node.__name__)


def test_the_contract():
    found = {}
    for node in NODES:
        schema = schema_of(node)
        name = schema.node_id.removeprefix("Kandinsky22")
        found[name] = (tuple(i.id for i in schema.inputs), tuple(o.id for o in schema.outputs))
    assert found == CONTRACT


def test_the_defaults():
    nodes = {schema_of(node).node_id.removeprefix("Kandinsky22"): node for node in NODES}
    for name, defaults in DEFAULTS.items():
        inputs = {item.id: item for item in schema_of(nodes[name]).inputs}
        assert {key: inputs[key].default for key in defaults} == defaults


def test_the_extension_gives_them_all():
    assert asyncio.run(Kandinsky22Extension().get_node_list()) == NODES


@each_node
def test_execute_takes_what_the_schema_gives(node):
    schema = schema_of(node)
    parameters = inspect.signature(node.execute).parameters
    takes_more = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    for item in schema.inputs:
        assert item.id in parameters or takes_more
        if item.optional:  # schema defaults are the only defaults, and optional sockets are None
            assert parameters[item.id].default is None
    named = {name for name, p in parameters.items() if p.kind is not p.VAR_KEYWORD}
    assert named <= {item.id for item in schema.inputs}
    required = {name for name in named if parameters[name].default is inspect.Parameter.empty}
    assert named - required <= {item.id for item in schema.inputs if item.optional}


@each_node
def test_faces(node):
    schema = schema_of(node)
    assert schema.display_name.endswith("(Kandinsky 2.2)")
    assert schema.category.startswith("Kandinsky 2.2/")
    assert schema.description and schema.search_aliases
    for item in schema.inputs:
        plain = item.id in ("prompt", "batch_size") or not isinstance(item, io.WidgetInput)
        assert item.tooltip or plain, f"{schema.node_id}.{item.id} has no tooltip"


@pytest.mark.parametrize(
    "widgets, message",
    [
        (("nothing", "fp16"), "repository is 'nothing'"),
        (("dpt-large", "int4"), "precision is 'int4'"),
    ],
)
def test_get_models_knows_its_choices(widgets, message):
    with pytest.raises(ValueError, match=message):
        GetModels.execute(*widgets)


@each_node
def test_execute_is_short(node):
    lines = inspect.getsource(node.execute).splitlines()
    assert len(lines) <= 16
