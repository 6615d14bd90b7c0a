// Get Models has a button that runs this node alone. Run skips it, so that a user who opens a
// shared workflow and presses Run does not begin a download of many gigabytes.
import { api } from "../../scripts/api.js"
import { app } from "../../scripts/app.js"

const queueAlone = async (node, inputs) => {
  const { workflow } = await app.graphToPrompt()
  const entry = { class_type: node.comfyClass, inputs, _meta: { title: node.title } }
  await api.queuePrompt(0, { output: { [node.id]: entry }, workflow })
}

app.registerExtension({
  name: "kandinsky22.get_models",
  nodeCreated(node) {
    if (node.comfyClass !== "Kandinsky22GetModels") return
    node.isVirtualNode = true // Run does not queue virtual nodes
    const choices = [...node.widgets]
    const download = () =>
      queueAlone(node, Object.fromEntries(choices.map(({ name, value }) => [name, value])))
    const button = node.addWidget("button", "Download", null, download, { serialize: false })
    button.serialize = false
  },
})
