"""Check workflows/ and subgraphs/ in ComfyUI's web interface, and write the files made from them.

The JSON files are edited in ComfyUI. Open one, change it, and save it over the old one. Then run

    python tools/export_workflows.py [NAME …] [--check] [--pictures] [--screenshots DIR]

It opens every file in ComfyUI's web interface (which needs Chromium) and saves it in one stable
form. Then it writes the form for the API to workflows/api/, and runs the graph on a server. It
names each file with what was written or what is wrong, and fails if anything is wrong.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

if __name__ == "__main__":
    ROOT = Path(__file__).resolve().parents[1]
    sys.path[0] = str(ROOT)  # see scripts/__init__.py

    from scripts import host

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from scripts.comfyui import Server

PACK = Path(__file__).resolve().parents[1]
FOLDERS = ("workflows", "subgraphs")
HELP = PACK / "web" / "docs"
CATEGORY = "Kandinsky 2.2"  # of the blueprints, as ComfyUI's web interface does not save it
# linearData is the data of app mode. The other keys are how the last user looked at the graph.
KEPT_EXTRA = ("reroutes", "linkExtensions", "linearData")


# How much larger the pictures of the published weights are, and the inputs with these sizes.
LARGER = 6
SIZES = ("width", "height", "x", "y", "largest_size", "left", "top", "right", "bottom")
TILES = {"tile_size": 512, "overlap": 64}
PUBLISHED = {"mini-depth-estimator": "Depth-Anything-V2-Small-hf"}


class WorkflowFault(Exception):
    """A file cannot be shipped as a workflow. The message says why."""


def export(page: Page, path: Path) -> tuple[dict, dict]:
    """Return a workflow or blueprint as the web interface saves it, and the graph to queue."""
    source = json.loads(path.read_text("utf-8"))
    if unknown := page.evaluate("saved => kandinsky22.open(saved)", source):
        raise WorkflowFault(f"ComfyUI has no node {', '.join(unknown)}.")
    blueprint = path.parent.name == "subgraphs"
    # As ComfyUI saves it, because JSON leaves out undefined fields, which Playwright turns into
    # nulls.
    saved = json.loads(page.evaluate("JSON.stringify(app.graph.serialize())"))
    tidy(saved)
    name_pack(saved)
    saved["id"] = source.get("id", saved["id"])
    saved["extra"] = {k: v for k, v in saved["extra"].items() if k in KEPT_EXTRA and v}
    after = widget_values(saved)
    for node, values in widget_values(source).items():
        if after.get(node, [])[: len(values)] != values:
            raise WorkflowFault(f"ComfyUI makes {after.get(node)} of {values} in node {node[1]}.")
    if blueprint:
        saved["definitions"]["subgraphs"][0]["category"] = CATEGORY
        page.evaluate("() => kandinsky22.wire()")
    api = page.evaluate("async () => (await app.graphToPrompt()).output")
    if lost := page.evaluate("api => kandinsky22.lost(api)", api):
        raise WorkflowFault(f"These values are not in the API form: {', '.join(lost)}.")
    if errors := errors_of_pack(page):
        raise WorkflowFault(f"The pack's own scripts fail: {' '.join(errors)}")
    name_published(api)
    return saved, api


def name_published(api: dict) -> None:
    """Say in the titles what to change for the published weights, in the form of batch.py's --set.

    Example: "Load Decoder (Kandinsky 2.2) (published: model_name=kandinsky-2-2-decoder)".
    """
    for node in api.values():
        # Newer versions of ComfyUI's web interface also write which pack a node is of.
        node["_meta"] = {"title": node["_meta"]["title"]}
        changes = {}
        for name, value in node["inputs"].items():
            if name in SIZES and type(value) is int and value:
                changes[name] = LARGER * value
            elif name in TILES:
                changes[name] = TILES[name]
            elif name == "model_name":
                changes[name] = PUBLISHED.get(value, value.replace("-mini", ""))
        if changes:
            said = ", ".join(f"{name}={value}" for name, value in changes.items())
            node["_meta"]["title"] += f" (published: {said})"


def nodes_of(graph: dict) -> dict[tuple, dict]:
    """Return the nodes by the ids of the graph, or of one of its subgraphs, and of the node."""
    parts = [graph, *(graph.get("definitions") or {}).get("subgraphs", [])]
    return {(part.get("id"), node["id"]): node for part in parts for node in part["nodes"]}


def widget_values(graph: dict) -> dict[tuple, list]:
    return {ids: node.get("widgets_values") or [] for ids, node in nodes_of(graph).items()}


def tidy(graph: dict) -> None:
    """Give a graph the same form, whichever version of ComfyUI's web interface saved it.

    Newer versions write values by name besides, leave out an empty list of values and a label that
    is the name, and save wires in another order. Nulls in slots are left out, except for an absent
    wire: ComfyUI's schema has other types there.
    """
    graph["links"].sort()
    for node in nodes_of(graph).values():
        node.pop("widgets_values_named", None)
        if not node.get("widgets_values"):
            node.pop("widgets_values", None)
        for slot in [*node.get("inputs", []), *node.get("outputs", [])]:
            if slot.get("label") == slot.get("localized_name"):
                slot.pop("label", None)
            empty = {key for key, value in slot.items() if value is None} - {"link", "links"}
            for key in empty:
                del slot[key]


def name_pack(graph: dict) -> None:
    """Write into each node of this pack the name of the pack, for ComfyUI-Manager to install."""
    project = tomllib.loads((PACK / "pyproject.toml").read_text("utf-8"))["project"]
    for node in nodes_of(graph).values():
        if node["type"].startswith("Kandinsky22"):
            node["properties"] |= {"cnr_id": project["name"], "ver": project["version"]}


def errors_of_pack(page: Page) -> list[str]:
    """Return what the browser's console says about files in web/, since ComfyUI was opened."""
    ours = "/extensions/kandinsky22/"
    console = [message for message in page.console_messages() if message.type == "error"]
    logged = [message.text for message in console if ours in message.location["url"]]
    return logged + [error.message for error in page.page_errors() if ours in (error.stack or "")]


