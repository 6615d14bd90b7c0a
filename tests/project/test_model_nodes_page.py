"""docs/model_nodes.md says what each node that changes a MODEL does here. None is silent."""

import re

import comfyui_version
import pytest
from helpers.checkout import PACK

import nodes as host
from tools import model_nodes

PAGE = (PACK / "docs" / "model_nodes.md").read_text("utf-8")
HERE = f"ComfyUI {comfyui_version.__version__} " in PAGE


@pytest.fixture(scope="module", autouse=True)
def comfyuis_nodes():
    before = dict(host.NODE_CLASS_MAPPINGS)
    model_nodes.start()
    yield
    host.NODE_CLASS_MAPPINGS.clear()
    host.NODE_CLASS_MAPPINGS.update(before)


def test_the_page_has_every_node_of_its_comfyui():
    named = set(re.findall(r"^\| ([^|]+?) \|", PAGE, re.M)) - {"node", "---"}
    if HERE:
        assert named == set(model_nodes.model_nodes())
    assert len(named) > 60


@pytest.mark.long
def test_no_node_is_passed_over_in_silence_or_fails_without_words():
    table = model_nodes.rows()
    for row in table:
        for runner, cell in row.cells.items():
            assert not cell.startswith((model_nodes.SILENT, model_nodes.BARE)), (row, runner)
    if HERE:
        assert model_nodes.page(table) == PAGE
