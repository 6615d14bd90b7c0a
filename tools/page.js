// What scripts and tests do in ComfyUI's page. tools/page.py puts these functions into it.
window.kandinsky22 = {
  // Builds one graph as a user would: nodes, widgets, wires, columns, groups. Node by number.
  build({ nodes, columns }) {
    app.graph.clear()
    const made = {}
    for (const spec of nodes) {
      const node = LiteGraph.createNode(spec.type)
      if (!node) throw new Error("unknown node " + spec.type)
      if (spec.title) node.title = spec.title
      app.graph.add(node)
      made[spec.number] = node
      for (const [name, value] of Object.entries(spec.widgets)) {
        const note = spec.type == "MarkdownNote" // its one widget has no name
        const widget = note ? node.widgets[0] : (node.widgets || []).find((w) => w.name == name)
        if (!widget) throw new Error(spec.type + " has no widget " + name)
        widget.value = value
      }
      const control = (node.widgets || []).find((w) => w.name == "control_after_generate")
      if (control) control.value = "fixed"
      if (spec.off) node.mode = 4
    }
    for (const spec of nodes)
      for (const [name, [source, slot]] of Object.entries(spec.links)) {
        const target = made[spec.number]
        const index = target.inputs.findIndex((i) => i.name == name)
        if (index < 0) throw new Error(spec.type + " has no input " + name)
        if (!made[source].connect(slot, target, index))
          throw new Error(spec.type + " does not take " + name)
      }
    this.layOut(nodes, columns, made)
    app.graph.updateExecutionOrder()
    return made
  },

  // Columns of stages, a frame around each stage that has a name.
  layOut(nodes, columns, made) {
    const tall = { MarkdownNote: 260, PreviewImage: 260, SaveImage: 300 }
    const shows = { Kandinsky22DepthHint: 220, Kandinsky22Interpolate: 190 } // on its face
    let x = 0
    for (const stages of columns) {
      const members = (stage) => nodes.filter((spec) => spec.stage == stage)
      const sizes = new Map()
      for (const { number, type } of stages.flatMap(members)) {
        const [width, height] = made[number].computeSize()
        sizes.set(number, [width, Math.max(height, tall[type] || 0) + (shows[type] || 0)])
      }
      if (!sizes.size) continue
      const width = Math.max(x ? 310 : 400, ...[...sizes.values()].map(([w]) => w))
      let y = 0
      for (const stage of stages) {
        for (const { number } of members(stage)) {
          made[number].size = [width, sizes.get(number)[1]]
          made[number].pos = [x, y]
          y += made[number].size[1] + 55
        }
        if (stage && members(stage).length)
          this.frame(stage, members(stage).map(({ number }) => made[number]))
        if (members(stage).length) y += 45
      }
      x += width + 90
    }
  },

  frame(title, boxes) {
    const left = Math.min(...boxes.map((n) => n.pos[0])) - 15
    const top = Math.min(...boxes.map((n) => n.pos[1])) - 60
    const right = Math.max(...boxes.map((n) => n.pos[0] + n.size[0])) + 15
    const bottom = Math.max(...boxes.map((n) => n.pos[1] + n.size[1])) + 8
    const group = new LiteGraph.LGraphGroup(title)
    group.pos = [left, top]
    group.size = [right - left, bottom - top]
    app.graph.add(group)
  },

  async workflow(description) {
    this.build(description)
    return { ui: app.graph.serialize(), api: (await app.graphToPrompt()).output }
  },

  // The same graph as one node: `takes` and `gives` are [name, [[node, slot name], …]].
  blueprint(description, { name, takes, gives, about, aliases }) {
    const made = this.build(description)
    const value = (number, key) => made[number].widgets?.find((w) => w.name == key)?.value
    const values = takes.map(([label, [[number, key]]]) => [label, value(number, key)])
    const everything = new Set([...app.graph._nodes, ...app.graph._groups])
    const { subgraph, node } = app.graph.convertToSubgraph(everything)
    // Nodes move into the subgraph as copies that keep their ids.
    const inner = (number) => subgraph.getNodeById(made[number].id)
    for (const input of [...subgraph.inputs]) subgraph.removeInput(input)
    const slot = (slots, key) => {
      const found = slots.find((s) => s.name == key)
      if (!found) throw new Error(name + ": no slot " + key)
      return found
    }
    for (const [label, targets] of takes) {
      const first = slot(inner(targets[0][0]).inputs, targets[0][1])
      const input = subgraph.addInput(label, first.type)
      for (const [number, key] of targets) {
        const target = inner(number)
        if (!input.connect(slot(target.inputs, key), target))
          throw new Error(name + ": cannot connect " + label)
      }
    }
    for (const [label, value] of values)
      if (value !== undefined) slot(node.widgets, label).value = value
    for (const [label, [number, index]] of gives) {
      const source = inner(number)
      const output = subgraph.addOutput(label, source.outputs[index].type)
      output.connect(source.outputs[index], source)
    }
    const right = Math.max(...subgraph._nodes.map((n) => n.pos[0] + n.size[0]))
    subgraph.inputNode.pos = [-260, 0]
    subgraph.outputNode.pos = [right + 100, 0]
    node.title = subgraph.name = name
    const prompts = takes.filter(([label]) => /prompt$/.test(label)).length
    node.size = [360, node.computeSize()[1] + 60 * prompts]
    node.pos = [0, 0]
    const ui = app.graph.serialize()
    Object.assign(ui.definitions.subgraphs[0], {
      category: "Kandinsky 2.2",
      description: about,
      extra: { BlueprintSearchAliases: aliases },
    })
    return ui
  },

  // Brings the whole graph into view.
  fit() {
    const boxes = [...app.graph._nodes, ...app.graph._groups]
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
