"""Write workflows/ (page form, api/, pictures) and subgraphs/.

Their graphs are in workflow_graphs.py and blueprint_graphs.py.

The page itself writes the files: the graph is built in it as a user would, laid out in columns,
saved, exported, and run for its picture. Needs Chromium; run it after a node's inputs or a graph
have changed.

    python tools/make_workflows.py [NAME …] [--screenshots DIR]
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)  # see scripts/__init__.py

from scripts import host  # noqa: E402

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from tools.blueprint_graphs import Blueprint
    from tools.graph import Graph

WORKFLOWS, BLUEPRINTS = ROOT / "workflows", ROOT / "subgraphs"


def write(names: list[str], screenshots: Path | None) -> None:
    from scripts.comfyui import Server
    from tools import blueprint_graphs, workflow_graphs
    from tools.page import open_page

    wanted = [make() for make in (*workflow_graphs.GRAPHS, *blueprint_graphs.BLUEPRINTS)]
    if unknown := set(names) - {graph.name for graph in wanted}:
        raise SystemExit(f"No workflow or blueprint is called {', '.join(unknown)}.")
    with tempfile.TemporaryDirectory() as base, Server(host.ensure(), Path(base)) as server:
        for graph in wanted:
            if names and graph.name not in names:
                continue
            # A page each: it remembers widget values by node number, beyond graph.clear().
            with open_page(server.url, 1900, 1000) as page:
                api = None
                if isinstance(graph, blueprint_graphs.Blueprint):
                    write_blueprint(page, graph)
                else:
                    api = write_workflow(page, graph)
                    page.evaluate("() => app.queuePrompt(0, 1)")
                    page.wait_for_timeout(1000)
                    while any(server.get("/queue").values()):
                        page.wait_for_timeout(500)
                page.evaluate("() => kandinsky22.fit()")
                if screenshots:
                    page.wait_for_timeout(1500)
                    screenshots.mkdir(parents=True, exist_ok=True)
                    page.screenshot(path=screenshots / f"{graph.name}.png")
            if api:
                images = server.run(api).images  # what the page has just made
                saved = [image for image in images if image["type"] == "output"]
                save_thumbnail(server.fetch(saved[-1]), WORKFLOWS / f"{graph.name}.jpg")


def write_workflow(page: Page, graph: Graph) -> dict:
    """Both forms of a workflow; returns the one for the API."""
    made = page.evaluate("graph => kandinsky22.workflow(graph)", graph.described())
    write_json(WORKFLOWS / f"{graph.name}.json", made["ui"] | {"extra": {}})
    write_json(WORKFLOWS / "api" / f"{graph.name}.json", made["api"])
    return made["api"]


def write_blueprint(page: Page, graph: Blueprint) -> None:
    box = dict(name=graph.name, about=graph.about, aliases=graph.aliases)
    box["takes"] = [(name, [(n.number, key) for n, key in to]) for name, to in graph.takes]
    box["gives"] = [(name, (node.number, slot)) for name, (node, slot) in graph.gives]
    ui = page.evaluate(
        "([graph, box]) => kandinsky22.blueprint(graph, box)", [graph.described(), box]
    )
    write_json(BLUEPRINTS / f"{graph.name}.json", without_nulls(ui | {"extra": {}}))


def write_json(path: Path, content: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", "utf-8")
    print(path.relative_to(ROOT))


def without_nulls(value):
    """The page writes a dozen empty fields for every slot of a subgraph; links keep their null."""
    if isinstance(value, dict):
        kept = {key: without_nulls(part) for key, part in value.items()}
        return {k: v for k, v in kept.items() if v is not None or k in ("link", "links")}
    return [without_nulls(part) for part in value] if isinstance(value, list) else value


def save_thumbnail(png: bytes, path: Path, height: int = 384) -> None:
    """What the template browser shows."""
    from PIL import Image

    picture = Image.open(io.BytesIO(png)).convert("RGB")
    width = round(picture.width * height / picture.height)
    picture.resize((width, height), Image.Resampling.LANCZOS).save(path, quality=85)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="which workflows (default: all)")
    parser.add_argument("--screenshots", type=Path, help="also save a picture of each graph")
    options = parser.parse_args()
    python = host.ensure().python
    if Path(sys.prefix) != python.parents[1]:
        return subprocess.call([python, *sys.argv])
    write(options.names, options.screenshots)
    return 0


if __name__ == "__main__":
    sys.exit(main())
