"""Every random graph ends in a result, or in an error that helps."""

import copy
import faulthandler
import json
import shutil
import sys
import traceback
from contextlib import contextmanager
from pathlib import Path

import folder_paths
import pytest
import server
import torch
from helpers import lora_reference
from helpers.checkout import PACK
from helpers.graph_executor import PATIENCE, Executor, Fault
from helpers.node_specs import RUNNERS, SWITCH
from helpers.random_graphs import CONDITIONED, STAGES, graphs, simplest, switch_inputs
from helpers.tiny_models import TEXT_TO_IMAGE, WEIGHTS
from helpers.wire_checks import tensors_in
from hypothesis import HealthCheck, Phase, event, given, settings
from kandinsky22.utils.files.embeds import save_embeds
from kandinsky22.utils.kandinsky.image_embeds import ImageEmbeds

import nodes

pytestmark = pytest.mark.long
FAULTS = PACK / "artefacts" / "fuzz"
EACH = 8  # graphs for each node, the same in every ordinary run; --fuzz N: N new ones in all
OURS = json.loads((PACK / "locales" / "en" / "nodeDefs.json").read_text())  # by their ids
OURS = [name for name in OURS if name != "Kandinsky22GetModels"]
LOADERS = [f"Kandinsky22Load{name}" for name in "Prior Decoder UNet MoVQ DepthEstimator".split()]
ROOTS = [*(name for name in OURS if name not in LOADERS), *RUNNERS]


def write_files(models, folder) -> None:
    """Write a file of each kind, correct or odd, for every loader."""
    for name in ("input", "output", "temp", "user", "diffusion_models", "vae", "loras"):
        (folder / name).mkdir()
    for name, *shape in (("tiny", 1, 24), ("odd-batch", 2, 24), ("odd-width", 1, 32)):
        save_embeds(ImageEmbeds(torch.ones(shape)), folder / "input" / f"{name}.safetensors")
    (folder / "input" / "odd-damaged.safetensors").write_bytes(b"tiny")
    for part, place in (("unet", "diffusion_models"), ("movq", "vae")):
        for name in CONDITIONED | {TEXT_TO_IMAGE: ""}:
            shutil.copy(models / name / part / WEIGHTS, folder / place / f"{name}.safetensors")
    pairs = lora_reference.make_pairs("decoder") | lora_reference.make_pairs("prior")
    lora_reference.write(folder / "loras", "tiny", pairs, lora_reference.SPELLINGS["peft"])
    lora_reference.write(folder / "loras", "odd", {}, lora_reference.SPELLINGS["peft"])


@pytest.fixture(scope="module")
def executor(models, tmp_path_factory):
    """ComfyUI's executor, with the nodes and the folders of a user who has tiny models."""
    folder = tmp_path_factory.mktemp("fuzz")
    write_files(models, folder)
    folders = dict(folder_paths.folder_names_and_paths)
    for name in ("diffusion_models", "vae", "loras", "diffusers", "depth_estimators"):
        place = folder / name if (folder / name).is_dir() else models
        folders[name] = ([str(place)], folders.get(name, ([], set()))[1])
    with pytest.MonkeyPatch.context() as patch:
        for name in ("input", "output", "temp", "user"):
            patch.setattr(folder_paths, f"{name}_directory", str(folder / name))
        patch.setattr(folder_paths, "folder_names_and_paths", folders)
        patch.setattr(folder_paths, "filename_list_cache", {})
        patch.setattr(nodes, "NODE_CLASS_MAPPINGS", dict(nodes.NODE_CLASS_MAPPINGS))
        patch.setattr(server.PromptServer, "instance", None, raising=False)
        running = Executor()
        for name in running.specs:
            running.watch(name, patch.setattr)
        yield running
    FAULTS.mkdir(parents=True, exist_ok=True)
    (FAULTS / "messages.txt").write_text("\n".join(sorted(running.messages)))


@contextmanager
def kept(graph: dict):
    """Keep a failing graph, so that it can be run again.

    Of graphs with the same fault, the shortest is kept. So is one that nothing can interrupt, which
    ends the tests.
    """
    FAULTS.mkdir(parents=True, exist_ok=True)
    running = FAULTS / "running.json"
    running.write_text(json.dumps(graph, indent=1))
    faulthandler.dump_traceback_later(2 * PATIENCE, exit=True, file=sys.__stderr__)
    try:
        yield
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        file = FAULTS / f"{type(error).__name__}-{place.name}-{place.lineno}.json"
        running.replace(file)
        error.add_note(f"Run it again: python scripts/test.py --no-lint --replay {file}")
        raise
    finally:
        faulthandler.cancel_dump_traceback_later()
        running.unlink(missing_ok=True)


