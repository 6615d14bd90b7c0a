// In this pack's help pages, a link to this address opens the template that its text names. ComfyUI's
// own address for a template takes no spaces, and templates are named by their titles.
import { app } from "../../scripts/app.js"
import { api } from "../../scripts/api.js"

const LINK = 'a[href$="#kandinsky22-template"]'
const FOLDER = new URL(import.meta.url).pathname.split("/").at(-2)

async function open(title) {
  const name = `Kandinsky 2.2 - ${title}`
  const path = `/workflow_templates/${FOLDER}/${encodeURIComponent(name)}.json`
  const answer = await fetch(api.apiURL(path))
  if (!answer.ok) throw new Error(`${path}: ${answer.status}`)
  await app.loadGraphData(await answer.json(), true, true, name, { openSource: "template" })
}

document.addEventListener(
  "click",
  (event) => {
    const link = event.target.closest?.(LINK)
    if (!link) return
    event.preventDefault()
    event.stopPropagation()
    open(link.textContent.trim())
  },
  { capture: true }
)
