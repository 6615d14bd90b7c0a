"""Write docs/model_nodes.md: what each of ComfyUI's nodes that change a MODEL does on a decoder.

    python tools/model_nodes.py

It places every node that takes a MODEL and gives one before KSampler and before each decoding
stage, on the bundled model, and reports the results. A new ComfyUI shows its new nodes.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    ROOT = Path(__file__).resolve().parents[1]
    sys.path[0] = str(ROOT)  # see scripts/__init__.py

    from scripts import pack

    pack.enter_host()
    import comfy.cli_args

    comfy.cli_args.args.cpu = True

import comfy.model_management
import comfyui_version
import folder_paths
import torch
from kandinsky22 import nodes as ours
from kandinsky22.nodes.conditioning import Conditioning, DepthConditioning
from kandinsky22.nodes.loaders import LoadDecoder
from kandinsky22.utils.kandinsky.image_embeds import ImageEmbeds

import nodes as host

PAGE = Path(__file__).resolve().parents[1] / "docs" / "model_nodes.md"
# Values with which a node has an effect on a small latent in four steps. Others keep their
# defaults.
LORA = {"lora_name": "kandinsky-2-2-mini-night.safetensors"}
FIRST = {"start_percent": 0.0, "end_percent": 1.0}
VALUES: dict[str, dict[str, Any]] = {
    "ContextWindowsManual": {"dim": 3, "context_length": 6, "context_overlap": 2},
    "WanContextWindowsManual": {"context_length": 21, "context_overlap": 8},
    "LTXVContextWindows": {"context_length": 41, "context_overlap": 16},
    "EasyCache": {"reuse_threshold": 3.0, **FIRST},
    "LazyCache": {"reuse_threshold": 3.0, **FIRST},
    "SkipLayerGuidanceDiT": {"double_layers": "1", **FIRST},
    "SkipLayerGuidanceSD3": {"layers": "1", **FIRST},
    "SkipLayerGuidanceDiTSimple": {"double_layers": "1"},
    "PatchModelAddDownscale": {"block_number": 2, "end_percent": 1.0},
    "FreSca": {"freq_cutoff": 2},
    "LoraLoaderModelOnly": LORA,
    "LoraLoaderBypassModelOnly": LORA,
    "ModelComputeDtype": {"dtype": "bf16"},
    "ModelSamplingDiscrete": {"zsnr": True},
    "TorchCompileModel": {"backend": "eager"},
}
# Nodes with a share for each block, 1.0 by default: nothing of the second model.
MERGES = "ModelMerge"
SAME = {"TorchCompileModel": "works: the same latents, compiled"}
SIDE, STEPS = 8, 3
WORKS, NOTHING, SILENT, BARE = "works", "nothing to do", "silent", "bare exception"


@dataclass(frozen=True)
class Row:
    node: str
    brings: str  # what the node puts on the MODEL
    cells: dict[str, str]  # runner → the result


def types_of(node: type) -> dict[str, Any]:
    """Return name → (type, options) of a node's required inputs."""
    return node.INPUT_TYPES().get("required", {})  # type: ignore[attr-defined]


def model_nodes() -> dict[str, type]:
    """Return every node of ComfyUI that takes a MODEL and gives one."""
    return {
        name: node
        for name, node in sorted(host.NODE_CLASS_MAPPINGS.items())
        if not name.startswith("Kandinsky22")
        and "MODEL" in [str(kind) for kind in node.RETURN_TYPES]
        and "MODEL" in [str(kind) for kind, *_ in types_of(node).values()]
    }


