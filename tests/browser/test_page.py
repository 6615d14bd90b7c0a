"""ComfyUI's web interface finds, explains, connects and reports our nodes like its own."""

import json
import re

import pytest
from helpers import browser_user as user
from helpers.checkout import PACK

DISPLAY_NAMES = {
    node_id: node["display_name"]
    for node_id, node in json.loads((PACK / "locales/en/nodeDefs.json").read_text()).items()
}
WORDS = {  # words that users type → the node they want
    "kandinsky": "Prior",
    "unclip": "Decoder",
    "movq": "Load MoVQ",
    "mix": "Interpolate",
    "blend": "Interpolate",
    "morph": "Interpolate Sequence",
    "strength": "Img2Img",
    "depth map": "Depth Hint",
}
FIRST = {  # words that users type → a node that must be among the first three
    "k22": "Prior",
    "kandinsky": "Decoder",
    "Кандинский": "Load Prior",
    "unclip": "Prior",
    "negative prompt": "Prior",
    "embedding": "Prior",
    "ip adapter": "Encode Image",
    "image prompt": "Encode Image",
    "clip vision": "Embeds To CLIP Vision",
    "morph": "Interpolate Sequence",
    "img2img": "Img2Img",
    "inpaint": "Inpaint",
    "outpaint": "Outpaint",
    "depth map": "Depth Hint",
    "movq": "Load MoVQ",
    "download": "Get Models",
}
# Our nodes come after those of ComfyUI with the word in their title, as titles count first.
LATER = {
    "blend": "Interpolate",
    "mix": "Interpolate",
    "style": "Load Decoder LoRA",
    "lora": "Load Decoder LoRA",
    "latent": "Decoder",
}
# The colours of the canvas, and of wires, slots and HTML slots of some types: (red, green, blue) up
# to 255.
COLORS_SHOWN = """types => {
  const pen = document.createElement('canvas').getContext('2d')
  const html = getComputedStyle(document.documentElement)
  const colors = types.flatMap(type => [
    LGraphCanvas.link_type_colors[type],
    app.canvas.default_connection_color_byType[type],
    html.getPropertyValue('--color-datatype-' + type),
  ])
  return [app.canvas.clear_background_color, ...colors].map(color => {
    pen.fillStyle = color
    pen.fillRect(0, 0, 1, 1)
    return [...pen.getImageData(0, 0, 1, 1).data].slice(0, 3)
  })
}"""


def luminance(color: list[int]) -> float:
    """Relative luminance by WCAG, from 0 to 1."""
    parts = [part / 255 for part in color]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_the_search_finds_each_node(page):
    user.clear(page)
    user.search(page, "kandinsky")
    for name in DISPLAY_NAMES.values():
        assert user.search_again(page, name[: user.LONGEST_SEARCH])[0].startswith(name)
    for words, name in WORDS.items():
        found = user.search_again(page, words)
        assert [line for line in found if line.startswith(f"{name} (Kandinsky 2.2)")], words
    user.keep_screenshot(page, "search")
    page.keyboard.press("Escape")


def test_people_find_what_they_mean(page):
    """The test calls the search behind the search box, so that a word takes less than a second."""
    words = {**FIRST, **LATER}
    found = page.evaluate("words => words.map(word => kandinsky22.find(word))", list(words))
    for (word, name), titles in zip(words.items(), found, strict=True):
        assert f"{name} (Kandinsky 2.2)" in titles[: 3 if word in FIRST else None], word


@pytest.mark.parametrize("node_id", DISPLAY_NAMES)
def test_help_opens(page, node_id):
    user.put_node(page, node_id)
    page.get_by_test_id("info-button").first.click()
    page.get_by_role("heading", name=DISPLAY_NAMES[node_id]).first.wait_for()
    page.get_by_role("heading", name="If something goes wrong").or_(
        page.get_by_role("heading", name="How to connect it")
    ).first.wait_for()
    user.wait_for_help_picture(page)
    user.keep_screenshot(page, f"help {node_id}")