def export_and_run(server: Server, path: Path, options: argparse.Namespace) -> list[Path]:
    """Write the files made from one file, or none with options.check. Return what differs."""
    from tools.page import open_page

    # A new page each time, because a page remembers widget values by node number after
    # graph.clear().
    with open_page(server.url, 1900, 1000) as page:
        saved, api = export(page, path)
        if options.screenshots:
            take_screenshot(page, server, options.screenshots / f"{path.stem}.png")
    # Chromium is closed by now, because asyncio takes one loop at a time.
    images = server.run(api).images
    written = {path: as_json(saved)}
    if path.parent.name == "workflows":
        written[api_path(path)] = as_json(api)
        thumbnail = path.with_suffix(".jpg")
        if options.pictures or not thumbnail.exists():
            written[thumbnail] = thumbnail_of(server, api, images)
        written |= help_picture(path, written.get(thumbnail))
    changed = [p for p, new in written.items() if not p.exists() or p.read_bytes() != new]
    for file in [] if options.check else changed:
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(written[file])
    return changed


def as_json(content: dict) -> bytes:
    return (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode()


def api_path(path: Path) -> Path:
    """Return the path of a workflow's API form.

    Example: "… - 1 Text to Image.json" → api/text_to_image.json.
    """
    title = re.sub(r"^\d (?=\D)", "", path.stem.split(" - ")[-1])
    return path.parent / "api" / f"{re.sub(r'[^a-z0-9]+', '_', title.lower()).strip('_')}.json"


def thumbnail_of(server: Server, api: dict, images: list[dict]) -> bytes:
    """Return the picture that the template browser shows of a workflow that has run."""
    from tools.thumbnails import draw_thumbnail, example_pictures, saved_pictures

    saved = [image for image in images if image["type"] == "output"]
    if not saved:
        raise WorkflowFault("it saves no picture, which its thumbnail is made of")
    after = [p for image in saved for p in saved_pictures(image["filename"], server.fetch(image))]
    return draw_thumbnail(example_pictures(api), after)


def help_picture(path: Path, thumbnail: bytes | None) -> dict[Path, bytes]:
    """Return the smaller picture for the help pages, if one uses it and the thumbnail is new."""
    from tools.thumbnails import shrink

    picture = HELP / "pictures" / f"{api_path(path).stem}.jpg"
    pages = [page.read_text("utf-8") for page in HELP.glob("*.md")]
    shown = any(f"(pictures/{picture.name})" in page for page in pages)
    if not shown or (thumbnail is None and picture.exists()):
        return {}
    return {picture: shrink(thumbnail or path.with_suffix(".jpg").read_bytes())}


def take_screenshot(page: Page, server: Server, path: Path) -> None:
    """Save a picture of the graph after a run, with the pictures on its nodes."""
    page.evaluate("() => app.queuePrompt(0, 1)")
    page.wait_for_timeout(1000)
    while any(server.get("/queue").values()):
        page.wait_for_timeout(500)
    page.evaluate("() => kandinsky22.fit()")
    page.wait_for_timeout(1500)
    path.parent.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=path)


def export_all(paths: list[Path], options: argparse.Namespace) -> int:
    """Print a line for each file. Return how many are wrong, or would change with --check."""
    from playwright.sync_api import Error as PageError

    from scripts import host
    from scripts.comfyui import Server, WorkflowError

    faults = (WorkflowFault, WorkflowError, PageError, TimeoutError, json.JSONDecodeError)
    failures = 0
    with tempfile.TemporaryDirectory() as base, Server(host.ensure(), Path(base)) as server:
        for path in paths:
            try:
                changed = export_and_run(server, path, options)
                names = ", ".join(file.relative_to(PACK).as_posix() for file in changed)
                failures += bool(changed and options.check)
                verb = "WOULD CHANGE" if options.check else "written:"
                verdict = f"{verb} {names}" if changed else "unchanged"
            except faults as fault:
                failures += 1
                verdict = f"WRONG: {fault}"
            print(f"{path.relative_to(PACK)}: {verdict}", flush=True)
    return failures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="names or titles of files (default: all)")
    parser.add_argument(
        "--check", action="store_true", help="write nothing, and fail if a file would change"
    )
    parser.add_argument("--pictures", action="store_true", help="also write all thumbnails again")
    parser.add_argument("--screenshots", type=Path, help="folder for pictures of the graphs")
    options = parser.parse_args()
    python = host.ensure().python
    if Path(sys.prefix) != python.parents[1]:
        return subprocess.call([python, *sys.argv])
    files = [file for folder in FOLDERS for file in sorted((PACK / folder).glob("*.json"))]
    names = {path: {path.stem, api_path(path).stem} for path in files}
    if unknown := set(options.names) - set().union(*names.values()):
        parser.error(f"no workflow or blueprint is called {', '.join(sorted(unknown))}")
    chosen = [path for path in files if not options.names or names[path] & set(options.names)]
    return 1 if export_all(chosen, options) else 0


if __name__ == "__main__":
    sys.exit(main())
