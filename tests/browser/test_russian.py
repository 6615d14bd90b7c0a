"""Our nodes, their inputs and outputs, and their help are in Russian in the web interface."""

import json

import pytest
from helpers import browser_user as user
from helpers.checkout import PACK

from tools.page import open_page

RUSSIAN = json.loads((PACK / "locales/ru/nodeDefs.json").read_text())


@pytest.fixture(scope="module")
def page(server):
    with open_page(server.url, Comfy_Locale="ru") as page:
        yield page
    server.post("/settings", {"Comfy.Locale": "en"})


@pytest.mark.parametrize("node_id", ["Prior", "Inpaint", "DepthHint", "LoadDecoder"])
def test_a_node_is_in_russian(page, node_id):
    node_id = "Kandinsky22" + node_id
    number = user.put_node(page, node_id, 80, 80)
    title, inputs, outputs = page.evaluate(
        """id => {
          const node = app.graph.getNodeById(id)
          const names = slots => slots.map(s => [s.name, s.label ?? s.localized_name])
          return [node.title, names(node.inputs), names(node.outputs)]
        }""",
        number,
    )
    expected = RUSSIAN[node_id]
    assert title == expected["display_name"]
    for name, label in inputs:
        assert label == expected["inputs"][name]["name"]
    for i, (_, label) in enumerate(outputs):
        assert label == expected["outputs"][str(i)]["name"]
    user.keep_screenshot(page, f"russian {node_id}")


@pytest.mark.parametrize("node_id", ["Prior", "GetModels", "LoadUNet"])
def test_help_is_in_russian(page, node_id):
    node_id = "Kandinsky22" + node_id
    user.put_node(page, node_id)
    page.get_by_test_id("info-button").first.click()
    page.get_by_role("heading", name=RUSSIAN[node_id]["display_name"]).first.wait_for()
    page.get_by_role("heading", name="Как соединить").first.wait_for()
    user.wait_for_help_picture(page)
    user.keep_screenshot(page, f"russian help {node_id}")


def test_a_missing_model_is_said_in_russian(page):
    number = user.put_node(page, "Kandinsky22LoadDecoder", 80, 80)
    user.set_widget(page, number, "model_name", "kandinsky-2-2-decoder")
    badges = "id => app.graph.getNodeById(id).badges.map(b => (b.call ? b() : b).text)"
    assert page.evaluate(badges, number)[-1] == "нет на этом компьютере: добавьте Get Models"


def test_the_search_answers_in_russian(page):
    user.clear(page)
    name = RUSSIAN["Kandinsky22Inpaint"]["display_name"]
    assert user.search(page, name[: user.LONGEST_SEARCH])[0].startswith(name)
    user.keep_screenshot(page, "russian search")
