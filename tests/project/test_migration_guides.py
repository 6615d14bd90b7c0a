"""The guides for users of diffusers and of other packs name nodes and inputs that exist."""

import re
from urllib.parse import unquote

import pytest
from helpers.checkout import PACK
from helpers.templates import TEMPLATES
from kandinsky22.nodes import NODES

PAGES = [PACK / "docs" / name for name in ("from_diffusers.md", "from_comfyui_kandinsky22.md")]
BLUEPRINTS = {path.stem.removesuffix(" (Kandinsky 2.2)") for path in (PACK / "subgraphs").iterdir()}
TITLES = {re.sub(r"^.* - (\d )?", "", path.stem) for path in TEMPLATES.values()}
HOSTS = {  # nodes of ComfyUI that the guides name
    "CFG Override",
    "Empty Latent Image",
    "Invert Mask",
    "KSampler",
    "Load Image",
    "ModelSave",
    "Repeat Latent Batch",
    "SamplerCustomAdvanced",
    "Save Image",
    "TorchCompileModel",
    "Upscale Image",
    "VAE Decode",
    "VAE Decode (Tiled)",
    "VAE Encode",
}

INPUT = r" `\w+`(?: [\d.]+\b)?(?: to \d)?"
NAMED = re.compile(rf"(?<!\*)\*([A-Z][^*]+)\*(?!\*)((?:{INPUT}(?:,{INPUT})*)?)")  # *Node* `input`


def prose(page) -> str:
    """Return a guide without its code blocks."""
    return re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.S)


each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)


@pytest.fixture
def inputs(models) -> dict[str, set[str]]:
    """Return display name, without the model's name → ids of the inputs."""
    schemas = [node.define_schema() for node in NODES]
    return {
        re.split(r" [(/]", schema.display_name)[0]: {item.id for item in schema.inputs}
        for schema in schemas
    }


@each_page
def test_nodes_and_their_inputs(inputs, page):
    named = NAMED.findall(prose(page))
    # A name with an arrow is a place in the menu.
    nodes = {name for name, _ in named if "→" not in name}
    assert nodes <= set(inputs) | HOSTS | BLUEPRINTS | TITLES
    assert len(nodes & set(inputs)) > 10
    for name, items in named:
        assert set(re.findall(r"`(\w+)`", items)) <= inputs.get(name, set()), name


@each_page
def test_workflows_and_links(page):
    shown = set(re.findall(r"[Tt]emplate `(\w+)`", prose(page)))
    assert shown <= set(TEMPLATES)
    for link in re.findall(r"\]\((?!https://|#)([^)#]+)\)", prose(page)):
        assert (page.parent / unquote(link)).exists(), link


def test_the_guide_is_there_whole():
    """Each of its tasks is there, with the workflow and the blueprint for it."""
    text = prose(PAGES[0])
    workflows = (
        "text_to_image",
        "image_to_image",
        "inpaint",
        "inpaint_a_hat",
        "mix_pictures_and_words",
    )
    for name in (*workflows, "depth_controlnet", "depth_controlnet_image_to_image"):
        assert f"emplate `{name}`" in text or f"`{name}` for" in text
    blueprints = ("Text to Image", "Image to Image", "Inpaint a Picture", "Depth to Image")
    for name in (*blueprints, "Mix Images and Prompts"):
        assert re.search(rf"lueprint\s\*{name}\*", text)
