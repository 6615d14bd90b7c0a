"""What a decoder folder says of its decoder beside the weights."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .configs import read_json
from .previews import read_preview


@dataclass(frozen=True)
class DecoderConfigs:
    """The configs of a decoder: of its UNet, of its scheduler, and its map for previews."""

    unet: dict[str, Any]
    scheduler: dict[str, Any]
    preview: dict[str, Any] = field(default_factory=dict)


def read_decoder_configs(folder: Path) -> DecoderConfigs:
    """Raises FileNotFoundError or ValueError that name the file and what to do."""
    path = folder / "scheduler" / "scheduler_config.json"
    scheduler = read_json(path)
    if not {"beta_start", "beta_end"} <= set(scheduler):
        raise ValueError(f"{path} has no beta_start and beta_end. Download the folder again.")
    return DecoderConfigs(
        read_json(folder / "unet" / "config.json"), scheduler, read_preview(folder)
    )
