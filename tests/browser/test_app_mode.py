"""Text to Image and Mix are also apps, with their inputs, the picture and Run."""

import json

import pytest
from helpers import browser_user as user
from helpers.checkout import WORKFLOWS
from helpers.templates import TEMPLATES

APPS = {
    "text_to_image": ["prompt", "negative_prompt", "width", "height", "seed"],
    "mix_pictures_and_words": [
        *("picture", "count.weight_1", "picture", "count.weight_2"),
        *("prompt", "count.weight_3", "seed"),
    ],
}


@pytest.mark.parametrize("name", APPS)
def test_runs_as_an_app(page, server, name):
    graph = json.loads(TEMPLATES[name].read_text())
    shown = graph["extra"]["linearData"]
    assert [widget for _, widget, *_ in shown["inputs"]] == APPS[name]
    api = json.loads((WORKFLOWS / "api" / f"{name}.json").read_text())
    assert all(widget in api[str(node)]["inputs"] for node, widget, *_ in shown["inputs"])
    types = {node["id"]: node["type"] for node in graph["nodes"]}
    assert [types[number] for number in shown["outputs"]] == ["SaveImage"]

    user.open_template(page, name)
    user.take_few_steps(page, 4)
    page.evaluate("() => app.extensionManager.command.execute('Comfy.ToggleLinear')")
    before, done = set(server.get("/history")), set()
    # Newer versions of ComfyUI's web interface offer a tutorial first.
    skip = page.get_by_role("button", name="Skip", exact=True)
    page.add_locator_handler(skip, lambda button: button.click())
    page.get_by_test_id("linear-run-button").get_by_text("Run", exact=True).last.click()
    page.remove_locator_handler(skip)
    for _ in range(300):
        page.wait_for_timeout(200)
        if done := set(server.get("/history")) - before:
            break
    user.keep_screenshot(page, f"app {name}")
    page.evaluate("() => app.extensionManager.command.execute('Comfy.ToggleLinear')")
    (report,) = (server.get("/history")[number] for number in done)
    assert report["status"]["status_str"] == "success"
    assert any("images" in output for output in report["outputs"].values())
