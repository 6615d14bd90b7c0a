// Makes new nodes as wide as their titles need. ComfyUI makes them narrower, and draws
// "Encode Image (Kand…".
import { app } from "../../scripts/app.js"

app.registerExtension({
  name: "kandinsky22.title_widths",
  nodeCreated(node) {
    if (!node.comfyClass?.startsWith("Kandinsky22")) return
    const pen = app.canvas.ctx
    pen.save()
    pen.font = node.titleFontStyle
    const width = pen.measureText(node.title).width + 2 * LiteGraph.NODE_TITLE_HEIGHT
    pen.restore()
    if (node.size[0] < width) node.setSize([Math.ceil(width), node.size[1]])
  },
})
