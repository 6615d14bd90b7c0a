"""The bundled workflows, by the names of their API forms."""

from helpers.checkout import WORKFLOWS

from tools.export_workflows import api_path

TEMPLATES = {api_path(path).stem: path for path in sorted(WORKFLOWS.glob("*.json"))}
