"""The template browser lists our templates with pictures and opens each. Each runs unchanged."""

import pytest
from helpers import browser_user as user
from helpers.templates import TEMPLATES

LEAD = [name for name, path in TEMPLATES.items() if path.stem.split(" - ")[1][1] == " "]
# An unknown node, or one that lacks an input, has errors.
AMISS = """() => app.graph._nodes
  .filter(n => n.has_errors || !LiteGraph.registered_node_types[n.type]).map(n => n.type)"""


def test_the_browser_lists_ours_with_pictures(page):
    user.open_templates(page)
    cards = page.locator("[data-testid^=template-workflow-]")
    listed = [cards.nth(i).get_attribute("data-testid") for i in range(cards.count())]
    titles = [path.stem for path in TEMPLATES.values()]
    assert sorted(listed) == sorted(f"template-workflow-{title}" for title in titles)
    for title in titles:
        card = page.get_by_test_id(f"template-workflow-{title}")
        card.scroll_into_view_if_needed()  # pictures are loaded when they come into view
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
    # Nodes have grown by the previews of their last step, and by their saved pictures.
    assert page.evaluate("() => kandinsky22.layoutFaults({ leastScale: 0, wires: false })") == []
    page.evaluate("() => kandinsky22.fit()")
    page.wait_for_timeout(300)
    user.keep_screenshot(page, f"template {name}")
    if name in LEAD:
        shown, first = page.evaluate(user.SAVED), user.saved_picture(page)
        user.run(page, server)
        # ComfyUI shows the new picture a moment after the run has ended.
        page.wait_for_function(f"shown => String(({user.SAVED})()) != shown", arg=str(shown[0]))
        assert user.saved_picture(page) != first  # the template sets its seed to randomize


def test_six_are_for_everyday_use():
    assert len(LEAD) == 6
