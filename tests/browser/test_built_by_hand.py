"""A graph built by hand, from nodes found by ComfyUI's own search, runs to a picture."""

import pytest
from helpers import browser_user as user

OURS = " (Kandinsky 2.2)"
# Node → next node. Every free input of the second that the first has an output for is connected.
WIRES = {
    "Load Prior": "Prior",
    "Load Decoder": "VAE Decode",
    "VAE Decode": "Preview Image",
}
STAGES = {
    "text to image": ("Decoder", [("Empty Latent Image", "Decoder")]),
    "image to image": (
        "Img2Img",
        [
            ("Example Picture", "VAE Encode"),
            ("Load Decoder", "VAE Encode"),
            ("VAE Encode", "Img2Img"),
        ],
    ),
    "inpaint": (
        "Inpaint",
        [
            ("Example Picture", "VAE Encode"),
            ("Load Decoder", "VAE Encode"),
            ("VAE Encode", "Inpaint"),
            ("Example Picture", "Inpaint"),
        ],
    ),
    "depth": (
        "ControlNet",
        [
            ("Load Depth Estimator", "Depth Hint"),
            ("Example Picture", "Depth Hint"),
            ("Depth Hint", "ControlNet"),
            ("Empty Latent Image", "ControlNet"),
        ],
    ),
}
COMFYUI = ("Empty Latent Image", "Preview Image", "VAE Decode", "VAE Encode")
# Further choices of a user: the decoder of the stage, and a picture with a mask.
CHOICES = {
    "inpaint": [
        ("Load Decoder", "model_name", "kandinsky-2-2-mini-decoder-inpaint"),
        ("Example Picture", "picture", "red square, masked.png"),
    ],
    "depth": [("Load Decoder", "model_name", "kandinsky-2-2-mini-controlnet-depth")],
}
CONNECT = """([from, to]) => {
  const giver = app.graph.getNodeById(from), taker = app.graph.getNodeById(to)
  for (const [slot, input] of taker.inputs.entries()) {
    if (input.link != null || input.widget) continue
    const fits = giver.outputs.filter(o => o.type == input.type)
    const output = fits.find(o => o.name == input.name) ?? fits[0]
    if (output) giver.connect(giver.outputs.indexOf(output), taker, slot)
  }
}"""


@pytest.mark.parametrize("kind", STAGES)
def test_runs_to_a_picture(page, server, kind):
    stage, more = STAGES[kind]
    wires = [
        *WIRES.items(),
        ("Prior", stage),
        ("Load Decoder", stage),
        (stage, "VAE Decode"),
        *more,
    ]
    user.clear(page)
    page.evaluate("() => app.canvas.ds.reset()")  # an earlier test moved the view
    nodes = {}
    for i, name in enumerate(dict.fromkeys(name for wire in wires for name in wire)):
        title = name if name in COMFYUI else name + OURS
        # Out of sight, so that the next double-click hits the canvas.
        nodes[name] = user.place(page, title, 350 * (i % 5), 4000 + 450 * (i // 5))
    for giver, taker in wires:
        page.evaluate(CONNECT, [nodes[giver], nodes[taker]])
    for name, widget, value in CHOICES.get(kind, []):
        user.set_widget(page, nodes[name], widget, value)
    user.take_few_steps(page, 4)
    page.evaluate("() => kandinsky22.fit()")
    sizes = user.run(page, server)
    user.keep_screenshot(page, f"built by hand {kind}")
    assert len(sizes) == 1
