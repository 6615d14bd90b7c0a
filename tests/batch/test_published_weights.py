"""From the miniature to the published weights: the titles in workflows/api/, and the docs."""

import re
import shlex

import pytest
from helpers.checkout import PACK, WORKFLOWS

from scripts.batch_runs.jobs import Jobs
from scripts.batch_runs.workflow import for_published_weights, is_wire, read_workflow

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
            elif slot in ("tile_size", "overlap"):
                assert value == {"tile_size": 512, "overlap": 64}[slot]
            elif slot not in ("x", "left", "right"):
                assert value == old


def test_the_one_line_of_the_docs():
    text = (PACK / "docs" / "batch.md").read_text("utf-8")
    (line,) = re.findall("^python scripts/batch.py .*--published.*$", text, re.M)
    words = shlex.split(line)
    settings = [words[i + 1] for i, word in enumerate(words) if word == "--set"]
    workflow = for_published_weights(read_workflow(PACK / words[2]))
    assert Jobs(workflow, settings).count() == 100


@pytest.mark.parametrize("name", NAMES)
def test_the_option_and_the_lines_of_python_do_what_the_titles_say(name):
    text = (PACK / "README.md").read_text("utf-8")
    (lines,) = re.findall(r"^```python\n(for node in workflow.*?)^```", text, re.M | re.S)
    workflow = read_workflow(API / f"{name}.json")
    wanted = without_titles(with_what_titles_say(workflow))
    assert without_titles(for_published_weights(workflow)) == wanted
    exec(lines, {"re": re, "workflow": workflow})  # noqa: S102
    assert without_titles(workflow) == wanted


def test_a_workflow_without_such_titles_is_refused():
    workflow = read_workflow(API / "text_to_image.json")
    for node in workflow.values():
        node["_meta"]["title"] = "Any (title)"
    with pytest.raises(ValueError, match="no title in this workflow has .*Use --set"):
        for_published_weights(workflow)


def test_a_title_that_sets_what_the_node_does_not_have_is_refused():
    workflow = read_workflow(API / "text_to_image.json")
    for wrong in ("width=768, colour=red", "latent=768"):
        node = next(node for node in workflow.values() if "latent" in node["inputs"])
        node["_meta"]["title"] = f"Mine (published: {wrong})"
        with pytest.raises(ValueError, match="the title of Mine sets .* does not have as a value"):
            for_published_weights(workflow)
