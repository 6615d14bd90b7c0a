"""Act as a user of ComfyUI's web interface, for the tests in tests/browser."""

import base64
import io
import re

from helpers.checkout import PACK
from helpers.templates import TEMPLATES
from PIL import Image

ARTEFACTS = PACK / "artefacts" / "browser"
FRAME = {"x": 60, "y": 40, "width": 1540, "height": 880}  # the canvas without the panels around it
CANVAS = "#graph-canvas"
LONGEST_SEARCH = 30  # beyond 32 letters ComfyUI finds nothing
# The sizes of the pictures on each node that shows some; null for a preview or nothing.
PICTURES = """() => app.graph._nodes
  .filter(n => ['SaveImage', 'PreviewImage'].includes(n.type) && n.mode == 0)
  .map(n => n.imgs?.[0]).map(picture => picture && !picture.src.startsWith('blob:')
    ? [picture.naturalWidth, picture.naturalHeight] : null)"""


def keep_screenshot(page, name: str) -> None:
    ARTEFACTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=ARTEFACTS / f"{name}.png")


def frame(page) -> Image.Image:
    return Image.open(io.BytesIO(page.screenshot(clip=FRAME))).convert("RGB")


def keep_moving_picture(frames: list[Image.Image], name: str) -> None:
    """Save a GIF of at most about 40 frames. The last frame stays for two seconds."""
    frames = frames[:: len(frames) // 40 + 1] + frames[-1:]
    small = [frame.resize((900, 900 * frame.height // frame.width)) for frame in frames]
    palette = small[len(small) // 2].quantize(256, Image.Quantize.FASTOCTREE)
    first, *rest = [frame.quantize(palette=palette, dither=0) for frame in small]
    times = [150] * len(rest) + [2000]
    path = ARTEFACTS / f"{name}.gif"
    first.save(path, save_all=True, append_images=rest, duration=times, loop=0, optimize=True)


def alerts(page):
    """Return the messages in ComfyUI's corner, which can be closed. Others are not shown."""
    return page.get_by_role("alert").filter(has=page.get_by_role("button"))


def free_memory(server) -> None:
    server.post("/free", {"unload_models": True, "free_memory": True})


def clear(page) -> None:
    """Empty the canvas, and forget the previews, which are kept by a node's number."""
    page.evaluate("() => app.clean()")


def open_templates(page) -> None:
    """Open the template browser with this pack's templates."""
    page.get_by_text("Templates", exact=True).first.click()
    page.get_by_text("kandinsky22", exact=True).first.click()
    page.get_by_test_id(f"template-workflow-{TEMPLATES['text_to_image'].stem}").wait_for()


def open_template(page, name: str) -> None:
    """Open a template by the name of its API form."""
    clear(page)
    open_templates(page)
    stem = TEMPLATES[name].stem
    page.get_by_test_id(f"template-workflow-{stem}").click()
    # The nodes are there before their workflow is the active one, which has its own app mode.
    page.wait_for_function(
        """path => app.graph._nodes.length > 0 && RegExp(path).test(
          app.extensionManager.workflow.activeWorkflow?.path)""",
        arg=rf"^workflows/{re.escape(stem)}( \(\d+\))?\.json$",
    )
    page.get_by_test_id("template-workflows-content").wait_for(state="hidden")


def take_few_steps(page, steps: int) -> None:
    """Set few steps, so that a run takes seconds. With `denoise`, set enough to leave one."""
    page.evaluate(
        """steps => {
          const widget = (node, name) => node.widgets?.find(w => w.name == name)
          for (const node of app.graph._nodes)
            if (widget(node, 'steps'))
              widget(node, 'steps').value = widget(node, 'denoise') ? 2 * steps : steps
        }""",
        steps,
    )


def run(page, server) -> list:
    """Press Run. Return the sizes of the pictures that the nodes show at the end."""
    before = set(server.get("/history"))
    page.get_by_test_id("queue-button").click()
    for _ in range(600):
        page.wait_for_timeout(200)
        done = set(server.get("/history")) - before
        if done:
            break
    else:
        raise TimeoutError("The run did not end.")
    (report,) = (server.get("/history")[number] for number in done)
    assert report["status"]["status_str"] == "success", report["status"]["messages"][-1]
    page.wait_for_function(f"() => ({PICTURES})().every(Boolean)")
    return page.evaluate(PICTURES)


# The addresses of the pictures that the nodes Save Image show.
SAVED = "() => app.graph._nodes.filter(n => n.type == 'SaveImage').map(n => n.imgs[0].src)"


def saved_picture(page) -> bytes:
    """Return the picture that the node Save Image shows."""
    (image,) = page.evaluate(SAVED)
    return page.request.get(image.split("&preview")[0]).body()


def search(page, words: str) -> list[str]:
    """Double-click the canvas and type. Return the names found, best first."""
    page.mouse.dblclick(900, 600)
    page.get_by_role("combobox").first.wait_for()
    return search_again(page, words)


def search_again(page, words: str) -> list[str]:
    """Search again in an open search."""
    page.keyboard.press("Control+A")
    page.keyboard.type(words)
    before = None
    for _ in range(60):  # the list fills during typing
        page.wait_for_timeout(100)
        found = page.get_by_role("option").all_inner_texts()
        if found and found == before:
            return found
        before = found
    return []


def place(page, title: str, x: int, y: int) -> int:
    """Place a node from ComfyUI's search, with its top left corner at (x, y). Return its id."""
    before = set(page.evaluate("() => app.graph._nodes.map(n => n.id)"))
    found = search(page, title[:LONGEST_SEARCH])
    page.get_by_role("option").nth([line.split("\n")[0] for line in found].index(title)).click()
    page.wait_for_function("count => app.graph._nodes.length > count", arg=len(before))
    page.wait_for_timeout(200)
    page.mouse.move(700, 500, steps=5)
    page.mouse.click(700, 500)  # until then, it moves with the pointer
    page.wait_for_function("() => !app.graph._nodes.some(n => n.flags.ghost)")
    return page.evaluate(
        """([before, x, y]) => { const node = app.graph._nodes.find(n => !before.includes(n.id))
          node.pos = [x, y]; return node.id }""",
        [sorted(before), x, y],
    )


def put_node(page, type: str, x: int = 100, y: int = 100, clear: bool = True) -> int:
    """Put a node on the canvas and select it. Return its id."""
    return page.evaluate(
        """([type, x, y, clear]) => {
          if (clear) app.graph.clear()
          const node = LiteGraph.createNode(type)
          node.pos = [x, y]
          app.graph.add(node)
          app.canvas.ds.scale = 1
          app.canvas.ds.offset = [200, 100]
          app.canvas.selectNode(node)
          app.canvas.setDirty(true, true)
          return node.id
        }""",
        [type, x, y, clear],
    )


def widgets(page, node: int) -> list[tuple[str, object]]:
    pairs = page.evaluate(
        "id => app.graph.getNodeById(id).widgets.map(w => [w.name, w.value])", node
    )
    return [(name, value) for name, value in pairs if not name.startswith("$$")]


def set_widget(page, node: int, name: str, value) -> None:
    """Set a widget as a click or a key does, with all that depends on it."""
    page.evaluate(
        """([id, name, value]) => {
          const node = app.graph.getNodeById(id), canvas = app.canvas, e = {}
          node.widgets.find(w => w.name == name).setValue(value, {e, node, canvas})
        }""",
        [node, name, value],
    )


def wait_for_help_picture(page) -> None:
    """Wait until the help shows its whole picture."""
    page.wait_for_function(
        """() => {
          const pictures = [...document.querySelectorAll('img[src*="/docs/pictures/"]')]
          return pictures.length > 0 && pictures.every(p => p.naturalWidth >= 256)
        }"""
    )


def drag_from_library(page, name: str, x: int, y: int) -> None:
    page.keyboard.press("n")
    box = page.get_by_placeholder("Search").first
    box.fill(name[:LONGEST_SEARCH])
    page.get_by_text(name, exact=True).first.drag_to(
        page.locator(CANVAS), target_position={"x": x, "y": y}
    )
    page.keyboard.press("n")


def drag_wire(page, start, start_slot: int, end, end_slot: int) -> None:
    """Drag a wire from an output to an input, by node ids, with the mouse."""
    place = """([id, slot, input]) => {
      const [x, y] = app.graph.getNodeById(id).getConnectionPos(input, slot)
      const {offset, scale} = app.canvas.ds, view = app.canvas.canvas.getBoundingClientRect()
      return [(x + offset[0]) * scale + view.left, (y + offset[1]) * scale + view.top]
    }"""
    page.mouse.move(*page.evaluate(place, [start, start_slot, False]))
    page.mouse.down()
    page.mouse.move(*page.evaluate(place, [end, end_slot, True]), steps=8)
    page.mouse.up()
    page.wait_for_timeout(300)
    page.keyboard.press("Escape")  # the menu of a wire that ends nowhere


def drop_file(page, name: str, content: bytes, kind: str) -> None:
    page.evaluate(
        """([name, text, type]) => {
          const bytes = Uint8Array.from(atob(text), c => c.charCodeAt(0))
          const dataTransfer = new DataTransfer()
          dataTransfer.items.add(new File([bytes], name, {type}))
          const place = {clientX: 900, clientY: 500, bubbles: true, cancelable: true}
          const drop = new DragEvent('drop', {dataTransfer, ...place})
          document.querySelector('#graph-canvas').dispatchEvent(drop)
        }""",
        [name, base64.b64encode(content).decode(), kind],
    )
