"""A loader shows that its model is missing when a workflow is opened, and not only at Run."""

import json
import re
import shutil

import pytest
from helpers import browser_user as user
from helpers.checkout import PACK
from helpers.templates import TEMPLATES

from tools.page import open_page

BLUEPRINT = PACK / "subgraphs" / "Text to Image (Kandinsky 2.2).json"
PUBLISHED = "kandinsky-2-2-decoder"
ABSENT = "not on this computer"
FETCH = f"{ABSENT}: add Get Models"
LISTS = {  # the loaders' widgets that list files or folders
    "LoadPrior": "model_name",
    "LoadDecoder": "model_name",
    "LoadDepthEstimator": "model_name",
    "LoadUNet": "unet_name",
    "LoadMoVQ": "vae_name",
    "LoadPriorTransformer": "prior_name",
    "LoadDecoderLora": "lora_name",
    "LoadPriorLora": "lora_name",
    "LoadEmbeds": "file",
}
# Returns the texts on the nodes in view, which are drawn on the canvas, or HTML in Nodes 2.0.
WRITTEN = """async phrase => {
  await new Promise(done => setTimeout(done, 600))
  const html = [...document.querySelectorAll('.lg-node div')].filter(e => !e.childElementCount)
  if (LiteGraph.vueNodesMode)
    return html.map(e => e.innerText.trim()).filter(text => text.startsWith(phrase)).sort()
  app.canvas.draw(true, true) // which finds out what is in view
  const pen = CanvasRenderingContext2D.prototype, fillText = pen.fillText, texts = []
  pen.fillText = function (text, ...place) {
    texts.push(String(text))
    fillText.call(this, text, ...place)
  }
  app.canvas.draw(true, true)
  pen.fillText = fillText
  return texts.filter(text => text.startsWith(phrase)).sort()
}"""
CHOSEN = """([type, name]) => { for (const node of app.graph._nodes.filter(n => n.type == type)) {
  const e = {}, canvas = app.canvas
  node.widgets[0].setValue(name, {e, node, canvas}) } }"""
INTO_SUBGRAPH = """() => { const host = app.canvas.graph._nodes.find(node => node.subgraph)
  app.canvas.openSubgraph(host.subgraph, host) }"""
UNDOS = "() => app.extensionManager.workflow.activeWorkflow.changeTracker.undoQueue.length"


@pytest.fixture(scope="module", params=[False, True], ids=["canvas", "nodes2"])
def page(server, request):
    with open_page(server.url, Comfy_VueNodes_Enabled=request.param) as page:
        yield page
    server.post("/settings", {"Comfy.VueNodes.Enabled": False})


def marks(page, phrase: str = ABSENT) -> list[str]:
    page.evaluate("() => kandinsky22.fit()")
    return page.evaluate(WRITTEN, phrase)


def messages(page) -> list[str]:
    """Return the messages in ComfyUI's corner, and close them."""
    alerts = user.alerts(page)
    texts = [text for text in alerts.all_inner_texts() if "this computer" in text]
    for button in alerts.get_by_role("button").all():
        button.click()
    return texts


def text_to_image(**chosen: str) -> dict:
    """Return the template with other models, by the type of a loader without the pack's prefix."""
    graph = json.loads(TEMPLATES["text_to_image"].read_text())
    for node in graph["nodes"]:
        kind = node["type"].removeprefix("Kandinsky22")
        if kind in chosen:
            node["widgets_values"][0] = chosen[kind]
    return graph


def open_graph(page, graph: dict) -> None:
    page.evaluate("graph => app.loadGraphData(graph)", graph)
    page.wait_for_timeout(500)


def test_an_opened_workflow_says_what_is_absent(page):
    open_graph(page, text_to_image(LoadDecoder=PUBLISHED, LoadPrior="my-prior"))
    assert marks(page) == [ABSENT, FETCH]
    (message,) = messages(page)
    assert re.search(rf"{PUBLISHED}: add the node Get Models \(Kandinsky 2.2\)", message)
    assert "my-prior: put it" in message
    user.keep_screenshot(page, f"missing models {page.evaluate('LiteGraph.vueNodesMode')}")


def test_nothing_of_it_is_saved_or_undone(page):
    states, undone = [], []
    for name in ("kandinsky-2-2-mini-decoder", PUBLISHED):
        open_graph(page, text_to_image(LoadDecoder=name))
        marked = marks(page)
        assert marked == ([FETCH] if name == PUBLISHED else [])
        page.mouse.click(900, 880)  # after a click ComfyUI records a step for undo
        page.wait_for_timeout(300)
        state = page.evaluate("() => app.graph.serialize()") | {"id": None}
        states.append(json.dumps(state).replace(f'"{name}"', '"any"'))
        undone.append(page.evaluate(UNDOS))
    assert states[0] == states[1] and undone[0] == undone[1]


def test_the_message_comes_once(page):
    messages(page)
    graph = text_to_image(LoadDecoder="a-decoder") | {"id": "7d3b0c7e-2c3c-4a55-9f0b-5e7d5c3f2a10"}
    open_graph(page, graph)
    assert len(messages(page)) == 1
    open_graph(page, graph)  # an undo does this
    assert messages(page) == []


