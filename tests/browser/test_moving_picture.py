"""A run shows its progress on the canvas. Its screenshots are the GIF of the README."""

import pytest
from helpers import browser_user as user

from tools.page import open_page


@pytest.fixture
def page(server):
    with open_page(server.url, Comfy_Minimap_Visible=False) as page:
        yield page


def test_a_run_shows_its_progress(page, server):
    """The picture appears from the noise on the decoder's node. The frames are the README's GIF."""
    user.open_template(page, "text_to_image")
    user.free_memory(server)  # otherwise the picture may come from the cache
    page.evaluate("() => app.graph.remove(app.graph._nodes.find(n => n.type == 'MarkdownNote'))")
    page.evaluate("() => app.graph._nodes.filter(n => n.mode == 4).map(n => app.graph.remove(n))")
    page.evaluate("() => [...app.graph._groups].map(group => app.graph.remove(group))")
    page.evaluate("() => kandinsky22.fit()")
    decoder = page.evaluate("() => app.graph._nodes.find(n => n.type == 'Kandinsky22Decoder').id")
    # enough steps for several screenshots, even on a slow machine
    page.evaluate(
        "id => app.graph.getNodeById(id).widgets.find(w => w.name == 'steps').value = 200", decoder
    )
    frames, previews = [], set()
    page.get_by_test_id("queue-button").click()
    for _ in range(200):
        frames.append(user.frame(page))
        previews |= set(page.evaluate("id => app.nodePreviewImages[id] ?? []", decoder))
        if all(page.evaluate(user.PICTURES)):
            break
        page.wait_for_timeout(100)
    frames.append(user.frame(page))
    assert len(previews) > 3
    user.keep_moving_picture(frames, "run")
