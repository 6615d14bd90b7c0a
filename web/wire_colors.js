// Colours for the wires of this pack. ComfyUI gives colours to its own types, and grey to all others.
import { app } from "../../scripts/app.js"

const COLORS = {
  KANDINSKY22_PRIOR: { onDark: "#bc8f6f", onLight: "#8a5226" },
  KANDINSKY22_EMBEDS: { onDark: "#ffe066", onLight: "#7d6200" },
  KANDINSKY22_DEPTH_ESTIMATOR: { onDark: "#4dd0c4", onLight: "#00695c" },
}
const style = document.createElement("style") // for nodes that are drawn as HTML
let shade = "onDark"

function fitToCanvas() {
  const pen = new OffscreenCanvas(1, 1).getContext("2d")
  pen.fillStyle = app.canvas.clear_background_color
  pen.fillRect(0, 0, 1, 1)
  const [red, green, blue] = pen.getImageData(0, 0, 1, 1).data
  shade = red + green + blue > 1.5 * 255 ? "onLight" : "onDark"
  const types = Object.entries(COLORS)
  const rules = types.map(([type, ours]) => `--color-datatype-${type}: ${ours[shade]};`)
  style.textContent = `:root { ${rules.join(" ")} }`
}

// When a colour palette is loaded, it writes "" for types that it does not name. After that, it writes
// the colour of the canvas.
function giveColor(table, type, ours) {
  let named = table[type]
  Object.defineProperty(table, type, {
    get: () => named || ours[shade],
    set(palette) {
      named = palette
      queueMicrotask(fitToCanvas)
    },
    enumerable: true,
    configurable: true,
  })
}

app.registerExtension({
  name: "kandinsky22.wire_colors",
  setup() {
    for (const [type, ours] of Object.entries(COLORS)) {
      giveColor(app.canvas.default_connection_color_byType, type, ours)
      giveColor(LGraphCanvas.link_type_colors, type, ours)
    }
    document.head.append(style)
    fitToCanvas()
  },
})
