"""Random LoRA files with random settings beside them are each used, or refused with an error."""

import json
import logging
import random
import struct
import sys
import time
from collections import Counter

import comfy.lora
import folder_paths
import pytest
import torch
from helpers.lora_reference import NODES, load, network_of, patcher_of
from safetensors.torch import save_file

pytestmark = pytest.mark.long
CASES = 400  # the same in every ordinary run; --fuzz N: N others
SECONDS = 5  # for each
NAME = "random.safetensors"
TYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn] * 20
TYPES += [torch.int32, torch.bool]
ROOTS = ["", "base_model.model.", "unet.", "prior.", "module.", "_orig_mod.", "text_encoder."]
VALUES = [
    None, True, False, 0, -1, 1, 4, 8, 16, 0.5, 1e30, 1e300, 10**400, float("nan"), float("inf"),
    "8", "", [], {}, [8], {"r": 8}, "pissa", "\ud800", "x" * 1000,
]  # fmt: skip
PATTERNS = ["to_q", "^proj_in", "attn1.to_q$", ".*", "(a+)+$", "(", "", "\ud800", "to_out\\.0"]
KEYS = ["r", "lora_alpha", "alpha", "use_rslora", "peft_type", "init_lora_weights", "use_dora"]
RAW = ["", "null", "[]", "3", "NaN", '"x"', "[" * 5000, '{"a":' * 5000, "{", '{"r": 1e999}', "\0"]


def random_settings(rng) -> str:
    """Return correct settings, odd ones, or none."""
    if rng.random() < 0.05:
        return rng.choice(RAW)
    kind = rng.choice(["LORA", "LORA", "LOHA", "LOKR", "OFT"])
    settings = {"peft_type": kind, "r": 4, "lora_alpha": 8, "alpha": 8}
    if rng.random() < 0.5:
        settings["alpha_pattern"] = {rng.choice(PATTERNS): rng.choice([2, 4] * 30 + VALUES)}
    if rng.random() < 0.3:
        settings["rank_pattern"] = {rng.choice(PATTERNS): rng.choice([2, 4] * 30 + VALUES)}
    for _ in range(rng.choice([0] * 8 + [1, 2])):
        settings[rng.choice([*KEYS, "alpha_pattern", "rank_pattern"])] = rng.choice(VALUES)
    return json.dumps(settings)


def sound_parts(rng, shape) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a change that fits: ending → shape."""
    out, inner, *kernel = shape
    rank, flat = rng.choice([1, 2, 4]), [1] * len(kernel)
    lora = {"A": (rank, inner, *kernel), "B": (out, rank, *flat)}
    up = rng.choice(["lora_{}.weight", "lora_{}.default.weight", "lora_{}"])
    dora = rng.choice(["lora_magnitude_vector", "lora_magnitude_vector.default.weight"])
    numbers = inner * torch.Size(kernel).numel()
    loha = {f"hada_w{i}_a": (out, rank) for i in (1, 2)}
    loha |= {f"hada_w{i}_b": (rank, numbers) for i in (1, 2)}
    tucker = {f"hada_w{i}_a": (rank, out) for i in (1, 2)}
    tucker |= {f"hada_w{i}_b": (rank, inner) for i in (1, 2)}
    tucker |= {f"hada_t{i}": (rank, rank, *kernel) for i in (1, 2)}
    core = {"lokr_t2": (rank, rank, *kernel), "lokr_w2_a": (rank, out // 2)}
    core |= {"lokr_w2_b": (rank, inner // 2)}
    w2 = rng.choice([{"lokr_w2": (out // 2, inner // 2, *kernel)}, core])
    w1 = rng.choice([{"lokr_w1": (2, 2)}, {"lokr_w1_a": (2, rank), "lokr_w1_b": (rank, 2)}])
    peft = {up.format(letter): size for letter, size in lora.items()}
    kohya = {"lora_down.weight": lora["A"], "lora_up.weight": lora["B"]}
    scale = rng.choice([(out, 1, *flat), (1, inner, *flat)])
    return rng.choice(
        [
            peft,
            peft | {dora: (out,)},
            peft | {up.format("B").removesuffix(".weight") + ".bias": (out,)},
            kohya | {"alpha": ()},
            kohya | {"dora_scale": scale},
            loha,
            tucker,
            w1 | w2,
            {"diff": tuple(shape)},
            {"oft_blocks": (out // 4, 4, 4), "alpha": ()},
        ]
    )  # fmt: skip


def spoiled(rng, parts: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Return the same with one thing wrong."""
    parts, name = dict(parts), rng.choice([*parts])
    size = [*parts.pop(name)]
    deed = rng.choice(["lacks", "renamed", "size", "dimensions", "large", "more"])
    if deed == "renamed":
        parts[rng.choice(["lora_E", "lokr_w1", "hada_w1_a", "alpha", "diff_b", "x"])] = (*size,)
    elif deed == "size" and size:
        size[rng.randrange(len(size))] = rng.choice([0, 1, 3, 25])
    elif deed == "dimensions":
        size = rng.choice([[], size[:1], [*size, 1, 1, 1], size[::-1]])
    elif deed == "large" and size:
        size = [1] * len(size)
        size[rng.randrange(len(size))] = 1_000_000
    elif deed == "more":
        parts[rng.choice(["alpha", "dora_scale", "reshape_weight", "lora_mid.weight"])] = (2,)
    return parts if deed in ("lacks", "renamed") else parts | {name: (*size,)}


