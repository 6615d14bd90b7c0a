"""peft's settings of an adapter. They contain its strength, and its file of weights does not.

diffusers keeps them in the file's metadata, peft in `adapter_config.json` beside the file.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

METADATA_KEY = "lora_adapter_metadata"  # diffusers' name
MOST_BYTES = 2**22
DEFAULT = 8  # peft's own default, for r and for alpha
METHODS = ("LORA", "LOHA", "LOKR")
# Methods that change the model's own weights before training, so that the adapter alone is not
# enough.
CHANGES_THE_MODEL = ("pissa", "olora", "corda", "loftq", "lora_ga")


@dataclass(frozen=True)
class Origin:
    """The place of some settings."""

    path: Path
    where: str = ""  # in the file

    def damaged(self, what: str) -> ValueError:
        return ValueError(
            f"{self.path} is damaged: {self.where}{what}. Download it again, or take it away."
        )


Patterns = dict[str, tuple[int, float]]  # a pattern → its position among them, and its value


@dataclass(frozen=True)
class PeftConfig:
    """The strength of each module by peft's settings."""

    origin: Origin
    rank: float
    alpha: float
    rslora: bool
    rank_pattern: Patterns
    alpha_pattern: Patterns

    def rank_of(self, name: str) -> float:
        return find_pattern(self.rank_pattern, name, self.rank)

    def alpha_of(self, name: str) -> float:
        return find_pattern(self.alpha_pattern, name, self.alpha)

    def is_of(self, ranks: set[int]) -> bool:
        """Return whether an adapter of these ranks can have been made with the settings."""
        return ranks <= {self.rank, *(rank for _, rank in self.rank_pattern.values())}


def find_pattern(patterns: Patterns, name: str, default: float) -> float:
    """Return the value of the first pattern that is a module's name, or the end of one.

    peft runs the patterns as regular expressions. Here nothing in a file is run, because some
    patterns never end.
    """
    places = [0, *(dot.end() for dot in re.finditer(r"\.", name))]
    bare = name.removeprefix("base_model.model.")
    wanted = [*(name[place:] for place in places), f"^{name}", f"^{bare}"]
    return min((patterns[name] for name in wanted if name in patterns), default=(0, default))[1]


def literal(pattern: str) -> str:
    return pattern.removesuffix("$").replace("\\.", ".")


def is_literal(pattern: str) -> bool:
    return not re.search(r"[][(){}*+?|\\^$]", pattern.removeprefix("^"))


def sidecars(path: Path) -> list[Path]:
    """Return where peft's settings may be beside a LoRA file, the nearest first.

    Settings without the file's name belong to it only if the file is alone, or has peft's name.
    """
    names = [f"{path.stem}_adapter_config.json", f"{path.stem}.json"]
    is_alone = len(list(path.parent.glob("*.safetensors"))) == 1
    if is_alone or path.stem.startswith(("adapter_model", "pytorch_lora_weights")):
        names.append("adapter_config.json")
    return [file for name in names if (file := path.with_name(name)).is_file()]


def parse_json(text: str | bytes, origin: Origin) -> dict[str, Any]:
    """Return the settings in a JSON text.

    Raise ValueError that names the file for any other text.
    """
    if len(text) > MOST_BYTES:
        raise origin.damaged(f"it has {len(text)} bytes of settings, far more than peft writes")
    try:
        settings = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise origin.damaged(f"the settings are not valid JSON ({error!s:.200})") from error
    if not isinstance(settings, dict):
        raise origin.damaged(f"the settings are {settings!r:.40}, not a JSON object")
    return settings


def read_sidecar(path: Path) -> PeftConfig | None:
    """Return the settings in a file, or None if the file is something else, such as a description.

    Raises:
        ValueError: it is peft's, and damaged.
    """
    with path.open("rb") as file:
        text = file.read(MOST_BYTES + 1)
    is_named = path.name.endswith("adapter_config.json")  # only peft gives this name
    if not is_named and b"peft_type" not in text:
        return None
    return make_config(parse_json(text, Origin(path)), Origin(path))


def make_config(settings: dict[str, Any], origin: Origin) -> PeftConfig | None:
    """Return the settings of an adapter, or None if they are of another kind.

    Raises:
        ValueError: peft does not write such a value, or it says that the adapter is not enough.
    """
    if not ({"peft_type", "lora_alpha"} & set(settings) or {"r", "alpha"} <= set(settings)):
        return None
    if settings.get("peft_type", "LORA") not in METHODS:
        return None
    start = settings.get("init_lora_weights")
    if isinstance(start, str) and start.startswith(CHANGES_THE_MODEL):
        raise ValueError(
            f"{origin.path} says init_lora_weights {start!r:.40}, which changes the model's own "
            "weights, too; so the adapter alone has another effect. Save it again in peft, with "
            "save_pretrained(…, path_initial_model_for_weight_conversion=…)."
        )
    rslora = settings.get("use_rslora")
    if not (rslora is None or isinstance(rslora, bool)):
        raise origin.damaged(f"use_rslora is {rslora!r:.40}, not true or false")
    alpha = "lora_alpha" if "lora_alpha" in settings else "alpha"
    return PeftConfig(
        origin,
        check_rank(settings.get("r", DEFAULT), "r", origin),
        check_number(settings.get(alpha, DEFAULT), alpha, origin),
        bool(rslora),
        read_patterns(settings, "rank_pattern", origin, check_rank),
        read_patterns(settings, "alpha_pattern", origin, check_number),
    )


def read_patterns(
    settings: dict[str, Any], name: str, origin: Origin, check: Callable[[Any, str, Origin], float]
) -> Patterns:
    found = settings.get(name) or {}
    if not isinstance(found, dict):
        raise origin.damaged(f"{name} is {found!r:.40}, not a JSON object")
    values = [(literal(pattern), check(value, pattern, origin)) for pattern, value in found.items()]
    return {pattern: (i, value) for i, (pattern, value) in reversed([*enumerate(values)])}


def check_number(value: Any, name: str, origin: Origin) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not abs(value) < 1e30:
        raise origin.damaged(f"{name:.80} is {value!r:.40}, not a finite number")
    return float(value)


def check_rank(value: Any, name: str, origin: Origin) -> float:
    rank = check_number(value, name, origin)
    if rank < 1 or rank != int(rank):
        raise origin.damaged(f"the rank {name:.80} is {value}, not a whole number from 1 on")
    return rank
