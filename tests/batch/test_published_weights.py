"""From the miniature to the published weights: the titles in workflows/api/, and the docs."""

import json
import re
import shlex

import pytest
from helpers.checkout import PACK, WORKFLOWS

from scripts.batch_runs.jobs import Jobs
from scripts.batch_runs.workflow import is_wire, read_workflow

API = WORKFLOWS / "api"
NAMES = sorted(path.stem for path in API.glob("*.json"))
SAID = re.compile(r" \(published: (.*)\)$")


def without_titles(workflow: dict) -> dict:
    return {number: (node["class_type"], node["inputs"]) for number, node in workflow.items()}


def with_what_titles_say(workflow: dict) -> dict:
    """Return the workflow with each "(published: input=value, …)" given to --set for its node."""
    settings = []
    for number, node in workflow.items():
        if said := SAID.search(node["_meta"]["title"]):
            settings += [f"{number}.{setting}" for setting in said[1].split(", ")]
    (job,) = (jobs := Jobs(workflow, settings))
    return jobs.task(job).workflow


@pytest.mark.parametrize("name", NAMES)
def test_titles_name_every_model_and_size(name):
    before = read_workflow(API / f"{name}.json")
    after = with_what_titles_say(before)
    for number, node in after.items():
        for slot, value in node["inputs"].items():
            old = before[number]["inputs"][slot]
            if slot == "model_name":
                assert value != old and "mini" not in value
            elif slot in ("width", "height", "largest_size") and not is_wire(value):
                assert value == 6 * old and value % 8 == 0
            elif slot not in ("x", "left", "right"):
                assert value == old


@pytest.mark.parametrize("page", ["README.md", "docs/batch.md"])
def test_the_one_line_of_the_docs(page):
    text = (PACK / page).read_text("utf-8")
    (line,) = re.findall("^python scripts/batch.py .*model_name=.*$", text, re.M)
    words = shlex.split(line)
    settings = [words[i + 1] for i, word in enumerate(words) if word == "--set"]
    jobs = Jobs(workflow := read_workflow(PACK / words[2]), settings)
    assert jobs.count() == 100
    task = jobs.task(next(iter(jobs)))
    assert without_titles(task.workflow) == without_titles(with_what_titles_say(workflow))


def test_the_one_line_of_python():
    text = (PACK / "README.md").read_text("utf-8")
    (line,) = re.findall(r"^workflow = (json\.loads.*)$", text, re.M)
    workflow = read_workflow(API / "text_to_image.json")
    changed = eval(line, {"json": json, "workflow": workflow})  # noqa: S307
    assert without_titles(changed) == without_titles(with_what_titles_say(workflow))
