"""Every node has a help page, and everything that it names exists."""

import ast
import functools
import json
import re
from io import BytesIO

import pytest
from comfy_api.latest import io
from helpers.checkout import PACK, WORKFLOWS
from helpers.templates import TEMPLATES
from kandinsky22.nodes import NODES
from PIL import Image

from tools.export_workflows import api_path, help_picture
from tools.picture_page import wired_picture
from tools.thumbnails import HELP_SIDE

HELP = PACK / "web" / "docs"
PAGES = {path.stem: path.read_text("utf-8") for path in HELP.glob("*.md")}
RUSSIAN = {path.parent.name: path.read_text("utf-8") for path in HELP.glob("*/ru.md")}
USED = {  # template → the types of its nodes
    path.stem.split(" - ")[1]: {
        node["type"] for node in json.loads(path.read_text("utf-8"))["nodes"]
    }
    for path in WORKFLOWS.glob("*.json")
}

each_node = pytest.mark.parametrize("node", NODES, ids=lambda node: node.__name__)
EVERY_PAGE = PAGES | {f"{node_id}/ru": page for node_id, page in RUSSIAN.items()}
each_page = pytest.mark.parametrize("page", EVERY_PAGE.values(), ids=EVERY_PAGE)
each_id = pytest.mark.parametrize("node_id", PAGES)


@pytest.fixture(autouse=True)
def folders(models):
    """Loaders list the content of ComfyUI's folders."""


def names(text: str) -> set[str]:
    """Return the texts in backticks."""
    return set(re.findall(r"`([^`\n]+)`", text))


def titles(text: str) -> set[str]:
    """Return the templates to which it links. web/open_template.js opens them."""
    return set(re.findall(r"\[([^]]+)\]\(#kandinsky22-template\)", text))


@functools.cache
def said_by_the_code() -> list[str]:
    """Return every text in the pack's Python. The parts of an f-string count as texts."""
    files = [*(PACK / "utils").rglob("*.py"), *(PACK / "nodes").glob("*.py")]
    nodes = [node for file in files for node in ast.walk(ast.parse(file.read_text("utf-8")))]
    constants = [node.value for node in nodes if isinstance(node, ast.Constant)]
    return [value for value in constants if isinstance(value, str)]


def test_every_node_has_a_page_and_every_page_a_node():
    assert set(PAGES) == set(RUSSIAN) == {node.define_schema().node_id for node in NODES}


def inputs_of(schema) -> tuple[dict[str, io.Input], dict[str, io.Input]]:
    """Return name → input, including the inputs that come with a choice."""
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
    assert re.findall(r"^## (.+)$", page, re.M) == [
        "How to connect it",
        "If something goes wrong",
        "See also",
    ]
    assert 12 <= len(page.splitlines()) <= 42


@each_node
def test_explains_every_input_and_output(node):
    schema = node.define_schema()
    first = PAGES[schema.node_id].partition("## How to connect it")[0]
    here, brought = inputs_of(schema)
    explained = names(" ".join(re.findall(r"^- (`.+?): ", first, re.M)))
    assert set(here) <= explained <= set(here) | set(brought)
    given = names(" ".join(re.findall(r"^Gives (.+?)\n\n", first, re.M | re.S)))
    assert {item.display_name or item.id for item in schema.outputs} <= given


@each_node
def test_wires(node):
    """Inputs are above the bar (source → input), and outputs are below it (output → target)."""
    schema = node.define_schema()
    page = PAGES[schema.node_id]
    lines = re.findall(r"```\n(.+?)\n```", page, re.S)[0].splitlines()
    assert max(len(line) for line in lines) <= 36  # ComfyUI shows it in a narrow column
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
    named = titles(PAGES[node_id].partition("## See also")[2])
    assert named <= set(USED)
    using = {name for name, types in USED.items() if node_id in types}
    assert not using or named & using


@each_page
def test_links_and_files(page):
    # ComfyUI resolves a link from the server's root, so links between help pages would not work.
    assert not re.findall(r"(?<!!)\[[^]]*\]\((?!https?://|#kandinsky22-template\))", page)
    assert titles(page) <= set(USED)
    for name in re.findall(r"\b(?:scripts|docs|workflows)/[\w./]+\w", page):
        assert (PACK / name).exists(), name


def quoted(page: str) -> list[str]:
    """Return the messages that a help page quotes."""
    found = re.findall(r'\*\*"(.+?)"', page, re.S)
    return [message.replace("\n  ", " ") for message in found]


