"""Write locales/en from the nodes' schemas, and say what the other languages lack.

    python tools/make_locales.py

Run it after a text in a schema has changed. ComfyUI takes texts from here, in the user's language,
or else from the schema. English is here, too, because older versions find the tooltips of some
inputs only here. These are the inputs that come and go with a choice, as in Interpolate. Other
languages are written by hand.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    ROOT = Path(__file__).resolve().parents[1]
    sys.path[0] = str(ROOT)  # see scripts/__init__.py

    from scripts import pack

    pack.enter_host()
    import comfy.cli_args

    comfy.cli_args.args.cpu = True

import folder_paths
from comfy_api.latest import io
from kandinsky22.nodes import NODES

LOCALES = Path(__file__).resolve().parents[1] / "locales"
THE_HOSTS = {"loaders", "conditioning"}  # categories that ComfyUI translates itself


def slots_of(inputs: Iterable[Any], before: str = "") -> dict[str, Any]:
    """Return ComfyUI's key of an input → the input, with the inputs of a DynamicCombo's options."""
    slots = {}
    for item in inputs:
        slots[before + item.id] = item
        if isinstance(item, io.DynamicCombo.Input):
            for option in item.options:
                slots |= slots_of(option.inputs, f"{before}{item.id}_")
    return slots


def texts_of_slot(slot: Any) -> dict[str, str]:
    texts = {"name": slot.display_name or slot.id, "tooltip": slot.tooltip}
    return {key: text for key, text in texts.items() if text}


def texts_of(schema: Any) -> dict[str, Any]:
    """Return all texts of a node that ComfyUI shows."""
    outputs = {str(index): texts_of_slot(slot) for index, slot in enumerate(schema.outputs)}
    return {
        "display_name": schema.display_name,
        "description": schema.description,
        "inputs": {key: texts_of_slot(slot) for key, slot in slots_of(schema.inputs).items()},
        "outputs": outputs,
    }


def english() -> dict[str, dict[str, Any]]:
    """Return file → its content in English."""
    schemas = [node.define_schema() for node in NODES]
    words = dict.fromkeys(word for schema in schemas for word in schema.category.split("/")[1:])
    return {
        "main.json": {"nodeCategories": {word: word for word in words if word not in THE_HOSTS}},
        "nodeDefs.json": {schema.node_id: texts_of(schema) for schema in schemas},
    }


def flat(texts: dict[str, Any], before: str = "") -> dict[str, str]:
    """Flatten a dict: {"a": {"b": text}} → {"a.b": text}."""
    lines = {}
    for key, value in texts.items():
        nested = isinstance(value, dict)
        lines |= flat(value, f"{before}{key}.") if nested else {before + key: value}
    return lines


def read(language: str, file: str) -> dict[str, Any]:
    path = LOCALES / language / file
    return json.loads(path.read_text("utf-8")) if path.exists() else {}


def main() -> None:
    # ComfyUI would have added this folder when it loaded the pack.
    folder_paths.add_model_folder_path(
        "depth_estimators", f"{folder_paths.models_dir}/depth_estimators"
    )
    for file, texts in english().items():
        new, old = flat(texts), flat(read("en", file))
        for language in sorted(path.name for path in LOCALES.iterdir() if path.name != "en"):
            there = flat(read(language, file))
            for what, keys in (
                ("missing", [key for key in new if key not in there]),
                ("nothing in English", [key for key in there if key not in new]),
                ("changed in English", [k for k in new if k in old and old[k] != new[k]]),
            ):
                for key in keys:
                    print(f"{language}/{file}: {what}: {key}: {new.get(key, there.get(key))}")
        (LOCALES / "en").mkdir(parents=True, exist_ok=True)
        content = json.dumps(texts, indent=2, ensure_ascii=False) + "\n"
        (LOCALES / "en" / file).write_text(content, "utf-8")


if __name__ == "__main__":
    main()