class Bench:
    """The miniature, with all values that a node may get."""

    def __init__(self) -> None:
        self.decoders = {
            name: LoadDecoder.execute(f"kandinsky-2-2-mini-{name}", "default").args
            for name in ("decoder", "decoder-inpaint", "controlnet-depth")
        }
        draw = torch.Generator().manual_seed(0)
        drawn = [ImageEmbeds(torch.randn(1, 64, generator=draw)) for _ in range(3)]
        *self.pair, self.empty = [Conditioning.execute(each).args[0] for each in drawn]
        self.embeds = drawn[:2]
        samples = torch.randn(1, 4, SIDE, SIDE, generator=draw)
        ramp = torch.linspace(0, 1, SIDE).expand(1, 1, SIDE, SIDE)
        self.latent = {"samples": samples, "noise_mask": ramp}
        self.image = torch.rand(1, 8 * SIDE, 8 * SIDE, 3, generator=draw)
        self.mask = torch.ones(1, 8 * SIDE, 8 * SIDE)
        self.mask[:, : 4 * SIDE] = 0
        self.hinted = DepthConditioning.execute(self.empty, self.empty, self.image).args[0]
        self.plain = {name: run(self.model_of(name)) for name, run in self.runners().items()}

    def model_of(self, runner: str) -> Any:
        decoder = {"Inpaint": "decoder-inpaint"}.get(runner, "decoder")
        return self.decoders["controlnet-depth" if "ControlNet" in runner else decoder][0]

    def stage(self, node: Any, **widgets: Any) -> Callable[[Any], torch.Tensor]:
        settings = dict(seed=7, steps=STEPS, cfg=4.0, sampler_name="euler", scheduler="leading")

        def run(model: Any) -> torch.Tensor:
            positive, negative = self.embeds
            given = dict(latent=self.latent, negative_image_embeds=negative)
            return node.execute(model, positive, **given, **settings, **widgets).args[0]["samples"]

        return run

    def ksampler(self, model: Any) -> torch.Tensor:
        settings = (7, STEPS, 4.0, "euler", "normal", *self.pair, self.latent)
        return host.KSampler().sample(model, *settings)[0]["samples"]

    def runners(self) -> dict[str, Callable[[Any], torch.Tensor]]:
        return {
            "KSampler": self.ksampler,
            "Decoder": self.stage(ours.Decoder),
            "Img2Img": self.stage(ours.Img2Img, denoise=1.0),
            "Inpaint": self.stage(ours.Inpaint, mask=self.mask),
            "ControlNet": self.stage(ours.ControlNet, hint=self.image),
            "ControlNetImg2Img": self.stage(ours.ControlNetImg2Img, hint=self.image, denoise=1.0),
        }

    def value(self, model: Any, kind: Any, options: dict[str, Any]) -> Any:
        """Return a value for an input.

        Raise LookupError if Kandinsky 2.2 has no value of its type.
        """
        depth = model.model.diffusion_model.variant == "depth"
        there = {
            "MODEL": model,
            "CONDITIONING": self.hinted if depth else self.empty,
            "LATENT": self.latent,
            "IMAGE": self.image,
            "MASK": self.mask,
            "VAE": self.decoders["decoder"][1],
        }
        choices = kind if isinstance(kind, list) else options.get("options")
        if str(kind) in there:
            return there[str(kind)]
        if "default" in options:
            return options["default"]
        if choices:
            return choices[0]
        if str(kind) in ("INT", "FLOAT"):
            return options.get("min", 0)
        raise LookupError("a file" if isinstance(kind, list) or str(kind) == "COMBO" else str(kind))

    def patch(self, name: str, node: type, model: Any) -> Any:
        """Return the MODEL after a node."""
        values = dict(VALUES.get(name, {}))
        for key, (kind, *options) in types_of(node).items():
            if key not in values:
                values[key] = self.value(model, kind, options[0] if options else {})
            if name.startswith(MERGES) and str(kind) == "FLOAT":
                values[key] = 0.5
            if key == "model2":
                values[key] = another(model)
        if hasattr(node, "execute") and hasattr(node, "define_schema"):
            result = node.execute(**values)
            result = getattr(result, "args", result)
        else:
            result = getattr(node(), node.FUNCTION)(**values)  # type: ignore[attr-defined]
        return result[[str(kind) for kind in node.RETURN_TYPES].index("MODEL")]  # type: ignore[attr-defined]


def another(model: Any) -> Any:
    """Return a MODEL of the same kind with other weights."""
    other = model.clone()
    weights = model.model.diffusion_model.state_dict()
    other.add_patches(
        {f"diffusion_model.{key}": ("set", (1.1 * value,)) for key, value in weights.items()}, 1.0
    )
    return other


