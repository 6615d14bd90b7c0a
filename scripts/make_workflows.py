"""Write workflows/*.json, workflows/api/*.json and workflows/*.jpg from workflow_graphs.py.

The page itself writes the files: the graph is built in it as a user would, laid out in columns,
saved, exported, and run for its picture. Needs Chromium; run it after a node's inputs or a graph
have changed.

    python scripts/make_workflows.py [NAME …] [--screenshots DIR]
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scripts import host

PACK = Path(__file__).resolve().parents[1]
WORKFLOWS = PACK / "workflows"

# Builds one graph in the page: nodes, widgets, wires, columns, groups.
BUILD = """
async ({nodes, groups}) => {
  app.graph.clear();
  const made = {};
  for (const spec of nodes) {
    const node = LiteGraph.createNode(spec.type);
    if (!node) throw new Error('unknown node ' + spec.type);
    if (spec.title) node.title = spec.title;
    app.graph.add(node);
    made[spec.number] = node;
    for (const [name, value] of Object.entries(spec.widgets)) {
      const note = spec.type == 'MarkdownNote';  // its one widget has no name
      const widget = note ? node.widgets[0] : (node.widgets || []).find(w => w.name == name);
      if (!widget) throw new Error(spec.type + ' has no widget ' + name);
      widget.value = value;
    }
    const control = (node.widgets || []).find(w => w.name == 'control_after_generate');
    if (control) control.value = 'fixed';
    if (spec.off) node.mode = 4;
  }
  for (const spec of nodes)
    for (const [name, [source, slot]] of Object.entries(spec.links)) {
      const target = made[spec.number];
      const index = target.inputs.findIndex(i => i.name == name);
      if (index < 0) throw new Error(spec.type + ' has no input ' + name);
      if (!made[source].connect(slot, target, index))
        throw new Error(spec.type + ' does not take ' + name);
    }
  const gap = 70, between = 80;
  let x = 0;
  const columns = [...new Set(nodes.map(n => n.column))].sort((a, b) => a - b);
  for (const column of columns) {
    let y = 0, width = 0;
    for (const spec of nodes.filter(n => n.column == column)) {
      const node = made[spec.number], least = node.computeSize();
      const tall = {MarkdownNote: 260, PreviewImage: 240, SaveImage: 300}[spec.type] || 0;
      node.size = [Math.max(spec.column ? 310 : 400, least[0]), Math.max(least[1], tall)];
      node.pos = [x, y];
      y += node.size[1] + gap;
      width = Math.max(width, node.size[0]);
    }
    for (const spec of nodes.filter(n => n.column == column))
      made[spec.number].size[0] = width;
    x += width + between;
  }
  for (const [title, members] of groups) {
    const boxes = members.map(number => made[number]);
    const left = Math.min(...boxes.map(n => n.pos[0])) - 15;
    const top = Math.min(...boxes.map(n => n.pos[1])) - 60;
    const right = Math.max(...boxes.map(n => n.pos[0] + n.size[0])) + 15;
    const bottom = Math.max(...boxes.map(n => n.pos[1] + n.size[1])) + 8;
    const group = new LiteGraph.LGraphGroup(title);
    group.pos = [left, top];
    group.size = [right - left, bottom - top];
    app.graph.add(group);
  }
  app.graph.updateExecutionOrder();
  const api = (await app.graphToPrompt()).output;
  return {ui: app.graph.serialize(), api};
}
"""

# Brings the whole graph into view.
FIT = """
() => {
  const boxes = [...app.graph._nodes, ...app.graph._groups];
  const left = Math.min(...boxes.map(b => b.pos[0])) - 40;
  const top = Math.min(...boxes.map(b => b.pos[1])) - 60;
  const right = Math.max(...boxes.map(b => b.pos[0] + b.size[0])) + 40;
  const bottom = Math.max(...boxes.map(b => b.pos[1] + b.size[1])) + 40;
  const view = app.canvas.canvas.getBoundingClientRect();
  const scale = Math.min((view.width - 70) / (right - left), (view.height - 90) / (bottom - top));
  app.canvas.ds.scale = scale;
  app.canvas.ds.offset = [70 / scale - left, 90 / scale - top];
  app.canvas.setDirty(true, true);
}
"""


def description(graph) -> dict:
    nodes = []
    for node in graph.nodes:
        links = {k: [v[0].number, v[1]] for k, v in node.inputs.items() if isinstance(v, tuple)}
        widgets = {k: v for k, v in node.inputs.items() if not isinstance(v, tuple)}
        nodes.append(
            dict(
                number=node.number,
                type=node.type,
                title=node.title,
                column=node.column,
                off=node.off,
                links=links,
                widgets=widgets,
            )
        )
    groups = [(title, [node.number for node in members]) for title, members in graph.groups]
    return {"nodes": nodes, "groups": groups}


def write(names: list[str], screenshots: Path | None) -> None:
    from scripts.comfyui import Server
    from scripts.page import open_page
    from scripts.workflow_graphs import GRAPHS

    (WORKFLOWS / "api").mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as base, Server(host.ensure(), Path(base)) as server:
        for graph in [make() for make in GRAPHS]:
            if names and graph.name not in names:
                continue
            # A page each: it remembers widget values by node number, beyond graph.clear().
            with open_page(server.url, 1900, 1000) as page:
                made = page.evaluate(BUILD, description(graph))
                made["ui"]["extra"] = {}
                for path, content in (
                    (WORKFLOWS / f"{graph.name}.json", made["ui"]),
                    (WORKFLOWS / "api" / f"{graph.name}.json", made["api"]),
                ):
                    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
                    print(path.relative_to(PACK))
                page.evaluate(FIT)
                page.evaluate("() => app.queuePrompt(0, 1)")
                page.wait_for_timeout(1000)
                while any(server.get("/queue").values()):
                    page.wait_for_timeout(500)
                if screenshots:
                    page.wait_for_timeout(1500)
                    screenshots.mkdir(parents=True, exist_ok=True)
                    page.screenshot(path=screenshots / f"{graph.name}.png")
            images = server.run(made["api"]).images  # what the page has just made
            saved = [image for image in images if image["type"] == "output"]
            save_thumbnail(server.fetch(saved[-1]), WORKFLOWS / f"{graph.name}.jpg")


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
