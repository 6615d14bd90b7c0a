"""The JSON files of a model folder."""

import json
from pathlib import Path
from typing import Any


def read_json(path: Path) -> dict[str, Any]:
    """Raises FileNotFoundError or ValueError that name the file and what to do."""
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing: the model folder is not complete. Download it again."
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON ({error}). Download it again.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is not a JSON object but {content!r:.40}. Download it again.")
    return content
