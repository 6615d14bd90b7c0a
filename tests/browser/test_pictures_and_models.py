"""Example Picture shows its picture at once. Get Models runs by its button, and not with Run."""

import json

import pytest
from helpers import browser_user as user

from tools.page import open_page

PICTURE = """async () => {
  const shown = getComputedStyle(app.graph._nodes[0].widgets.find(w => w.name == "shown").element)
  const answer = await fetch(shown.backgroundImage.slice(5, -2))
  const { width } = await createImageBitmap(await answer.blob())
  return [decodeURIComponent(shown.backgroundImage.split("/").pop().slice(0, -2)), width]
}"""


@pytest.fixture(scope="module", params=["classic", "nodes 2.0"])
def page(server, request):
    with open_page(server.url, Comfy_VueNodes_Enabled=request.param == "nodes 2.0") as page:
        yield page


def test_a_picture_is_shown_before_a_run(page):
    node = user.put_node(page, "Kandinsky22ExamplePicture")
    assert page.evaluate(PICTURE) == ["red square.png", 128]
    user.set_widget(page, node, "picture", "mountain lake.png")
    assert page.evaluate(PICTURE) == ["mountain lake.png", 768]
    page.wait_for_timeout(500)
    user.keep_screenshot(page, "example picture")


def test_the_picture_of_a_saved_graph_is_shown_and_not_saved(page):
    node = user.put_node(page, "Kandinsky22ExamplePicture")
    user.set_widget(page, node, "picture", "yellow circle.png")
    saved = json.loads(page.evaluate("() => JSON.stringify(app.graph.serialize())"))
    assert saved["nodes"][0]["widgets_values"] == ["yellow circle.png"]
    assert [item["name"] for item in saved["nodes"][0]["inputs"]] == ["picture"]
    user.clear(page)
    page.evaluate("saved => app.loadGraphData(saved)", saved)
    assert page.evaluate(PICTURE) == ["yellow circle.png", 128]


@pytest.mark.parametrize("mode", [0, 2, 4], ids=["on", "muted", "bypassed"])
def test_the_button_queues_get_models_alone(page, mode):
    node = user.put_node(page, "Kandinsky22GetModels")
    user.put_node(page, "EmptyImage", 500, 100, clear=False)
    user.set_widget(page, node, "repository", "inpaint")
    page.evaluate("([id, mode]) => { app.graph.getNodeById(id).mode = mode }", [node, mode])
    with page.expect_request("**/prompt") as request:
        page.evaluate(
            """id => { const node = app.graph.getNodeById(id)
              node.widgets.find(w => w.type == "button").callback() }""",
            node,
        )
    prompt = request.value.post_data_json["prompt"]
    assert list(prompt) == [str(node)]
    assert prompt[str(node)]["class_type"] == "Kandinsky22GetModels"
    assert prompt[str(node)]["inputs"] == {"repository": "inpaint", "precision": "fp16"}


def test_run_does_not_download(page):
    node = user.put_node(page, "Kandinsky22GetModels")
    picture = user.put_node(page, "EmptyImage", 500, 100, clear=False)
    sent = page.evaluate("async () => (await app.graphToPrompt()).output")
    assert str(picture) in sent and str(node) not in sent
