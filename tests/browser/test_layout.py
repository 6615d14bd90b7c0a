"""Templates and blueprints open readable and tidy, at the scale that ComfyUI chooses."""

import json

import pytest
from helpers import browser_user as user
from helpers.checkout import PACK
from helpers.templates import TEMPLATES

from tools.page import open_page

BLUEPRINTS = sorted((PACK / "subgraphs").glob("*.json"))
OPEN = "saved => app.loadGraphData(saved, true, true, null, { openSource: 'template' })"
ENTER = """() => { const node = app.graph._nodes.find(n => n.subgraph)
  app.canvas.openSubgraph(node.subgraph, node) }"""
PAUSE = 700  # milliseconds; Nodes 2.0 measures nodes after it has drawn them


@pytest.fixture(
    scope="module",
    params=[
        (renderer, *size)
        for renderer in ("classic", "nodes 2.0")
        for size in ((1366, 768), (1600, 1000), (1920, 1080))
    ],
    ids=lambda param: f"{param[0]} {param[1]}",
)
def page(server, request):
    renderer, width, height = request.param
    vue = renderer == "nodes 2.0"
    with open_page(server.url, width, height, Comfy_VueNodes_Enabled=vue) as page:
        yield page


def open_file(page, path) -> None:
    page.evaluate(OPEN, json.loads(path.read_text("utf-8")))
    page.wait_for_timeout(PAUSE)


def test_templates(page, request):
    faults = {}
    for name, path in TEMPLATES.items():
        open_file(page, path)
        faults[name] = page.evaluate("() => kandinsky22.layoutFaults()")
        user.keep_screenshot(page, f"layout {name} {request.node.callspec.id}")
    ours = "/extensions/kandinsky22/"
    assert not [m.text for m in page.console_messages() if ours in m.location["url"]]
    assert {name: found for name, found in faults.items() if found} == {}


def test_blueprints(page, request):
    """This checks the outside and the inside.

    The wires from a subgraph's inputs must avoid other nodes.
    """
    faults = {}
    for path in BLUEPRINTS:
        open_file(page, path)
        outside = page.evaluate("() => kandinsky22.layoutFaults()")
        page.evaluate(ENTER)
        page.wait_for_timeout(PAUSE)
        inside = page.evaluate("() => kandinsky22.layoutFaults({ wires: false })")
        user.keep_screenshot(page, f"layout {path.stem} {request.node.callspec.id}")
        faults[path.stem] = outside + inside
    assert {name: found for name, found in faults.items() if found} == {}


def test_faults_are_found(page, request):
    """Each kind of fault, made by hand, is named. In Nodes 2.0, a note grows with its text."""
    note = "a note is" if "classic" in request.node.callspec.id else "1 Read me overlaps"
    open_file(page, TEMPLATES["text_to_image"])
    assert page.evaluate("() => kandinsky22.layoutFaults()") == []
    page.evaluate(
        """() => { const at = type => app.graph._nodes.find(n => n.type == type)
          at('VAEDecode').pos = [...at('Kandinsky22Prior').pos]
          at('MarkdownNote').setSize([200, 100])
          const group = new LiteGraph.LGraphGroup('Frame')
          group.pos = [800, 90]; group.size = [200, 100]
          app.graph.add(group); group._nodes = [at('Kandinsky22Decoder')]
          app.canvas.setDirty(true, true) }"""
    )
    page.wait_for_timeout(PAUSE)
    said = " | ".join(page.evaluate("() => kandinsky22.layoutFaults({ leastScale: 9 })"))
    for words in ("the scale is", "overlaps", "runs behind", "sticks out of", note):
        assert words in said, said
