"""All texts are plain English: no private words, no half-sentences, no endless sentences."""

import ast
import json
import re
from pathlib import Path

import pytest
from helpers.checkout import PACK

LONGEST = 35  # words in a sentence
# Odd phrases → what to write.
ODD = {
    r"(?:^|[.!?:] )Of [A-Z`*]": 'a sentence with a verb, such as "Connect Load Prior."',
    r"\b(?:does|do) (?:as well|so|the like)\b": "works, too",
    r"\b[Tt]he host(?:'s)?\b": "ComfyUI",
    r"\b(?:[Tt]he|ComfyUI's) (?:web )?page(?:'s)?\b(?! cache)": "ComfyUI, or its web interface",
    r"\b(?:un)said\b(?! by)": "given, named, by default",
    r"\bin the box\b": "bundled",
    r"\bfrom nothing\b": "from scratch",
    r"\b(?<!`)(?:theirs|ours)\b": "name what it is",
    r"\bbehind (?:it|its name)\b": "after",
    r"\bto the (?:bit|byte)\b": "bit for bit, or exactly",
    r"\boutside of\b": "outside",
    r"\bcheckpoint folder": "a diffusers folder",
    r"\b[Ss]et \*[^*]+\* \d": "set … to …",
    r"\bcanvas(?:es)? of batch\b|\b[Aa] canvas\b": "an empty latent with batch size 1",
    r"\bempty picture\b": "an all-zero picture",
    r"\bbundled miniature": "the bundled model",
    r"\bfits? (?:only )?the size that\b": "fits a model as large as the one that",
    r"\bSo you [a-z]+ what\b": "so that you can …, or a colon",
    r"\bdepth hint\b": "a depth map",
    r"\band the reverse\b|\bthe other way round\b": "and vice versa",
    r"\bthe model knows (?:\d|multiples)": "the model was trained for",
}


def notes(path: Path) -> str:
    nodes = json.loads(path.read_text("utf-8"))["nodes"]
    return "\n\n".join(n["widgets_values"][0] for n in nodes if n["type"] == "MarkdownNote")


def strings(value) -> list[str]:
    """Return every text in a JSON value."""
    if isinstance(value, str):
        return [value]
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for part in parts for text in strings(part)]


def messages(path: Path) -> str:
    """Return the texts of a module without its docstrings and its lists of packages (`a==1`).

    `…` joins the parts of an f-string.
    """
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
    return "\n\n".join(text for text in found if " " in text and "==" not in text)


def docstrings(path: Path) -> str:
    """Return the docstrings of a module and its comments, a block of comments as one text."""
    text = path.read_text("utf-8")
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    found = [ast.get_docstring(n) for n in ast.walk(ast.parse(text)) if isinstance(n, documented)]
    found += re.findall(r"(?:^ *# .*\n)+|  # .*", text, re.M)
    found = [re.sub(r"\n\n(?: {4}.*\n?)+", "\n\n", one) for one in found if one]  # code
    return "\n\n".join(re.sub(r"^ *# ", "", one, flags=re.M) for one in found)


READ = [
    *PACK.glob("*.md"),
    PACK / "benchmarks" / "README.md",
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
    for folder in ("nodes", "utils", "scripts")
    for path in (PACK / folder).rglob("*.py")
}
TEXTS |= {
    f"{path.relative_to(PACK)}, docstrings": docstrings(path)
    for folder in ("nodes", "utils", "scripts", "tools", "benchmarks", "tests")
    for path in (PACK / folder).rglob("*.py")
}
each_text = pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)


def sentences(text: str) -> list[str]:
    """Split a text, without code blocks, pictures and addresses, into its sentences.

    The end of a cell in a table or of an item in a list also ends a sentence.
    """
    text = re.sub(r"```.*?```", "\n\n", text, flags=re.S)
    text = re.sub(r"!\[[^\]]*\]\([^)]*\)|<img[^>]*>", "", text)
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text)
    text = text.replace("**", "")
    blocks = re.split(r"\n\s*\n|\n(?=\s*[-*] |#|\d+\. )|\|", text)
    ends = r"(?<=[.!?])\s+(?=[A-Z`*\"“]|diffusers|transformers|peft)|: "
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
    """Each kind of fault is in these texts."""
    odd = "Of Load Prior. A mask does as well. Put it behind it. The host runs what is unsaid. "
    odd += "Set *Steps* 7. It is outside of the picture, and equal to the byte."
    hits = {p for p in ODD for sentence in sentences(odd) if re.search(p, sentence)}
    assert len(hits) == 8
    assert max(len(found.split()) for found in sentences(("word " * 36) + ". Short.")) > LONGEST
