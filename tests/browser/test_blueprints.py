"""Each blueprint can be dragged from the node library onto the canvas, connected and run."""

import pytest
from helpers import browser_user as user
from helpers.checkout import PACK

NAMES = sorted(path.stem for path in (PACK / "subgraphs").glob("*.json"))
SIZES = {"Outpaint (Kandinsky 2.2)": [256, 128]}


@pytest.mark.parametrize("name", NAMES)
def test_from_the_library_to_a_picture(page, server, name):
    user.clear(page)
    user.drag_from_library(page, name, 600, 250)
    page.wait_for_function("() => app.graph._nodes.length == 1")
    page.evaluate("() => kandinsky22.wire()")
    user.take_few_steps(page, 4)
    sizes = user.run(page, server)
    assert sizes and all(size == SIZES.get(name, [128, 128]) for size in sizes)
    page.evaluate("() => kandinsky22.fit()")
    page.wait_for_timeout(300)
    user.keep_screenshot(page, f"blueprint {name}")


def test_there_are_blueprints():
    assert len(NAMES) == 6
