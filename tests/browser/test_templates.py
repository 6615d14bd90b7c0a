"""The template browser: lists ours with pictures, opens each, and each runs as it is."""

import json

import pytest
from helpers import browser_user as user
from helpers.checkout import TEMPLATES

from tools.page import open_page

LEAD = [name for name, path in TEMPLATES.items() if path.stem.split(" - ")[1][1] == " "]
# A node that the page does not know, or one that lacks an input, has errors.
AMISS = """() => app.graph._nodes
  .filter(n => n.has_errors || !LiteGraph.registered_node_types[n.type]).map(n => n.type)"""
OPEN = """saved => app.loadGraphData(saved, true, true, null, { openSource: "template" })"""


def test_the_browser_lists_ours_with_pictures(page):
    user.open_templates(page)
    cards = page.locator("[data-testid^=template-workflow-]")
    listed = [cards.nth(i).get_attribute("data-testid") for i in range(cards.count())]
    titles = [path.stem for path in TEMPLATES.values()]
    assert sorted(listed) == sorted(f"template-workflow-{title}" for title in titles)
    for title in titles:
        card = page.get_by_test_id(f"template-workflow-{title}")
        card.scroll_into_view_if_needed()  # pictures are fetched when they come into view
        picture = card.locator("img").first
        assert picture.evaluate("async e => { await e.decode(); return e.naturalHeight }") == 384
    user.keep_screenshot(page, "templates")
    page.keyboard.press("Escape")


@pytest.mark.parametrize("name", TEMPLATES)
def test_opens_and_runs_to_a_picture(page, server, name):
    user.open_template(page, name)
    assert page.evaluate(AMISS) == []
    user.take_few_steps(page, 4)
    sizes = user.run(page, server)
    assert all(width >= 128 and height >= 128 for width, height in sizes)
    assert sizes or name == "morph_as_a_video"
    assert page.evaluate(AMISS) == []
    page.evaluate("() => kandinsky22.fit()")
    page.wait_for_timeout(300)
    user.keep_screenshot(page, f"template {name}")
    if name in LEAD:
        first = user.saved_picture(page)
        user.run(page, server)
        assert user.saved_picture(page) != first  # its seed is set to randomize


def test_six_are_for_everyday_use():
    assert len(LEAD) == 6


@pytest.mark.parametrize("width, height", [(1366, 768), (1600, 1000), (1920, 1080)])
@pytest.mark.parametrize("renderer", ["classic", "nodes 2.0"])
def test_opens_readable_and_tidy(server, renderer, width, height):
    """At the scale that the page itself chooses for a template."""
    faults = {}
    vue = {"Comfy_VueNodes_Enabled": renderer == "nodes 2.0"}
    with open_page(server.url, width, height, **vue) as page:
        for name, path in TEMPLATES.items():
            page.evaluate(OPEN, json.loads(path.read_text()))
            page.wait_for_timeout(700)  # Nodes 2.0 measures what it has drawn
            faults[name] = page.evaluate("() => kandinsky22.layoutFaults()")
            user.keep_screenshot(page, f"layout {name} {renderer} {width}")
        ours = "/extensions/kandinsky22/"
        assert not [m.text for m in page.console_messages() if ours in m.location["url"]]
    assert {name: found for name, found in faults.items() if found} == {}


def test_layout_faults_are_found(page):
    """Each kind of fault, made by hand, is named."""
    page.evaluate(OPEN, json.loads(TEMPLATES["text_to_image"].read_text()))
    page.wait_for_timeout(700)
    assert page.evaluate("() => kandinsky22.layoutFaults()") == []
    page.evaluate(
        """() => { const at = type => app.graph._nodes.find(n => n.type == type)
          at('VAEDecode').pos = [...at('Kandinsky22Prior').pos]
          at('MarkdownNote').setSize([200, 60])
          const group = new LiteGraph.LGraphGroup('Frame')
          group.pos = [800, 90]; group.size = [200, 100]
          app.graph.add(group); group.recomputeInsideNodes()
          group._children?.add(at('Kandinsky22Decoder')); group._nodes = [at('Kandinsky22Decoder')]
          app.canvas.ds.scale = 0.5; app.canvas.draw(true, true) }"""
    )
    page.wait_for_timeout(500)
    said = " | ".join(page.evaluate("() => kandinsky22.layoutFaults()"))
    for words in ("the scale is 0.50", "overlaps", "runs behind", "sticks out of", "a note is"):
        assert words in said, said
