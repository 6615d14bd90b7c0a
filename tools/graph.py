"""A workflow as Python: nodes, wires, and the stage of the flow that each node belongs to."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

PRIOR = "kandinsky-2-2-mini-prior"
DECODER = "kandinsky-2-2-mini-decoder"
INPAINT = "kandinsky-2-2-mini-decoder-inpaint"
DEPTH = "kandinsky-2-2-mini-controlnet-depth"
ESTIMATOR = "mini-depth-estimator"
SIZE = 128
RED, BLUE, YELLOW, BLACK, GREEN = 0xE02020, 0x2040D0, 0xF0D020, 0x101010, 0x20A040

# The flow, left to right: columns in the page, and in each the stages, every one in a frame.
COLUMNS = [
    {"": ["MarkdownNote"], "Load": [], "LoRA": ["LoadDecoderLora", "LoadPriorLora"]},
    {
        "Picture (put Load Image here)": ["EmptyImage", "ImageCompositeMasked"],
        "Second picture": [],
        "Larger": ["ImagePadForOutpaint"],
    },
    {
        "Image embeddings": ["EncodeImage", "Prior", "LoadEmbeds"],
        "Depth (white is near)": ["DepthHint", "GetImageSize"],
        "Latents": ["EmptyLatentImage", "VAEEncode", "VAEEncodeTiled"],
        "Mask (white is repainted)": ["SolidMask", "MaskComposite", "InvertMask"],
    },
    {
        "Towards a prompt": ["PriorEmb2Emb"],
        "Mix": ["Interpolate", "InterpolateSequence"],
        "Conditioning": ["Conditioning"],
    },
    {
        "Areas": ["ConditioningSetArea", "ConditioningCombine"],
        "Hint": ["DepthConditioning"],
        "Mask": ["InpaintConditioning"],
    },
    {"Decoder": ["Decoder", "Img2Img", "Inpaint", "ControlNet", "ControlNetImg2Img", "KSampler"]},
    {"Pixels": ["VAEDecode", "VAEDecodeTiled"]},
    {"Result": ["SaveImage", "PreviewImage", "SaveAnimatedWEBP", "SaveEmbeds"]},
]


def stage_of(type: str) -> str:
    name = type.removeprefix("Kandinsky22")
    stages = [stage for column in COLUMNS for stage, types in column.items() if name in types]
    return stages[0] if stages else "Load"


@dataclass
class Node:
    type: str
    inputs: dict[str, Any]
    stage: str
    title: str | None = None
    off: bool = False  # bypassed: there for the reader, and left out of a run
    number: int = 0

    def __getitem__(self, slot: int) -> tuple[Node, int]:
        return self, slot


@dataclass
class Graph:
    name: str
    nodes: list[Node] = field(default_factory=list)

    def add(self, type: str, title: str | None = None, off=False, stage=None, **inputs) -> Node:
        node = Node(
            type,
            inputs,
            stage_of(type) if stage is None else stage,
            title,
            off,
            len(self.nodes) + 1,
        )
        self.nodes.append(node)
        return node

    def note(self, text: str) -> Node:
        return self.add("MarkdownNote", "Read me", text=text)

    def loaders(self, decoder: str = DECODER) -> tuple[Node, Node]:
        prior = self.add("Kandinsky22LoadPrior", model_name=PRIOR)
        return prior, self.add("Kandinsky22LoadDecoder", model_name=decoder)

    def picture(self, back=BLUE, front=RED, size=SIZE, at=32, side=64, stage=None) -> Node:
        """A square on a ground, drawn with ComfyUI's own nodes."""
        empty = dict(type="EmptyImage", stage=stage)
        ground = self.add(title="Ground", width=size, height=size, color=back, **empty)
        square = self.add(title="Square", width=side, height=side, color=front, **empty)
        parts = dict(destination=ground[0], source=square[0], x=at, y=at)
        return self.add("ImageCompositeMasked", "Picture", stage=stage, **parts)

    def box_mask(self, x: int, y: int, width: int, height: int, size=SIZE) -> Node:
        """White where the picture is repainted."""
        black = self.add("SolidMask", "Keep", value=0.0, width=size, height=size)
        white = self.add("SolidMask", "Repaint", value=1.0, width=width, height=height)
        parts = dict(destination=black[0], source=white[0], x=x, y=y, operation="add")
        return self.add("MaskComposite", "Mask", **parts)

    def canvas(self, **size) -> Node:
        size = dict(width=SIZE, height=SIZE, batch_size=1) | size
        return self.add("EmptyLatentImage", "Canvas", **size)

    def save(self, latent: Node, model: Node) -> Node:
        image = self.add("VAEDecode", samples=latent[0], vae=model[1])
        self.add("SaveImage", images=image[0], filename_prefix=f"kandinsky22/{self.name}")
        return image

    def described(self) -> dict[str, Any]:
        """What `kandinsky22.build` of page.js takes."""
        nodes = []
        for node in self.nodes:
            wires = {k: (v[0].number, v[1]) for k, v in node.inputs.items() if is_wire(v)}
            widgets = {k: v for k, v in node.inputs.items() if not is_wire(v)}
            fields = {k: getattr(node, k) for k in ("number", "type", "stage", "title", "off")}
            nodes.append(fields | {"links": wires, "widgets": widgets})
        return {"nodes": nodes, "columns": [list(column) for column in COLUMNS]}


def is_wire(value: Any) -> bool:
    return isinstance(value, tuple)


def embeds_of(prior: Node) -> dict[str, Any]:
    """Both outputs of a Prior node, as a decoding stage takes them."""
    return dict(image_embeds=prior[0], negative_image_embeds=prior[1])