@pytest.mark.parametrize("title", ["1 Text to Image", "LoRA, With and Without"])
def test_a_link_in_the_help_opens_a_template(page, title):
    """It opens in the same page, as from the template browser."""
    user.put_node(page, "Kandinsky22Decoder")
    page.get_by_test_id("info-button").first.click()
    page.get_by_role("link", name=title).click()
    template = json.loads((PACK / "workflows" / f"Kandinsky 2.2 - {title}.json").read_text())
    count = len(template["nodes"])
    page.wait_for_function("count => app.graph.nodes.length == count", arg=count)
    assert page.locator("body").get_by_text(f"Kandinsky 2.2 - {title}").first.is_visible()


def test_titles_fit_new_nodes(page):
    cut = """() => Object.keys(LiteGraph.registered_node_types)
      .filter(type => type.startsWith('Kandinsky22'))
      .map(type => { const node = LiteGraph.createNode(type)
        app.graph.add(node)
        return [node.title, node.size[0]] })
      .filter(([title, width]) => kandinsky22.titleWidth(title) > width)"""
    user.clear(page)
    assert page.evaluate(cut) == []


@pytest.mark.parametrize("language", ["en", "ru"])
def test_titles_fit_the_nodes_of_the_workflows(page, language):
    """Nodes without their own title have that of their type, in the user's language."""
    names = json.loads((PACK / f"locales/{language}/nodeDefs.json").read_text())
    shown = set()
    for path in [*(PACK / "workflows").glob("*.json"), *(PACK / "subgraphs").glob("*.json")]:
        graph = json.loads(path.read_text())
        for part in [graph, *(graph.get("definitions") or {}).get("subgraphs", [])]:
            ours = [node for node in part["nodes"] if node["type"] in names]
            name = {node["id"]: names[node["type"]]["display_name"] for node in ours}
            shown |= {(node.get("title") or name[node["id"]], node["size"][0]) for node in ours}
    titles = [title for title, _ in shown]
    widths = page.evaluate("titles => titles.map(kandinsky22.titleWidth)", titles)
    assert not [pair for pair, width in zip(shown, widths, strict=True) if width > pair[1]]


def test_only_wires_of_the_same_kind_connect(page):
    canvas = user.put_node(page, "EmptyLatentImage", 100, 100)
    black = user.put_node(page, "Kandinsky22ZeroEmbeds", 100, 350, clear=False)
    decoder = user.put_node(page, "Kandinsky22Decoder", 500, 100, clear=False)
    wired = "id => app.graph.getNodeById(id).inputs.map(i => i.link != null)"
    names = page.evaluate("id => app.graph.getNodeById(id).inputs.map(i => i.name)", decoder)
    slot = names.index("image_embeds")
    user.drag_wire(page, canvas, 0, decoder, slot)
    # Newer versions of ComfyUI's web interface connect it to the input of its own kind instead.
    others = [name for name, has in zip(names, page.evaluate(wired, decoder), strict=True) if has]
    assert others in ([], ["latent"])
    user.drag_wire(page, black, 0, decoder, slot)
    assert page.evaluate(wired, decoder)[slot]
    user.keep_screenshot(page, "wires")


def test_our_wires_have_colours_of_their_own(page):
    colors = page.evaluate(
        """() => ['EMBEDS', 'PRIOR', 'DEPTH_ESTIMATOR'].map(
          name => LGraphCanvas.link_type_colors['KANDINSKY22_' + name])"""
    )
    known = page.evaluate("() => ['LATENT', 'IMAGE'].map(n => LGraphCanvas.link_type_colors[n])")
    assert all(colors) and len({*colors, *known}) == 5


