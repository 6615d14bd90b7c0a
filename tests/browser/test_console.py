"""ComfyUI's web interface reports no error about the files of this pack."""

import json

import pytest
from helpers import browser_user as user
from helpers.checkout import PACK, WORKFLOWS

from tools.page import open_page

SHIPPED = sorted([*WORKFLOWS.glob("*.json"), *(PACK / "subgraphs").glob("*.json")])
OPENED = """name => app.graph._nodes.length > 0
  && app.extensionManager.workflow.activeWorkflow?.path.endsWith(name)"""


@pytest.fixture(scope="module")
def page(server):
    """Nodes 2.0 and ComfyUI's own check of workflows are on. They are off by default."""
    settings = {"Comfy_Validation_Workflows": True, "Comfy_VueNodes_Enabled": True}
    with open_page(server.url, **settings) as page:
        yield page
    server.post("/settings", {"Comfy.Validation.Workflows": False, "Comfy.VueNodes.Enabled": False})


def complaints(page, before: int, graph: dict) -> list[str]:
    """Return the messages of the console from message `before` on, and those in the corner."""
    said = [m for m in page.console_messages()[before:] if m.type in ("warning", "error")]
    # ComfyUI asks there about the models of its own first workflow. And when another workflow
    # follows an app, it looks for the app's inputs in the new graph first.
    is_app = "linearData" in graph.get("extra", {})
    own = ["huggingface.co"] + ["[appModeStore] dropping legacy selectedInput"] * (not is_app)
    console = [m.text for m in said if not any(text in m.text for text in own)]
    return console + page.page_errors() + user.alerts(page).all_inner_texts()


def open_file(page, name: str, content: bytes) -> int:
    """Drop a file on ComfyUI. Return how many console messages there were before."""
    user.clear(page)
    before = len(page.console_messages())
    user.drop_file(page, name, content, "application/json")
    page.wait_for_function(OPENED, arg=name)
    page.wait_for_timeout(300)
    return before


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_nothing_is_said_of_a_shipped_file(page, path):
    before = open_file(page, path.name, path.read_bytes())
    assert complaints(page, before, json.loads(path.read_text())) == []


def test_what_is_amiss_is_heard(page):
    wrong = json.loads(SHIPPED[-1].read_text())
    wrong["nodes"][3]["outputs"][0]["slot_index"] = None
    before = open_file(page, "wrong.json", json.dumps(wrong).encode())
    page.evaluate("() => console.warn('and a warning')")
    console, *shown = complaints(page, before, wrong)
    assert console == "and a warning"
    assert "nodes[3].outputs[0].slot_index" in shown[0]
