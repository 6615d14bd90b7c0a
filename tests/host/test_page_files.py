"""A server gives the web interface our nodes' help, translations and blueprints."""

import json
import urllib.request

import pytest
from helpers.checkout import PACK

BLUEPRINTS = sorted((PACK / "subgraphs").glob("*.json"))
DOCS = PACK / "web" / "docs"
HELP = sorted(DOCS.glob("*.md"))
HELP_FILES = [path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*") if path.is_file()]


@pytest.mark.parametrize("name", sorted(HELP_FILES))
def test_help(server, name):
    with urllib.request.urlopen(f"{server.url}/extensions/kandinsky22/docs/{name}") as answer:
        assert answer.status == 200
        # ComfyUI takes HTML as the server's answer for a missing file.
        assert "html" not in answer.headers["Content-Type"]
        assert answer.read() == (DOCS / name).read_bytes()


def test_every_node_of_the_server_has_help(object_info):
    ours = {name for name in object_info if name.startswith("Kandinsky22")}
    assert ours == {path.stem for path in HELP}


def test_translations(server, object_info):
    """English equals the server's texts for the nodes, and Russian is there, too."""
    languages = server.get("/api/i18n")
    for name, node in object_info.items():
        if not name.startswith("Kandinsky22"):
            continue
        english, russian = (languages[code]["nodeDefs"][name] for code in ("en", "ru"))
        assert english["display_name"] == node["display_name"]
        assert english["description"] == node["description"]
        assert russian["display_name"] != node["display_name"]
        assert [english["outputs"][i]["name"] for i in english["outputs"]] == node["output_name"]
        inputs = {**node["input"].get("required", {}), **node["input"].get("optional", {})}
        for key, (_, options) in inputs.items():
            assert english["inputs"][key].get("tooltip") == options.get("tooltip")
            assert ("tooltip" in russian["inputs"][key]) == ("tooltip" in options)


def test_the_page_gets_these_scripts_from_us(server):
    ours = {path for path in server.get("/extensions") if "kandinsky22" in path}
    names = [path.stem for path in (PACK / "web").glob("*.js")]
    assert len(names) == 7
    assert ours == {f"/extensions/kandinsky22/{name}.js" for name in names}


def test_blueprints(server, object_info):
    """The node library gets them. Their nodes, inputs and wires are those that the nodes have."""
    listed = server.get("/global_subgraphs")
    ours = {entry["name"]: key for key, entry in listed.items() if "Kandinsky" in entry["name"]}
    assert set(ours) == {path.stem for path in BLUEPRINTS}
    for name, key in ours.items():
        blueprint = json.loads(server.get(f"/global_subgraphs/{key}")["data"])
        (box,), (inside,) = blueprint["nodes"], blueprint["definitions"]["subgraphs"]
        # ComfyUI does not save a title that is the subgraph's own name, and shows that name.
        assert box.get("title", name) == inside["name"] == name and box["type"] == inside["id"]
        assert [i["name"] for i in box["inputs"]] == [i["name"] for i in inside["inputs"]]
        wires = {wire["id"]: wire for wire in inside["links"]}
        assert all(i["linkIds"] and set(i["linkIds"]) <= set(wires) for i in inside["inputs"])
        for node in inside["nodes"]:
            spec = object_info[node["type"]]["input"]
            known = {**spec.get("required", {}), **spec.get("optional", {})}
            assert {i["name"].split(".")[0] for i in node["inputs"]} <= set(known)
            # An input that is neither connected nor a widget would be missing.
            for slot in node["inputs"]:
                required = slot["name"] in spec.get("required", {})
                assert slot["link"] in wires or "widget" in slot or not required
