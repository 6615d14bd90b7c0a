"""Every bundled workflow runs on a real server, fits the nodes, and is equal in both forms."""

import io
import json
import urllib.parse
import urllib.request

import numpy as np
import pytest
from helpers.checkout import WORKFLOWS
from helpers.templates import TEMPLATES
from PIL import Image

from tools.thumbnails import saved_pictures

NAMES = sorted(TEMPLATES)
SIZES = {
    "outpaint": (256, 128),
    "two_prompts_in_one_picture": (256, 128),
    "large_pictures_in_tiles": (256, 256),
}
VIDEOS = ("morph_as_a_video",)
BYPASSED = 4

each_workflow = pytest.mark.parametrize("name", NAMES)


def read(name: str) -> tuple[dict, dict]:
    """Return the form of the web interface and the API form."""
    ui = json.loads(TEMPLATES[name].read_text())
    return ui, json.loads((WORKFLOWS / "api" / f"{name}.json").read_text())


def test_there_are_workflows():
    assert "text_to_image" in NAMES
    assert NAMES == sorted(path.stem for path in (WORKFLOWS / "api").glob("*.json"))


@each_workflow
def test_runs_to_a_picture(server, tiny_workflow, name):
    result = server.run(tiny_workflow(name))
    assert result.images
    pictures = [p for i in result.images for p in saved_pictures(i["filename"], server.fetch(i))]
    assert len(pictures) >= (4 if name in VIDEOS else 1)
    assert all(np.asarray(picture).std() > 0 for picture in pictures)
    saved = [i for i in result.images if i["type"] == "output"]
    for image in saved:
        for picture in saved_pictures(image["filename"], server.fetch(image)):
            assert picture.size == SIZES.get(name, (128, 128))


@each_workflow
def test_both_forms_say_the_same(object_info, name):
    ui, api = read(name)
    links = {link[0]: (str(link[1]), link[2]) for link in ui["links"]}
    # Get Models is not queued by Run, as it has its own button.
    known = object_info.keys() - {"Kandinsky22GetModels"}
    nodes = {str(node["id"]): node for node in ui["nodes"] if node["type"] in known}
    running = {number: node for number, node in nodes.items() if node["mode"] != BYPASSED}
    assert set(api) == set(running)

    def source_of(link: int) -> list:
        """Return the source of a wire, past bypassed nodes, as ComfyUI finds it."""
        number, slot = links[link]
        while nodes[number]["mode"] == BYPASSED:
            kind = nodes[number]["outputs"][slot]["type"]
            through = next(i["link"] for i in nodes[number]["inputs"] if i["type"] == kind)
            number, slot = links[through]
        return [number, slot]

    for number, node in running.items():
        assert api[number]["class_type"] == node["type"]
        wired = {i["name"]: source_of(i["link"]) for i in node["inputs"] if i["link"] is not None}
        names = [i["name"] for i in node["inputs"] if "widget" in i]
        values = list(node.get("widgets_values", []))
        if "seed" in names:  # after it there is what ComfyUI does with the seed after a run
            values.pop(names.index("seed") + 1)
        widgets = dict(zip(names, values, strict=True))
        literals = {n: v for n, v in api[number]["inputs"].items() if not isinstance(v, list)}
        assert literals == {n: v for n, v in widgets.items() if n not in wired}
        assert wired == {n: v for n, v in api[number]["inputs"].items() if isinstance(v, list)}


@each_workflow
def test_fits_the_nodes(object_info, name):
    """The server knows every node, input and literal of the API form."""
    _, api = read(name)
    for node in api.values():
        spec = object_info[node["class_type"]]["input"]
        known = spec.get("required", {}) | spec.get("optional", {})
        for input_name, value in node["inputs"].items():
            top = input_name.split(".")[0]
            assert top in known, f"{node['class_type']} has no input {input_name}"
            kind, options = (known[top] + [{}])[:2]
            if top == input_name and not isinstance(value, list) and kind in ("INT", "FLOAT"):
                assert options["min"] <= value <= options["max"]
        missing = set(spec.get("required", {})) - set(node["inputs"])
        assert not missing, f"{node['class_type']} lacks {missing}"


@pytest.mark.parametrize("path", sorted(WORKFLOWS.rglob("*.json")), ids=lambda path: path.stem)
def test_no_absolute_path(path):
    text = path.read_text()
    assert not any(mark in text for mark in ('"/', ":\\\\", "/home/", "/root/", "/tmp/"))


def test_what_inpaint_leaves_alone_is_the_same_to_the_bit(server, tiny_workflow):
    prompt = tiny_workflow("inpaint")
    titles = {node["_meta"]["title"].split(" (")[0]: number for number, node in prompt.items()}
    picture = titles["Size of the Picture"]
    prompt["before"] = {
        "class_type": "SaveImage",
        "inputs": {"images": [picture, 0], "filename_prefix": "before"},
    }
    result = server.run(prompt)
    pictures = {
        image["filename"].startswith("before"): np.asarray(
            Image.open(io.BytesIO(server.fetch(image))).convert("RGB")
        )
        for image in result.images
    }
    before, after = pictures[True], pictures[False]
    inside = np.zeros((128, 128), bool)
    inside[24:104, 24:104] = True
    assert (before[~inside] == after[~inside]).all()
    assert (before[inside] != after[inside]).any()


def test_the_page_lists_them_as_templates_with_pictures(server):
    titles = {path.stem for path in TEMPLATES.values()}
    assert set(server.get("/api/workflow_templates")["kandinsky22"]) == titles
    for title in titles:
        file = urllib.parse.quote(f"{title}.jpg")
        address = f"{server.url}/api/workflow_templates/kandinsky22/{file}"
        with urllib.request.urlopen(address) as answer:
            assert Image.open(io.BytesIO(answer.read())).size == (384, 384)
