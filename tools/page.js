// What tools and tests do in ComfyUI's web interface. tools/page.py adds these functions to it.
window.kandinsky22 = {
  // Opens a saved workflow or blueprint. Returns the types of its nodes that have errors.
  async open(saved) {
    await app.loadGraphData(saved)
    const nodes = [app.graph, ...app.graph.subgraphs.values()].flatMap((graph) => graph._nodes)
    const known = LiteGraph.registered_node_types
    return nodes.filter((n) => n.has_errors || !known[n.type]).map((n) => n.type)
  },

  // Returns the widgets of nodes that run whose values are not in the API form. Nodes that run are not
  // muted, not bypassed and not virtual. given: values that the node of a subgraph passes on, by link.
  lost(api, graph = app.graph, prefix = "", given = {}) {
    const runs = (node) =>
      node.mode != 2 && node.mode != 4 && (node.subgraph || !node.isVirtualNode)
    return graph._nodes.filter(runs).flatMap((node) => {
      const value = ({ link, widget }) =>
        link != null ? given[link] : node.widgets?.find((w) => w.name == widget?.name)?.value
      const inputs = node.inputs ?? []
      const number = prefix + node.id
      if (node.subgraph) {
        const links = node.subgraph.inputs.map(({ linkIds }, i) =>
          linkIds.map((link) => [link, value(inputs[i])])
        )
        return this.lost(api, node.subgraph, number + ":", Object.fromEntries(links.flat()))
      }
      const sent = api[number]?.inputs ?? {}
      const differs = (input) => value(input) !== undefined && value(input) !== sent[input.name]
      return inputs.filter(differs).map((i) => `${number}.${i.name} (${node.type}) ${value(i)}`)
    })
  },

  // Adds a blue picture, a white mask and a node that shows the output to the one node of a blueprint.
  wire() {
    const [box] = app.graph._nodes
    const add = (type, x, y, widgets = {}) => {
      const node = LiteGraph.createNode(type)
      node.pos = [x, y]
      app.graph.add(node)
      for (const [name, value] of Object.entries(widgets))
        node.widgets.find((w) => w.name == name).value = value
      return node
    }
    const [x, y] = box.pos
    const size = { width: 128, height: 128 }
    for (const [i, input] of box.inputs.entries()) {
      if (input.type == "IMAGE")
        add("EmptyImage", x - 300, y + 170 * i, { ...size, color: 2113744 }).connect(0, box, i)
      if (input.type == "MASK")
        add("SolidMask", x - 300, y + 170 * i, { ...size, value: 1 }).connect(0, box, i)
    }
    for (const [i] of box.outputs.entries())
      box.connect(i, add("PreviewImage", x + box.size[0] + 60, y + 300 * i), 0)
  },

  // Returns the titles that ComfyUI's search finds, best first.
  find(words) {
    const page = document.querySelector("#vue-app").__vue_app__
    const store = page.config.globalProperties.$pinia._s.get("nodeDef")
    return store.nodeSearchService.searchNode(words).map((node) => node.display_name)
  },

  // Returns how wide a node must be so that ComfyUI draws its whole title.
  titleWidth(title) {
    const pen = app.canvas.ctx
    pen.save()
    pen.font = new LGraphNode("").titleFontStyle
    const { width } = pen.measureText(title)
    pen.restore()
    return width + 2 * LiteGraph.NODE_TITLE_HEIGHT
  },

  // Returns what is wrong in the layout of an open workflow, in both renderers. Lengths are in units of
  // the canvas.
  layoutFaults({ leastScale = 0.6, wires = true } = {}) {
    const { scale } = app.canvas.ds
    const name = (node) => `${node.id} ${node.title}`
    const nodes = app.canvas.graph._nodes.map((node) => {
      const element = document.querySelector(`[data-node-id="${node.id}"]`)
      const drawn = element?.getBoundingClientRect()
      const [x, y, width, height] = node.boundingRect
      return { node, x, y, width: drawn ? drawn.width / scale : width, height: drawn ? drawn.height / scale : height }
    })
    const faults = scale < leastScale ? [`the scale is ${scale.toFixed(2)}`] : []
    for (const [i, a] of nodes.entries())
      for (const b of nodes.slice(i + 1))
        if (
          a.x < b.x + b.width && b.x < a.x + a.width && a.y < b.y + b.height && b.y < a.y + a.height
        )
          faults.push(`${name(a.node)} overlaps ${name(b.node)}`)
    for (const { _bounding: [x, y, width, height], title, _nodes } of app.canvas.graph._groups)
      for (const box of nodes.filter(({ node }) => _nodes.includes(node)))
        if (
          box.x < x || box.y < y || box.x + box.width > x + width || box.y + box.height > y + height
        )
          faults.push(`${name(box.node)} sticks out of ${title}`)
    const pen = document.createElement("canvas").getContext("2d")
    pen.lineWidth = 2
    for (const link of wires ? app.canvas.graph.links.values() : []) {
      const ends = [link.origin_id, link.target_id]
      const paths = [link, ...this.reroutesOf(link)].map(({ path }) => path).filter(Boolean)
      for (const { node, x, y, width, height } of nodes.filter(({ node }) => !ends.includes(node.id)))
        if (this.edge(x, y, width, height).some(([px, py]) => paths.some((p) => pen.isPointInStroke(p, px, py))))
          faults.push(`the wire from ${ends[0]} to ${ends[1]} runs behind ${name(node)}`)
    }
    for (const note of document.querySelectorAll(".comfy-markdown-content, .tiptap"))
      if (note.scrollHeight > note.clientHeight + 2)
        faults.push(`a note is ${note.scrollHeight} high in ${note.clientHeight}`)
    return faults
  },

  reroutesOf(link) {
    const found = []
    for (let id = link.parentId; id != null; id = found[found.length - 1].parentId)
      found.push(app.canvas.graph.reroutes.get(id))
    return found
  },

  // Returns points along the edge of a box, which a wire must cross to run behind it.
  edge(x, y, width, height, inset = 3, step = 2) {
    const [left, top, right, bottom] = [x + inset, y + inset, x + width - inset, y + height - inset]
    const points = []
    for (let px = left; px <= right; px += step) points.push([px, top], [px, bottom])
    for (let py = top; py <= bottom; py += step) points.push([left, py], [right, py])
    return points
  },

  // Brings the whole graph, or the open subgraph, into view.
  fit() {
    const { _nodes, _groups } = app.canvas.graph
    const boxes = [..._nodes, ..._groups]
    const left = Math.min(...boxes.map((b) => b.pos[0])) - 40
    const top = Math.min(...boxes.map((b) => b.pos[1])) - 60
    const right = Math.max(...boxes.map((b) => b.pos[0] + b.size[0])) + 40
    const bottom = Math.max(...boxes.map((b) => b.pos[1] + b.size[1])) + 40
    const view = app.canvas.canvas.getBoundingClientRect()
    const scale = Math.min((view.width - 70) / (right - left), (view.height - 90) / (bottom - top))
    app.canvas.ds.scale = scale
    app.canvas.ds.offset = [70 / scale - left, 90 / scale - top]
    app.canvas.setDirty(true, true)
  },
}
