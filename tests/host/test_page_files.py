"""What the page fetches of the pack beside its nodes: help and translations."""

import urllib.request

import pytest
from checkout import PACK

HELP = sorted((PACK / "web" / "docs").glob("*.md"))


@pytest.mark.parametrize("path", HELP, ids=lambda path: path.stem)
def test_help(server, path):
    with urllib.request.urlopen(f"{server.url}/extensions/kandinsky22/docs/{path.name}") as answer:
        assert answer.status == 200
        # The page takes HTML for the server's word that there is nothing.
        assert "html" not in answer.headers["Content-Type"]
        assert answer.read() == path.read_bytes()


def test_every_node_of_the_server_has_help(object_info):
    ours = {name for name in object_info if name.startswith("Kandinsky22")}
    assert ours == {path.stem for path in HELP}


def test_translations(server, object_info):
    """English is what the server says of the nodes; Russian is there beside it."""
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


def test_the_page_gets_no_script_from_us(server):
    assert not [path for path in server.get("/extensions") if "kandinsky22" in path]