def test_the_mark_goes_when_another_model_is_chosen(page):
    open_graph(page, text_to_image(LoadDecoder=PUBLISHED))
    assert marks(page) == [FETCH]
    page.evaluate(CHOSEN, ["Kandinsky22LoadDecoder", "kandinsky-2-2-mini-decoder"])
    assert marks(page) == []
    page.mouse.click(900, 880)  # after a click ComfyUI records a step for undo
    page.keyboard.press("Control+z")
    page.wait_for_timeout(500)
    assert marks(page) == [FETCH]


def test_the_mark_goes_when_the_model_is_listed(page, server):
    """A model is listed after Get Models and R. Here, the bundled model is copied."""
    folder = server.base / "models" / "diffusers" / "fetched" / PUBLISHED
    open_graph(page, text_to_image(LoadDecoder=PUBLISHED, LoadPrior=f"owner/{PUBLISHED}"))
    assert marks(page) == [FETCH, FETCH]
    page.evaluate(CHOSEN, ["Kandinsky22LoadDecoder", f"fetched/{PUBLISHED}"])
    page.evaluate(CHOSEN, ["Kandinsky22LoadPrior", "kandinsky-2-2-mini-prior"])
    assert marks(page) == [FETCH]
    shutil.copytree(PACK / "models" / "kandinsky-2-2-mini-decoder", folder)
    try:
        page.keyboard.press("r")
        page.wait_for_function(
            """name => app.graph._nodes.some(
              node => node.widgets?.some(w => w.options.values?.includes?.(name)))""",
            arg=f"fetched/{PUBLISHED}",
        )
        assert marks(page) == []
        page.evaluate(CHOSEN, ["Kandinsky22LoadDecoder", f"kandinsky-community/{PUBLISHED}"])
        assert marks(page) == [f"{ABSENT}: choose fetched/{PUBLISHED}"]
    finally:
        shutil.rmtree(folder.parent)
        page.keyboard.press("r")
        page.wait_for_timeout(2000)


def test_what_comes_over_a_wire_is_not_marked(page):
    open_graph(page, text_to_image(LoadDecoder=PUBLISHED))
    loader = "app.graph._nodes.find(node => node.type == 'Kandinsky22LoadDecoder')"
    page.evaluate(
        f"""() => {{ const primitive = LiteGraph.createNode('PrimitiveNode')
          app.graph.add(primitive)
          primitive.connect(0, {loader}, 0) }}"""
    )
    assert marks(page) == []
    page.evaluate(f"() => {loader}.disconnectInput(0)")
    assert marks(page) == [FETCH]


def test_copies_are_marked(page):
    open_graph(page, text_to_image(LoadDecoder=PUBLISHED))
    page.evaluate(
        """() => { app.canvas.copyToClipboard(app.graph._nodes.filter(n => n.type.includes('Load')))
          app.canvas.pasteFromClipboard() }"""
    )
    assert marks(page) == [FETCH, FETCH]


@pytest.mark.parametrize("kind", LISTS)
def test_each_loader_is_marked(page, kind):
    user.clear(page)
    node = user.put_node(page, "Kandinsky22" + kind, clear=False)
    user.set_widget(page, node, LISTS[kind], "odd/no such.safetensors")
    assert marks(page) == [ABSENT]


def test_a_file_in_another_folder_is_not_marked(page):
    """Load Embeds accepts such a file, although its list does not have it."""
    user.clear(page)
    node = user.put_node(page, "Kandinsky22LoadEmbeds", clear=False)
    user.set_widget(page, node, "file", "embeds/mix_00001_.safetensors [output]")
    assert marks(page) == []


def test_a_blueprint_is_marked_outside(page):
    """The node has the list, and the loader inside takes the value of the node."""
    graph = json.loads(BLUEPRINT.read_text())
    open_graph(page, graph)
    assert marks(page) == []
    page.evaluate(
        """name => { const [node] = app.graph._nodes
          node.widgets.find(w => w.value.includes?.('mini-decoder')).value = name }""",
        PUBLISHED,
    )
    assert marks(page) == [FETCH]
    user.keep_screenshot(page, f"missing blueprint {page.evaluate('LiteGraph.vueNodesMode')}")
    page.evaluate(INTO_SUBGRAPH)
    assert marks(page) == []
    page.evaluate("() => app.canvas.setGraph(app.rootGraph)")


def test_a_loader_in_a_subgraph_is_marked_inside_and_outside(page):
    open_graph(page, text_to_image(LoadDecoder=PUBLISHED))
    page.evaluate(
        """() => { const graph = app.canvas.graph
          const loaders = graph._nodes.filter(n => n.type == 'Kandinsky22LoadDecoder')
          graph.convertToSubgraph(new Set(loaders)) }"""
    )
    assert marks(page) == [FETCH]
    page.evaluate(INTO_SUBGRAPH)
    assert marks(page) == [FETCH]
    page.evaluate("() => app.canvas.setGraph(app.rootGraph)")


def test_the_pack_logs_nothing(page):
    said = [m for m in page.console_messages() if m.type in ("warning", "error")]
    assert not [m.text for m in said if "kandinsky22" in m.location["url"]]
    assert not page.page_errors()
