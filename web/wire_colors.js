// Colours for the wires of this pack: the host gives its own types one, and all others grey.
import { app } from "../../scripts/app.js"

const COLORS = {
  KANDINSKY22_PRIOR: "#bc8f6f",
  KANDINSKY22_EMBEDS: "#ffe066",
  KANDINSKY22_DEPTH_ESTIMATOR: "#4dd0c4",
}

// A colour palette, when it is loaded, writes "" for types that it does not name.
function giveColor(table, type, ours) {
  let color = table[type] || ours
  Object.defineProperty(table, type, {
    get: () => color,
    set: (palette) => (color = palette || ours),
    enumerable: true,
    configurable: true,
  })
}

app.registerExtension({
  name: "kandinsky22.wire_colors",
  setup() {
    const rules = Object.entries(COLORS).map(([type, color]) => {
      giveColor(app.canvas.default_connection_color_byType, type, color)
      giveColor(LGraphCanvas.link_type_colors, type, color)
      return `--color-datatype-${type}: ${color};` // for nodes that are drawn as HTML
    })
    const style = document.createElement("style")
    style.textContent = `:root { ${rules.join(" ")} }`
    document.head.append(style)
  },
})
