"""What users read is plain English: no private words, no half-sentences, no endless ones."""

import ast
import json
import re
from pathlib import Path

import pytest
from helpers.checkout import PACK

LONGEST = 35  # words in a sentence
# Phrases that readers stumbled over → what to write.
ODD = {
    r"(?:^|[.!?:] |\*\* )Of [A-Z`*]": 'a sentence with a verb, such as "Connect Load Prior."',
    r"\b(?:does|do) (?:as well|so|the like)\b": "works, too",
    r"\b[Tt]he host(?:'s)?\b": "ComfyUI",
    r"\b[Tt]he (?:web )?page(?:'s)?\b": "ComfyUI, or its web interface",
    r"\b(?:un)said\b(?! by)": "given, named, by default",
    r"\bin the box\b": "bundled",
    r"\bfrom nothing\b": "from scratch",
    r"\b(?:theirs|ours)\b": "name what it is",
    r"\bbehind (?:it|its name)\b": "after",
    r"\bto the bit\b": "bit for bit, or exactly",
    r"\bcanvas(?:es)? of batch\b|\b[Aa] canvas\b": "an empty latent with batch size 1",
    r"\bempty picture\b": "an all-zero picture",
    r"\bbundled miniature": "the bundled model",
    r"\bdepth hint\b": "a depth map",
    r"\band the reverse\b|\bthe other way round\b": "and vice versa",
    r"\bthe model knows (?:\d|multiples)": "the model was trained for",
}


def notes(path: Path) -> str:
    nodes = json.loads(path.read_text("utf-8"))["nodes"]
    return "\n\n".join(n["widgets_values"][0] for n in nodes if n["type"] == "MarkdownNote")


def strings(value) -> list[str]:
    """Every text in a JSON value."""
    if isinstance(value, str):
        return [value]
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for part in parts for text in strings(part)]


def messages(path: Path) -> str:
    """The texts in a module that are no docstrings; an f-string is its parts, joined by `…`."""
    tree = ast.parse(path.read_text("utf-8"))
    expressions = {id(n.value) for n in ast.walk(tree) if isinstance(n, ast.Expr)}
    within = {id(part) for n in ast.walk(tree) if isinstance(n, ast.JoinedStr) for part in n.values}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            parts = [part.value if isinstance(part, ast.Constant) else "…" for part in node.values]
            found.append("".join(map(str, parts)))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            if id(node) not in expressions | within:
                found.append(node.value)
    return "\n\n".join(text for text in found if " " in text)


READ = [
    *(PACK / name for name in ("README.md", "SECURITY.md")),
    *(PACK / "docs").glob("*.md"),
    *(PACK / "web" / "docs").glob("*.md"),
    *(PACK / "models").rglob("README.md"),
]
TEXTS = {str(path.relative_to(PACK)): path.read_text("utf-8") for path in READ}
TEXTS |= {path.name: notes(path) for path in (PACK / "workflows").glob("*.json")}
TEXTS |= {
    f"locales/en/{path.name}": "\n\n".join(strings(json.loads(path.read_text("utf-8"))))
    for path in (PACK / "locales" / "en").glob("*.json")
}
TEXTS |= {
    str(path.relative_to(PACK)): messages(path)
    for folder in ("nodes", "utils")
    for path in (PACK / folder).rglob("*.py")
}
each_text = pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)


def sentences(text: str) -> list[str]:
    """Without code blocks, pictures and addresses; a cell of a table and a list's item end one."""
    text = re.sub(r"```.*?```", "\n\n", text, flags=re.S)
    text = re.sub(r"!\[[^\]]*\]\([^)]*\)|<img[^>]*>", "", text)
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text)
    blocks = re.split(r"\n\s*\n|\n(?=\s*[-*] |#|\d+\. )|\|", text)
    ends = r"(?<=[.!?])\s+(?=[A-Z`*\"“])|: "
    return [found for block in blocks for found in re.split(ends, " ".join(block.split()))]


@each_text
def test_no_sentence_is_endless(text):
    assert not [found for found in sentences(text) if len(found.split()) > LONGEST]


@each_text
def test_no_odd_phrase(text):
    found = [
        (sentence, instead)
        for sentence in sentences(text)
        for phrase, instead in ODD.items()
        if re.search(phrase, sentence)
    ]
    assert not found


def test_faults_are_found():
    """Each kind, in a text of two sentences."""
    odd = "Of Load Prior. A mask does as well. Put it behind it. The host runs what is unsaid."
    hits = {p for p in ODD for sentence in sentences(odd) if re.search(p, sentence)}
    assert len(hits) == 5
    assert max(len(found.split()) for found in sentences(("word " * 36) + ". Short.")) > LONGEST
