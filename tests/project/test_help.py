"""Every node has a help page, and what the page names is there."""

import ast
import functools
import json
import re

import pytest
from comfy_api.latest import io
from helpers.checkout import PACK, WORKFLOWS
from kandinsky22.nodes import NODES

PAGES = {path.stem: path.read_text("utf-8") for path in (PACK / "web" / "docs").glob("*.md")}
USED = {  # template → the types of its nodes
    path.stem.split(" - ")[1]: {
        node["type"] for node in json.loads(path.read_text("utf-8"))["nodes"]
    }
    for path in WORKFLOWS.glob("*.json")
}

each_node = pytest.mark.parametrize("node", NODES, ids=lambda node: node.__name__)
each_page = pytest.mark.parametrize("page", PAGES.values(), ids=PAGES)


@pytest.fixture(autouse=True)
def folders(models):
    """Loaders list what is in the host's folders."""


def names(text: str) -> set[str]:
    """What stands in backticks."""
    return set(re.findall(r"`([^`\n]+)`", text))


@functools.cache
def said_by_the_code() -> list[str]:
    """Every text in the pack's Python; an f-string is its parts."""
    files = [*(PACK / "utils").rglob("*.py"), *(PACK / "nodes").glob("*.py")]
    nodes = [node for file in files for node in ast.walk(ast.parse(file.read_text("utf-8")))]
    constants = [node.value for node in nodes if isinstance(node, ast.Constant)]
    return [value for value in constants if isinstance(value, str)]


def test_every_node_has_a_page_and_every_page_a_node():
    assert set(PAGES) == {node.define_schema().node_id for node in NODES}


def inputs_of(schema) -> tuple[dict[str, io.Input], dict[str, io.Input]]:
    """Name → input: those that are always there, and those that a choice brings."""
    combos = [item for item in schema.inputs if isinstance(item, io.DynamicCombo.Input)]
    later = [item for combo in combos for option in combo.options for item in option.inputs]
    here, brought = (
        {item.display_name or item.id: item for item in items} for items in (schema.inputs, later)
    )
    return here, brought


@each_node
def test_parts(node):
    schema = node.define_schema()
    page = PAGES[schema.node_id]
    assert page.startswith(f"# {schema.display_name}\n")
    assert re.findall(r"^## (.+)$", page, re.M) == ["Wired", "What goes wrong", "See"]
    assert 12 <= len(page.splitlines()) <= 40


@each_node
def test_explains_every_input_and_output(node):
    schema = node.define_schema()
    first = PAGES[schema.node_id].partition("## Wired")[0]
    here, brought = inputs_of(schema)
    explained = names(" ".join(re.findall(r"^- (`.+?): ", first, re.M)))
    assert set(here) <= explained <= set(here) | set(brought)
    given = names(" ".join(re.findall(r"^Gives (.+?)\n\n", first, re.M | re.S)))
    assert {item.display_name or item.id for item in schema.outputs} <= given


@each_node
def test_wires(node):
    """Above the bar what comes in, source → input; below it what goes out, output → target."""
    schema = node.define_schema()
    page = PAGES[schema.node_id]
    lines = re.findall(r"```\n(.+?)\n```", page, re.S)[0].splitlines()
    assert max(len(line) for line in lines) <= 36  # the page shows it in a narrow column
    bar = next(i for i, line in enumerate(lines) if line.startswith("─"))
    assert schema.display_name.startswith(lines[bar].strip("─ "))
    here, brought = inputs_of(schema)
    widgets = (io.WidgetInput, io.DynamicCombo.Input)
    sockets = {name for name, item in here.items() if not isinstance(item, widgets)}
    wired = set(re.findall(r"→ (\w+)$", "\n".join(lines[:bar]), re.M))
    assert sockets <= wired <= sockets | set(brought)
    left = set(re.findall(r"^(\w+) →", "\n".join(lines[bar:]), re.M))
    assert left == {item.display_name or item.id for item in schema.outputs}


@each_node
def test_names_templates_that_are_there_and_one_that_uses_the_node(node):
    node_id = node.define_schema().node_id
    named = names(PAGES[node_id].partition("## See")[2])
    assert named <= set(USED)
    using = {name for name, types in USED.items() if node_id in types}
    assert not using or named & using


@each_page
def test_links_and_files(page):
    # The page resolves a link against the server's root, so none between pages would work.
    assert not re.findall(r"\]\((?!https?://)", page)
    for name in re.findall(r"\b(?:scripts|docs|workflows)/[\w./]+\w", page):
        assert (PACK / name).exists(), name


@each_page
def test_messages_are_the_codes_own(page):
    said = said_by_the_code()
    for quoted in re.findall(r'\*\*"(.+?)"', page, re.S):
        for part in quoted.replace("\n  ", " ").split("…"):
            assert any(part.strip() in text for text in said), quoted
