// A loader shows a badge if its model is not on this computer, and ComfyUI shows a message when such a
// workflow is opened. Otherwise only the server would say so, at Run. The workflow keeps none of this.
import { app } from "../../scripts/app.js"

const LISTS_FILES = /_name$|^file$/ // the names of the widgets of this pack's loaders
const IN_ANOTHER_FOLDER = / \[\w+\]$/ // not the folder that Load Embeds lists
const WORDS = {
  en: {
    absent: "not on this computer",
    choose: (name) => `: choose ${name}`,
    add: ": add Get Models",
    summary: "This workflow needs what is not on this computer",
    fetch: (title) => `: add the node ${title}, press Download on it, then R. `,
    put: ": put it into ComfyUI's folders and press R, or choose another in the loader.",
  },
  ru: {
    absent: "нет на этом компьютере",
    choose: (name) => `: выберите ${name}`,
    add: ": добавьте Get Models",
    summary: "Этому процессу нужно то, чего нет на этом компьютере",
    fetch: (title) => `: добавьте узел ${title}, нажмите на нём Download, потом R. `,
    put: ": положите в папки ComfyUI и нажмите R или выберите другое в загрузчике.",
  },
}
const words = () => WORDS[app.extensionManager.setting.get("Comfy.Locale")] ?? WORDS.en
const getModels = () => LiteGraph.registered_node_types.Kandinsky22GetModels
const ownName = (name) => name.split("/").at(-1)
const isLoader = (node) => node?.comfyClass?.startsWith("Kandinsky22Load")
const runs = (node) => node.mode != 2 && node.mode != 4 // neither muted nor bypassed

// Returns the loader's widget for a widget: itself, or the one to which a subgraph's node passes it.
function listOf(node, widget) {
  const slot = node.inputs.findIndex((input) => input.widget?.name == widget.name)
  if (slot >= 0 && node.isInputConnected(slot)) return // its value comes over a wire
  if (node.subgraph) return follow(node.subgraph, slot)
  if (LISTS_FILES.test(widget.name)) return widget
}

function follow(graph, slot) {
  for (const id of graph.inputs[slot]?.linkIds ?? []) {
    const link = graph.getLink(id)
    const node = graph.getNodeById(link?.target_id)
    if (node?.subgraph) return follow(node.subgraph, link.target_slot)
    const name = node?.inputs[link.target_slot]?.widget?.name
    if (isLoader(node) && LISTS_FILES.test(name))
      return node.widgets.find((widget) => widget.name == name)
  }
}

// Returns {name, listed} of chosen models that are not listed, on a node or inside its subgraph.
function missing(node) {
  if (!isLoader(node) && !node.subgraph) return []
  const own = (node.widgets ?? []).map((widget) => [widget.value, listOf(node, widget)])
  const absent = own
    .filter(([name, list]) => list && name && !IN_ANOTHER_FOLDER.test(name))
    .map(([name, list]) => ({ name: String(name), listed: list.options.values ?? [] }))
    .filter(({ name, listed }) => !listed.includes(name))
  return [...absent, ...missingIn(node.subgraph)]
}

const missingIn = (graph) => (graph?.nodes ?? []).filter(runs).flatMap(missing)

function isFetched(name) {
  const [, { options }] = getModels().nodeData.input.required.repository
  return options.includes(ownName(name))
}

// Nodes 2.0 computes a badge again when its sources change. Older versions do not notice new wires, and
// after an undo they ask the node that was there before.
const renew = () => (app.extensionManager.kandinsky22Renewed = {})

function textOfBadge(asked) {
  app.extensionManager.kandinsky22Renewed
  const [first] = missing(app.canvas.graph?.getNodeById(asked.id) ?? asked)
  if (!first) return ""
  const { absent, choose, add } = words()
  const other = first.listed.find((name) => ownName(name) == ownName(first.name))
  return absent + (other ? choose(other) : isFetched(first.name) ? add : "")
}

const told = new Set()

function tell() {
  const graph = app.rootGraph ?? app.graph
  const names = [...new Set(missingIn(graph).map(({ name }) => name))]
  const key = [graph.id, ...names].join("\n")
  if (!names.length || told.has(key)) return // this is also called after each undo
  told.add(key)
  const { summary, fetch, put } = words()
  const list = (names, advice) => (names.length ? names.join(", ") + advice : "")
  const others = names.filter((name) => !isFetched(name))
  const detail = list(names.filter(isFetched), fetch(getModels().title)) + list(others, put)
  app.extensionManager.toast.add({ severity: "warn", summary, detail, life: 20000 })
}

app.registerExtension({
  name: "kandinsky22.missing_models",
  nodeCreated(node) {
    if (!isLoader(node) && !node.subgraph) return
    const badge = new LGraphBadge({ text: "", fgColor: "white", bgColor: "#8a1c1c" })
    node.badges.push(() => Object.assign(badge, { text: textOfBadge(node) }))
    const onConnectionsChange = node.onConnectionsChange
    node.onConnectionsChange = function (...parameters) {
      renew()
      return onConnectionsChange?.apply(this, parameters)
    }
  },
  afterConfigureGraph() {
    renew()
    tell()
  },
})
