"""Translations are complete and current, and ComfyUI can read them."""

import re

import folder_paths
import pytest
from app.custom_node_manager import CustomNodeManager
from helpers.checkout import PACK
from kandinsky22.nodes import NODES

from tools import make_locales

LANGUAGES = sorted(path.name for path in (PACK / "locales").iterdir())
FILES = ("main.json", "nodeDefs.json")

each_language = pytest.mark.parametrize("language", LANGUAGES)
each_file = pytest.mark.parametrize("file", FILES)


@pytest.fixture(autouse=True)
def folders(models):
    """Loaders list the content of ComfyUI's folders."""


def flat(language: str, file: str) -> dict[str, str]:
    return make_locales.flat(make_locales.read(language, file))


def test_english_and_russian():
    assert LANGUAGES == ["en", "ru"]


@each_file
def test_english_is_what_the_schemas_say(file):
    """If this fails, run `python tools/make_locales.py`."""
    assert make_locales.read("en", file) == make_locales.english()[file]


@each_language
def test_nothing_is_missing_or_stale(language):
    """The test reads the schemas itself, as a text that `english()` forgets is in no language."""
    texts = make_locales.read(language, "nodeDefs.json")
    assert set(texts) == {node.define_schema().node_id for node in NODES}
    for node in NODES:
        schema = node.define_schema()
        there = texts[schema.node_id]
        assert set(there) == {"display_name", "description", "inputs", "outputs"}
        assert list(there["outputs"]) == [str(index) for index in range(len(schema.outputs))]
        assert {item.id for item in schema.inputs} <= set(there["inputs"])
        for item in schema.inputs:
            assert "name" in there["inputs"][item.id]
            assert ("tooltip" in there["inputs"][item.id]) == bool(item.tooltip)
    assert set(flat(language, "nodeDefs.json")) == set(flat("en", "nodeDefs.json"))
    assert set(flat(language, "main.json")) == set(flat("en", "main.json"))


@each_language
def test_inputs_that_a_choice_brings(language):
    """ComfyUI puts the choice's name before their names, with _ for its dot."""
    inputs = make_locales.read(language, "nodeDefs.json")["Kandinsky22Interpolate"]["inputs"]
    for i in range(1, 9):
        assert set(inputs[f"count_image_embeds_{i}"]) == {"name"}
        assert set(inputs[f"count_weight_{i}"]) == {"name", "tooltip"}


def test_russian_is_russian():
    for key, text in flat("ru", "nodeDefs.json").items():
        if key.endswith(("description", "tooltip", "display_name")):
            assert re.search("[а-яё]{3}", text), key


@each_language
def test_names_that_search_finds(language):
    texts = make_locales.read(language, "nodeDefs.json").values()
    titles = [text["display_name"] for text in texts]
    assert all(title.endswith(" (Kandinsky 2.2)") for title in titles)
    assert len(set(titles)) == len(titles)


@each_language
@each_file
def test_plain_text(language, file):
    """ComfyUI takes these characters for its own syntax."""
    for key, text in flat(language, file).items():
        assert text and text.strip() == text and not set("@{}|") & set(text), key


def test_numbers_and_names_survive_translation():
    """Words that users type or choose stay the same."""
    english, russian = flat("en", "nodeDefs.json"), flat("ru", "nodeDefs.json")
    words = "default|fp16|fp32|checkpoint|linear|slerp|sdpa|host|plain"
    kept = re.compile(rf"\d+(?:\.\d+)?|models/\w+|\b(?:{words}):")
    for key, text in english.items():
        assert set(kept.findall(text)) <= set(kept.findall(russian[key])), key


def test_the_host_reads_them(tmp_path, monkeypatch):
    (tmp_path / "kandinsky22").symlink_to(PACK, target_is_directory=True)
    folders = folder_paths.folder_names_and_paths
    monkeypatch.setitem(folders, "custom_nodes", ([str(tmp_path)], set()))
    translations = CustomNodeManager().build_translations()
    assert sorted(translations) == LANGUAGES
    for language in LANGUAGES:
        main, nodes = (make_locales.read(language, file) for file in FILES)
        assert translations[language] == {**main, "nodeDefs": nodes}
