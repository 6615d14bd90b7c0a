"""The blueprints: in the node library, dragged onto the canvas, wired, run."""

import browser_user as user
import pytest
from checkout import PACK

from tools.page import open_page

NAMES = sorted(path.stem for path in (PACK / "subgraphs").glob("*.json"))
SIZES = {"Outpaint (Kandinsky 2.2)": [256, 128]}
# A blue picture with a white square as mask for whoever asks; what comes out is shown.
WIRE = """() => {
  const [box] = app.graph._nodes
  const add = (type, x, y, widgets = {}) => {
    const node = LiteGraph.createNode(type)
    node.pos = [x, y]
    app.graph.add(node)
    for (const [name, value] of Object.entries(widgets))
      node.widgets.find(w => w.name == name).value = value
    return node
  }
  const [x, y] = box.pos
  const size = {width: 128, height: 128}
  for (const [i, input] of box.inputs.entries()) {
    if (input.type == 'IMAGE')
      add('EmptyImage', x - 300, y + 170 * i, {...size, color: 2113744}).connect(0, box, i)
    if (input.type == 'MASK')
      add('SolidMask', x - 300, y + 170 * i, {...size, value: 1}).connect(0, box, i)
  }
  for (const [i] of box.outputs.entries())
    box.connect(i, add('PreviewImage', x + box.size[0] + 60, y + 300 * i), 0)
}"""


@pytest.fixture
def page(server):
    """One for each: the page keeps previews by a node's number, also for the next graph."""
    with open_page(server.url) as page:
        yield page


@pytest.mark.parametrize("name", NAMES)
def test_from_the_library_to_a_picture(page, server, name):
    user.clear(page)
    user.drag_from_library(page, name, 600, 250)
    page.wait_for_function("() => app.graph._nodes.length == 1")
    page.evaluate(WIRE)
    user.take_few_steps(page, 4)
    sizes = user.run(page, server)
    assert sizes and all(size == SIZES.get(name, [128, 128]) for size in sizes)
    page.evaluate("() => kandinsky22.fit()")
    page.wait_for_timeout(300)
    user.keep_screenshot(page, f"blueprint {name}")


def test_there_are_blueprints():
    assert len(NAMES) == 6