def random_tensors(rng, weights) -> dict[str, torch.Tensor]:
    tensors = {}
    for _ in range(rng.choice([1, 1, 2, 3])):
        module, shape = rng.choice(weights)
        parts = sound_parts(rng, shape)
        if rng.random() < 0.25:
            parts = spoiled(rng, parts)
        root = "".join(rng.choices(ROOTS, k=rng.choice([0, 1, 1, 2])))
        root = rng.choice([root, "base_model.model."])
        for ending, size in parts.items():
            tensor = (torch.randn(size) * 10).to(rng.choice(TYPES))
            odd = rng.random() < 0.01 and tensor.is_floating_point()
            tensors[f"{root}{module}.{ending}"] = (
                (tensor.float() * float("nan")).to(tensor.dtype) if odd else tensor
            )
    return tensors


def random_file(rng, folder, weights) -> None:
    for file in folder.iterdir():
        file.unlink()
    torch.manual_seed(rng.randrange(2**32))
    metadata = {"lora_adapter_metadata": random_settings(rng)} if rng.random() < 0.2 else None
    if metadata:
        metadata = {k: v.encode(errors="replace").decode() for k, v in metadata.items()}
    save_file(random_tensors(rng, weights), folder / NAME, metadata)
    if rng.random() < 0.7:
        name = rng.choice(["adapter_config.json", "random.json", "random_adapter_config.json"])
        (folder / name).write_text(random_settings(rng))
    if rng.random() < 0.05:  # cut, or with one byte of the header changed
        content = bytearray((folder / NAME).read_bytes())
        content[rng.randrange(min(200, len(content)))] = rng.randrange(256)
        (folder / NAME).write_bytes(content[: rng.choice([len(content), rng.randrange(200)])])


def outcome(kind, value, caplog) -> str:
    """Return 'used' if ComfyUI applies every patch without errors, or 'refused' with an error."""
    caplog.clear()
    try:
        patched = NODES[kind].execute(value, NAME, 1.0).args[0]
    except (ValueError, OSError) as error:
        assert "random" in str(error) or "adapter_config.json" in str(error), error
        assert len(str(error)) < 2000
        return "refused"
    caplog.clear()  # drop what ComfyUI logged while the patches were tried
    patcher = patcher_of(patched)
    for key, patches in patcher.patches.items():
        weight = patcher.model_state_dict()[key].clone()
        result = comfy.lora.calculate_weight(patches, weight.clone(), key)
        assert result.shape == weight.shape
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING], caplog.text
    return "used"


@pytest.mark.parametrize("kind", NODES)
def test_every_file_ends_well(request, models, tmp_path, monkeypatch, caplog, capsys, kind):
    paths = ([str(tmp_path)], {".safetensors"})
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "loras", paths)
    value = load(kind)
    weights = [
        (key.removesuffix(".weight"), weight.shape)
        for key, weight in network_of(value).state_dict().items()
        if key.endswith(".weight") and weight.ndim > 1 and not weight.shape[0] % 4
    ]
    asked = request.config.getoption("--fuzz")
    first = random.randrange(2**32) if asked else 0
    counts = Counter()
    for seed in range(first, first + (asked or CASES) // len(NODES)):
        rng = random.Random(seed)
        random_file(rng, tmp_path, weights)
        started = time.process_time()
        try:
            counts[outcome(kind, value, caplog)] += 1
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise
        assert time.process_time() - started < SECONDS, seed
    with capsys.disabled():
        text = f"\n{kind}: {sum(counts.values())} random LoRA files: {dict(counts)}\n"
        sys.stdout.write(text)
    assert min(counts["used"], counts["refused"]) > sum(counts.values()) / 10


@pytest.mark.parametrize("size", [0, 1, 8, 9, 100])
def test_random_bytes(models, tmp_path, monkeypatch, size):
    paths = ([str(tmp_path)], {".safetensors"})
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "loras", paths)
    content = random.Random(size).randbytes(size)
    for text in (content, struct.pack("<Q", size) + content):
        (tmp_path / NAME).write_bytes(text)
        with pytest.raises(ValueError, match=f"{NAME} is damaged"):
            NODES["prior"].execute(load("prior"), NAME, 1.0)