@pytest.mark.parametrize("palette", ["light", "dark"])
def test_our_wires_are_seen_on_the_canvas(page, palette):
    """WCAG's minimum contrast for graphics, for the wires and for the slots in Nodes 2.0."""
    setting = "palette => app.extensionManager.setting.set('Comfy.ColorPalette', palette)"
    page.evaluate(setting, palette)
    page.wait_for_timeout(500)
    types = ["KANDINSKY22_" + name for name in ("EMBEDS", "PRIOR", "DEPTH_ESTIMATOR")]
    canvas, *colors = page.evaluate(COLORS_SHOWN, types)
    page.evaluate(setting, "dark")
    assert (luminance(canvas) > 0.5) == (palette == "light") and len({*map(tuple, colors)}) == 3
    for color in colors:
        low, high = sorted([luminance(canvas), luminance(color)])
        assert (high + 0.05) / (low + 0.05) >= 3


def test_an_input_without_a_wire_is_marked(page):
    decoder = user.put_node(page, "Kandinsky22Decoder")
    preview = user.put_node(page, "PreviewImage", 900, 100, clear=False)
    decode = user.put_node(page, "VAEDecode", 600, 100, clear=False)
    page.evaluate(
        """([a, b, c]) => { const at = id => app.graph.getNodeById(id)
          at(a).connect(0, at(b), 0); at(b).connect(0, at(c), 0) }""",
        [decoder, decode, preview],
    )
    page.get_by_test_id("queue-button").click()
    page.wait_for_function("id => app.graph.getNodeById(id).has_errors", arg=decoder)
    user.keep_screenshot(page, "missing input")


def test_our_message_is_shown(page, server):
    user.open_template(page, "inpaint")
    page.evaluate(
        """() => { const node = app.graph._nodes.find(n => n.type == 'Kandinsky22LoadDecoder')
          node.widgets.find(w => w.name == 'model_name').value = 'kandinsky-2-2-mini-decoder' }"""
    )
    page.get_by_test_id("queue-button").click()
    page.get_by_role("button", name=re.compile("View details|See errors", re.I)).first.click()
    page.get_by_text("This node needs the inpaint decoder").first.wait_for()
    user.keep_screenshot(page, "error")
    page.keyboard.press("Escape")


def test_weights_stay_when_the_count_changes(page):
    """A user's weights stay, set like a click on the widget does.

    Others get the count's default.
    """
    node = user.put_node(page, "Kandinsky22Interpolate")
    for i, weight in enumerate((0.7, 0.3), 1):
        user.set_widget(page, node, f"count.weight_{i}", weight)
    seen = []
    for count in ("3", "2", "8", "2"):
        user.set_widget(page, node, "count", count)
        seen.append([value for name, value in user.widgets(page, node) if "weight" in name])
    assert seen == [[0.7, 0.3, 0.33], [0.7, 0.3], [0.7, 0.3, *[0.12] * 6], [0.7, 0.3]]


def test_weights_of_a_workflow_stay_when_the_count_changes(page, server):
    user.open_template(page, "mix_pictures_and_words")
    user.take_few_steps(page, 2)
    user.run(page, server)
    (node,) = page.evaluate(
        "() => app.graph.findNodesByType('Kandinsky22Interpolate').map(n => n.id)"
    )
    page.evaluate("id => app.canvas.centerOnNode(app.graph.getNodeById(id))", node)
    user.keep_screenshot(page, "likeness")
    before = user.widgets(page, node)
    for count in ("2", "3"):
        user.set_widget(page, node, "count", count)
    assert user.widgets(page, node) == before


def test_a_saved_picture_brings_its_graph_back(page, server):
    user.open_template(page, "text_to_image")
    user.take_few_steps(page, 3)
    nodes = """() => app.graph.serialize().nodes
      .map(n => [n.id, n.type, n.mode, n.widgets_values]).sort()"""
    before = page.evaluate(nodes)  # after the run there is a new seed for the next run
    user.run(page, server)
    content = user.saved_picture(page)
    user.clear(page)
    user.drop_file(page, "picture.png", content, "image/png")
    page.wait_for_function("count => app.graph._nodes.length == count", arg=len(before))
    assert page.evaluate(nodes) == before
