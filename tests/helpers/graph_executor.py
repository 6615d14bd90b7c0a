"""Run graphs in ComfyUI's own executor, in this process, and watch each node."""

import asyncio
import inspect
import json
import threading
import traceback
from pathlib import Path
from typing import Any

import comfy.clip_vision
import comfy.model_management
import execution
import folder_paths
import server
import torch
from helpers import tiny_models
from helpers.checkout import PACK
from helpers.node_specs import OURS, read_specs
from helpers.wire_checks import digest, is_tame, malformed, tensors_in

import nodes

PATIENCE = 120  # seconds for one graph; the slowest take a few
CLEAR = (ValueError, FileNotFoundError, OSError)
# This is for a latent of 2×2 in the tiny UNet, whose first level has one channel in each group. No
# other size has that.
TINY = "Expected more than 1 value per channel"
SIGMAS = "SIGMAS"  # ComfyUI's uni_pc changes the sigmas that it gets
# The nodes of ComfyUI that only run our VAE.
WHOLE = ("VAEEncode", "VAEEncodeForInpaint", "VAEDecode")


class TinyClipVision:
    """ComfyUI's CLIP vision with tiny weights, as its own loader knows only published sizes."""

    RETURN_TYPES = ("CLIP_VISION",)
    FUNCTION = "load"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"kind": (["tiny", "odd"],)}}

    def load(self, kind: str):
        encoder = tiny_models.make_prior({"tiny": 24, "odd": 32}[kind]).image_encoder
        config = Path(folder_paths.get_temp_directory()) / "clip_vision.json"
        config.write_text(json.dumps(encoder.config.to_dict()))
        vision = comfy.clip_vision.ClipVisionModel(str(config))
        vision.load_sd(encoder.state_dict())
        return (vision,)


class Fault(AssertionError):
    """A result that no graph may have."""


class Executor:
    """Runs graphs in API form, as the server does with queued ones.

    `run` returns "picture", "refused" or "error". It raises the Fault or the original error of a
    graph that ends in any other way.
    """

    def __init__(self):
        loop = asyncio.new_event_loop()
        self.executor = execution.PromptExecutor(
            server.PromptServer(loop),
            execution.CacheType.LRU,
            {"lru": 400, "ram": 0, "ram_inactive": 0},
        )
        asyncio.run(nodes.init_builtin_extra_nodes())
        assert asyncio.run(nodes.load_custom_node(str(PACK)))
        nodes.NODE_CLASS_MAPPINGS["TinyClipVision"] = TinyClipVision
        self.specs = read_specs(nodes.NODE_CLASS_MAPPINGS)
        self.seen: list[tuple[str, Any, list]] = []
        self.faults: list[str] = []
        self.error: BaseException | None = None
        self.messages: set[str] = set()

    def watch(self, name: str, patch) -> None:
        """Look at the inputs and outputs of a node each time it runs."""
        node = nodes.NODE_CLASS_MAPPINGS[name]
        verb = "execute" if node.FUNCTION.startswith("EXECUTE_NORMALIZED") else node.FUNCTION
        given = inspect.getattr_static(node, verb)
        execute = getattr(given, "__func__", given)

        def watched(this, *args, **inputs):
            kept = {key: value for key, value in inputs.items() if key != "sigmas"}  # see SIGMAS
            before, tame = digest(kept), is_tame(inputs)
            try:
                output = execute(this, *args, **inputs)
            except BaseException as error:
                self.error = error
                raise
            finally:
                if digest(kept) != before:
                    self.faults.append(f"{name} changed what it was given")
            result = getattr(output, "result", output)
            result = result["result"] if isinstance(result, dict) and "result" in result else result
            if isinstance(result, tuple):
                self.look_at(name, node.RETURN_TYPES, result, tame)
            return output

        patch(node, verb, classmethod(watched) if isinstance(given, classmethod) else watched)

    def look_at(self, name: str, kinds, values: tuple, tame: bool) -> None:
        ours = name.startswith(OURS)
        listed = [
            (kind, item)
            for kind, value in zip(kinds, values, strict=False)
            for item in (value if str(kind) == "IMAGE" and isinstance(value, list) else [value])
        ]
        for kind, value in listed:
            wrong = malformed(str(kind), value, name) if ours else ""
            numbers = all(torch.isfinite(tensor).all() for tensor in tensors_in(value))
            if tame and not numbers and (ours or name in WHOLE):
                wrong = "NaN or infinity"
            if wrong:
                self.faults.append(f"{name} gave a {kind} with {wrong}")
            if kind != SIGMAS:
                self.seen.append((name, value, digest(value)))

    def run(self, graph: dict[str, Any]) -> str:
        self.seen, self.faults, self.error = [], [], None
        graph = json.loads(json.dumps(graph))
        number = "fuzz"
        valid, _, outputs, node_errors = asyncio.run(execution.validate_prompt(number, graph, None))
        check_refusals(node_errors)
        if not valid:
            return "refused"
        watchdog = threading.Timer(PATIENCE, comfy.model_management.interrupt_current_processing)
        watchdog.start()
        try:
            self.executor.execute(graph, number, {}, outputs)
        finally:
            watchdog.cancel()
        event, report = self.executor.status_messages[-1]
        if event == "execution_interrupted":
            raise Fault(f"{report['node_type']} was not done after {PATIENCE} s")
        self.faults += [
            f"{name}'s output was changed" for name, *v in self.seen if digest(v[0]) != v[1]
        ]
        if self.faults:
            raise Fault("; ".join(self.faults))
        if event == "execution_success":
            return "picture"
        self.check_error(report)
        return "error"

    def check_error(self, report: dict) -> None:
        """Check that an error in our nodes or our code is one that this pack raises on purpose."""
        error, node = self.error, report["node_type"]
        if error is None:
            raise Fault(f"The host could not run {node}: {report['exception_message']}")
        frames = [Path(frame.filename) for frame in traceback.extract_tb(error.__traceback__)]
        ours = [
            any(path.is_relative_to(PACK / part) for part in ("nodes", "utils")) for path in frames
        ]
        # ComfyUI itself refuses to save outside the output folder, in all nodes that save.
        if not any(ours) and not node.startswith(OURS) or frames[-1].name == "folder_paths.py":
            return  # an error of ComfyUI's own
        message = str(error)
        if message.startswith(TINY):
            return
        self.messages.add(f"{node}: {type(error).__name__}: {message}")
        if not (ours[-1] and isinstance(error, CLEAR) and len(message.split()) > 5):
            raise error


def check_refusals(node_errors: dict) -> None:
    for node in node_errors.values():
        for reason in node["errors"]:
            trace = "".join(reason.get("extra_info", {}).get("traceback", []))
            if str(PACK / "nodes") in trace or str(PACK / "utils") in trace:
                raise Fault(f"Validating {node['class_type']}: {reason['details']}\n{trace}")