def carried(model: Any) -> dict[str, Any]:
    """Return what a MODEL carries, by name. It is equal for two MODELs that carry the same."""

    def walk(value: Any, name: str) -> Iterator[tuple[str, Any]]:
        if isinstance(value, dict):
            for key, each in value.items():
                yield from walk(each, f"{name}.{key}" if name else str(key))
        elif isinstance(value, list | tuple):
            for index, each in enumerate(value):
                yield from walk(each, f"{name}[{index}]")
        else:
            yield name, value if isinstance(value, bool | int | float | str) else id(value)

    options = dict(model.model_options)
    options |= options.pop("transformer_options", {})
    found = {
        name: value for part in (options, model.object_patches) for name, value in walk(part, "")
    }
    found |= dict(walk({f"{kind} wrapper": each for kind, each in model.wrappers.items()}, ""))
    return found | ({"weights": len(model.patches)} if model.patches else {})


def brought(before: Any, after: Any) -> str:
    """Return the names of what a node has put on a MODEL."""
    old, new = carried(before), carried(after)
    names = {name for name, value in new.items() if old.get(name) != value or name not in old}
    short = {
        name.removeprefix("patches.").removeprefix("patches_replace.").split("[")[0].split(".")[0]
        for name in names
    }
    return ", ".join(sorted(short))


def short_of(error: BaseException) -> str:
    return " ".join(str(error).split()).replace("|", "/")[:240]


def outcome(bench: Bench, runner: str, model: Any, plain: Any) -> str:
    """Return the result of a run."""
    try:
        samples = bench.runners()[runner](model)
    except ValueError as error:
        return f"refused: {short_of(error)}"
    except Exception as error:  # an error that the table must never show
        return f"{BARE}: {type(error).__name__}: {short_of(error)}"
    expected = bench.plain[runner]
    if (samples - expected).abs().max() > 1e-3 * expected.abs().max():
        return WORKS
    return SILENT if brought(plain, model) else NOTHING


def try_node(bench: Bench, name: str, node: type) -> Row:
    """Return one row: the node before each runner."""
    cells, brings = {}, ""
    for runner in bench.plain:
        plain = bench.model_of(runner)
        try:
            model = bench.patch(name, node, plain)
        except LookupError as error:
            cells[runner] = f"not for this model: needs {error.args[0]}"
            if not isinstance(error.args[0], str) or isinstance(error, KeyError):
                cells[runner] = f"not for this model: the node says {short_of(error)}"
            continue
        except Exception as error:
            cells[runner] = f"not for this model: the node says {short_of(error)}"
            continue
        brings = brings or brought(plain, model)
        cell = outcome(bench, runner, model, plain)
        cells[runner] = SAME.get(name, cell) if cell == SILENT else cell
    return Row(name, brings, cells)


def rows(names: list[str] | None = None) -> list[Row]:
    """Return the table, of all nodes or of the named ones."""
    found = model_nodes()
    bench = Bench()
    with torch.inference_mode():
        return [
            try_node(bench, name, node)
            for name, node in found.items()
            if names is None or name in names
        ]


def stage_cell(cells: dict[str, str]) -> str:
    """Return the cells of the five stages as one, where they are equal."""
    stages = {runner: cell for runner, cell in cells.items() if runner != "KSampler"}
    if len(set(stages.values())) == 1:
        return next(iter(stages.values()))
    return "; ".join(f"{runner}: {cell}" for runner, cell in stages.items())


def page(table: list[Row]) -> str:
    lines = [
        "# ComfyUI's nodes that change a MODEL",
        "",
        f"Every node of ComfyUI {comfyui_version.__version__} that takes a MODEL and gives one,",
        "placed before KSampler and before each of the five stage nodes, on the bundled model.",
        "`python tools/model_nodes.py` writes this page.",
        "",
        "- *works*: the latents change. What the node puts on the MODEL is in the second column.",
        "- *nothing to do*: the node leaves this MODEL as it was.",
        "- *refused*: the message that the user sees.",
        "- *not for this model*: the node wants another one, or what Kandinsky 2.2 does not have.",
        "",
        "| node | puts on the MODEL | in KSampler | in a stage node |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {row.node} | {row.brings or '–'} | {row.cells['KSampler']} | {stage_cell(row.cells)} |"
        for row in table
    ]
    return "\n".join(lines) + "\n"


def start() -> None:
    """Load ComfyUI's nodes, and list the bundled LoRA."""
    folder_paths.add_model_folder_path("loras", str(PAGE.parents[1] / "models" / "loras"))
    asyncio.run(host.init_builtin_extra_nodes())


if __name__ == "__main__":
    start()
    PAGE.write_text(page(rows(sys.argv[1:] or None)), "utf-8")
    print(PAGE.read_text("utf-8"))