@each_page
def test_messages_are_the_codes_own(page):
    said = said_by_the_code()
    for message in quoted(page):
        for part in message.split("…"):
            assert any(part.strip() in text for text in said), message


# --- pictures -------------------------------------------------------------------------------------


def pictures(page: str) -> list[tuple[str, str]]:
    """Return the alternative text and the address of each picture."""
    return re.findall(r"^!\[(.*)\]\((.*)\)$", page, re.M)


@each_id
def test_a_picture_is_below_the_first_paragraph(node_id):
    """It is the picture of a template with the node, or of the node (tools/picture_page.py)."""
    shown = {
        f"pictures/{api_path(path).stem}.jpg"
        for path in WORKFLOWS.glob("*.json")
        if node_id in USED[path.stem.split(" - ")[1]]
    }
    ((text, address),) = pictures(PAGES[node_id])
    assert address in shown if shown else address == f"pictures/{wired_picture(node_id)}"
    assert PAGES[node_id].split("\n\n")[2] == f"![{text}]({address})"
    assert len(text) > 20 and text.endswith(".")


def test_every_picture_is_there_in_its_size_and_used():
    named = {address for page in PAGES.values() for _, address in pictures(page)}
    assert named == {f"pictures/{path.name}" for path in (HELP / "pictures").iterdir()}
    for name in named:
        picture = Image.open(HELP / name)
        assert picture.format == "JPEG"
        if name.endswith("_wired.jpg"):
            assert HELP_SIDE < picture.width < 2 * HELP_SIDE
        else:
            assert picture.size == (HELP_SIDE, HELP_SIDE)


def test_a_new_thumbnail_brings_a_new_help_picture():
    path = TEMPLATES["inpaint"]
    thumbnail = path.with_suffix(".jpg").read_bytes()
    ((picture, content),) = help_picture(path, thumbnail).items()
    assert picture == HELP / "pictures" / "inpaint.jpg"
    assert Image.open(BytesIO(content)).size == (HELP_SIDE, HELP_SIDE)
    assert help_picture(path, None) == {}  # it is there already
    assert help_picture(TEMPLATES["ksampler"], thumbnail) == {}  # no page shows it


# --- in Russian -----------------------------------------------------------------------------------

IN_RUSSIAN = json.loads((PACK / "locales" / "ru" / "nodeDefs.json").read_text("utf-8"))


@each_id
def test_russian_page_has_what_the_english_one_has(node_id):
    russian, english = RUSSIAN[node_id], PAGES[node_id]
    heads = ["Как соединить", "Если что-то не так", "Смотрите также"]
    assert re.findall(r"^## (.+)$", russian, re.M) == heads
    parts = [re.split(r"^## .+$", page, flags=re.M) for page in (russian, english)]
    for ours, theirs in zip(*parts, strict=True):
        assert ours.count("\n- ") == theirs.count("\n- ")
    assert quoted(russian) == quoted(english)
    assert titles(parts[0][-1]) == titles(parts[1][-1])
    addresses = [[address for _, address in pictures(page)] for page in (russian, english)]
    assert addresses[0] == addresses[1]
    assert len(russian.splitlines()) <= 42


@each_id
def test_russian_page_names_what_the_node_shows_in_russian(node_id):
    shown, page = IN_RUSSIAN[node_id], RUSSIAN[node_id]
    assert page.startswith(f"# {shown['display_name']}\n")
    first, _, rest = page.partition("## Как соединить")
    explained = names(" ".join(re.findall(r"^- (`.+?): ", first, re.M)))
    inputs = {item["name"] for item in shown["inputs"].values()}
    later = {item["name"] for key, item in shown["inputs"].items() if key.startswith("count_")}
    assert inputs - later <= explained <= inputs
    outputs = {item["name"] for item in shown["outputs"].values()}
    assert outputs <= names(" ".join(re.findall(r"^Выходы?: (.+?)\n\n", first, re.M | re.S)))
    lines = re.findall(r"```\n(.+?)\n```", rest, re.S)[0].splitlines()
    assert max(len(line) for line in lines) <= 36
    bar = next(i for i, line in enumerate(lines) if line.startswith("─"))
    assert shown["display_name"].startswith(lines[bar].strip("─ "))
    assert set(re.findall(r"→ (.+)$", "\n".join(lines[:bar]), re.M)) <= inputs
    assert {line.split(" →")[0] for line in lines[bar + 1 :] if "→" in line[1:]} <= outputs
