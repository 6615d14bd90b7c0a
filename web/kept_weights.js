// Interpolate keeps the weights that a user has set when the count changes. ComfyUI makes new widgets
// for each count, with the defaults of that count.
import { app } from "../../scripts/app.js"

app.registerExtension({
  name: "kandinsky22.kept_weights",
  nodeCreated(node) {
    if (node.comfyClass !== "Kandinsky22Interpolate") return
    const kept = {} // widget name → the user's value, also while the widget is not shown
    const watch = (widget) => {
      if (!widget?.name?.startsWith("count.weight_")) return
      if (widget.name in kept) widget.value = kept[widget.name]
      const shown = widget.value
      const onRemove = widget.onRemove
      widget.onRemove = function () {
        if (this.value !== shown) kept[this.name] = this.value
        onRemove?.call(this)
      }
    }
    node.widgets.forEach(watch)
    const addCustomWidget = node.addCustomWidget
    node.addCustomWidget = function (...parameters) {
      const widget = addCustomWidget.apply(this, parameters)
      watch(widget)
      return widget
    }
  },
})
