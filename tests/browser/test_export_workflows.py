"""tools/export_workflows.py writes a manual change to the API form, and changes nothing else."""

import json

import pytest
from helpers.checkout import PACK, WORKFLOWS
from helpers.templates import TEMPLATES

from tools.export_workflows import WorkflowFault, api_path, as_json, export

PROMPT = "a green triangle on a white background"
BLUEPRINT = PACK / "subgraphs" / "Inpaint a Picture (Kandinsky 2.2).json"
SHIPPED = [TEMPLATES["mix_pictures_and_words"], BLUEPRINT]


def write(path, graph) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(graph))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_file_stays_as_it_is(page, path):
    saved, api = export(page, path)
    assert as_json(saved) == path.read_bytes()
    if path.parent == WORKFLOWS:
        assert as_json(api) == api_path(path).read_bytes()


def test_a_change_reaches_the_api_form(page, tmp_path):
    """The graph is saved by ComfyUI itself, with fewer fields than the bundled form."""
    shipped = json.loads(TEMPLATES["text_to_image"].read_text())
    expected = json.loads((WORKFLOWS / "api" / "text_to_image.json").read_text())
    page.evaluate("saved => kandinsky22.open(saved)", shipped)
    changed = page.evaluate("async () => JSON.stringify((await app.graphToPrompt()).workflow)")
    changed = json.loads(changed)
    assert changed["nodes"] != shipped["nodes"]
    for graph in (changed, shipped):
        node = next(node for node in graph["nodes"] if node["type"] == "Kandinsky22Prior")
        node["pos"] = [1234, 567]
        node["widgets_values"][0] = expected[str(node["id"])]["inputs"]["prompt"] = PROMPT
    path = tmp_path / "workflows" / "changed.json"
    write(path, changed)
    saved, api = export(page, path)
    assert saved == shipped | {"id": changed["id"]}
    assert api == expected


def test_what_is_wrong_is_named(page, tmp_path):
    path = tmp_path / "workflows" / "wrong.json"
    wrong = json.loads(TEMPLATES["text_to_image"].read_text())
    bypassed = next(node for node in wrong["nodes"] if node["type"] == "SaveImage")
    bypassed["type"] = "PreviewOfAnotherPack"
    write(path, wrong)
    with pytest.raises(WorkflowFault, match="no node PreviewOfAnotherPack"):
        export(page, path)
    wrong = json.loads(TEMPLATES["text_to_image"].read_text())
    canvas = next(node for node in wrong["nodes"] if node["type"] == "EmptyLatentImage")
    canvas["widgets_values"] += [7]
    write(path, wrong)
    with pytest.raises(WorkflowFault, match=r"\[128, 128, 1, 7\] in node 8"):
        export(page, path)


def test_values_that_the_api_form_lacks_are_named(page):
    """Values that the node of a subgraph passes to inner nodes are named, too."""
    _, api = export(page, SHIPPED[1])
    inputs = {node["class_type"]: node["inputs"] for node in api.values()}
    inputs["Kandinsky22Prior"]["prompt"] = PROMPT  # passed on from the subgraph's node
    del inputs["Kandinsky22LoadDecoder"]["weight_dtype"]  # the inner node's own
    lost = page.evaluate("api => kandinsky22.lost(api)", api)
    assert sorted(line.split(".")[1] for line in lost) == [
        "prompt (Kandinsky22Prior) a yellow circle on a blue background",
        "weight_dtype (Kandinsky22LoadDecoder) default",
    ]
