// Example Picture shows the chosen picture before anything has run, as Load Image does.
import { app } from "../../scripts/app.js"

app.registerExtension({
  name: "kandinsky22.example_picture",
  nodeCreated(node) {
    if (node.comfyClass !== "Kandinsky22ExamplePicture") return
    const choice = node.widgets.find((widget) => widget.name === "picture")
    const element = document.createElement("div")
    const shown = node.addDOMWidget("shown", "picture", element, {
      serialize: false,
      getMinHeight: () => 100,
    })
    shown.serialize = false
    const show = () => {
      const file = new URL(`./pictures/${encodeURIComponent(choice.value)}`, import.meta.url)
      element.style.background = `url("${file.href}") center / contain no-repeat`
    }
    for (const [owner, name] of [
      [choice, "callback"],
      [node, "onConfigure"],
    ]) {
      const earlier = owner[name]
      owner[name] = function (...parameters) {
        earlier?.apply(this, parameters)
        show()
      }
    }
    node.setSize([Math.max(node.size[0], 280), 300])
    show()
  },
})