@pytest.mark.parametrize("root", ROOTS)
def test_every_graph_ends_well(request, executor, root):
    count = request.config.getoption("--fuzz")

    @settings(
        max_examples=max(1, count // len(ROOTS)) if count else EACH,
        derandomize=not count,
        database=None,
        deadline=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(graphs(executor.specs, root))
    def ends_well(graph):
        with kept(graph):
            event(executor.run(graph))

    ends_well()


@pytest.mark.parametrize("root", OURS)
def test_anything_in_place_of_an_input(executor, root):
    """A node that passes on any value avoids ComfyUI's own checks."""
    if SWITCH not in executor.specs:
        pytest.skip("this host has no such node")
    sound, number = simplest(executor.specs, root)
    assert executor.run(sound) == "picture"
    for name in sound[number]["inputs"]:
        for value in (None, "x", -1, 2**64, {}):
            graph = copy.deepcopy(sound)
            graph["any"] = {"class_type": SWITCH, "inputs": switch_inputs(value)}
            graph[number]["inputs"][name] = ["any", 0]
            executor.run(graph)


def test_after_all_that_the_models_are_as_good_as_new(executor):
    def give(root: str) -> tuple[list[torch.Tensor], list[str]]:
        """Return the outputs of a node, and which nodes did not have to run for them."""
        graph, number = simplest(executor.specs, root)
        graph[number]["inputs"]["seed"] = 7  # it gave another value before
        assert executor.run(graph) == "picture"
        values = [value for name, value, _ in executor.seen if name == root]
        cached = dict(executor.executor.status_messages)["execution_cached"]["nodes"]
        return tensors_in(values), [graph[each]["class_type"] for each in cached]

    roots = [*STAGES, "Kandinsky22Prior"]
    old = {root: give(root) for root in roots}
    assert "Kandinsky22LoadDecoder" in sum((cached for _, cached in old.values()), [])
    executor.executor.reset()
    for root in roots:
        assert old[root][0] and all(map(torch.equal, old[root][0], give(root)[0]))


class Culprit:
    """A node that does what no node of this pack may do."""

    RETURN_TYPES = ("LATENT",)
    FUNCTION = "run"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"latent": ("LATENT",), "deed": ("STRING",)}}

    def run(self, latent, deed):
        samples = latent["samples"]
        if deed == "changes its input":
            samples += 1
        if deed == "changes a setting":
            latent["more"] = 1
        if deed == "an error that says nothing":
            samples[9]
        if deed == "NaN":
            samples = samples * float("nan")
        if deed == "the wrong shape":
            samples = samples[0]
        return ({"samples": samples},)


@pytest.mark.parametrize(
    "deed, error, message",
    [
        ("changes its input", Fault, "changed what it was given"),
        ("changes a setting", Fault, "changed what it was given"),
        ("an error that says nothing", IndexError, "index 9"),
        ("NaN", Fault, "gave a LATENT with NaN or infinity"),
        ("the wrong shape", Fault, r"gave a LATENT with samples of shape \(4, 8, 8\)"),
    ],
)
def test_nothing_of_that_goes_unseen(executor, monkeypatch, deed, error, message):
    name = f"Kandinsky22{deed}"
    monkeypatch.setitem(nodes.NODE_CLASS_MAPPINGS, name, Culprit)
    executor.watch(name, monkeypatch.setattr)
    graph, number = simplest(executor.specs, "EmptyLatentImage")
    graph["it"] = {"class_type": name, "inputs": {"latent": [number, 0], "deed": deed}}
    graph["look"] = {"class_type": "PreviewAny", "inputs": {"source": ["it", 0]}}
    with pytest.raises(error, match=message):
        executor.run(graph)
    executor.executor.reset()  # its cache holds the changed values


def test_replay(request, executor):
    """Run one graph from a file again: --replay FILE."""
    file = request.config.getoption("--replay")
    if not file:
        pytest.skip("runs one graph: --replay FILE")
    executor.run(json.loads(Path(file).read_text()))
