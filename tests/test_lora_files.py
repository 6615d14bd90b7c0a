"""What LoRA files are called, what is in them, and what is said of those that do not fit."""

import json
import logging
import re

import comfy.model_management
import folder_paths
import oracle
import pytest
import torch
from checkout import PACK
from kandinsky22.nodes.lora import LoadDecoderLora, LoadPriorLora
from kandinsky22.utils.comfyui.model_folders import list_files
from lora_by_hand import (
    NODES,
    RANK,
    SPELLINGS,
    flat,
    load,
    make_pairs,
    merge,
    network_of,
    patcher_of,
    write,
)
from safetensors import safe_open
from safetensors.torch import save_file

BUNDLED = "kandinsky-2-2-mini-night.safetensors"
each_kind = pytest.mark.parametrize("kind", NODES)


@pytest.fixture(scope="module")
def loras(tmp_path_factory):
    folder = tmp_path_factory.mktemp("loras")
    folder_paths.add_model_folder_path("loras", str(folder))
    return folder


def patched_weight(value, module) -> torch.Tensor:
    """A weight as the host has it when all are loaded."""
    comfy.model_management.load_models_gpu([patcher_of(value)])
    return network_of(value).get_submodule(module).weight


# --- names -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind, template, endings",
    [
        ("decoder", "unet.{old}", ("down.weight", "up.weight")),
        ("decoder", "{module}", ("lora_A.weight", "lora_B.weight")),  # save_lora_adapter
        ("decoder", "unet.{module}", ("lora.down.weight", "lora.up.weight")),  # diffusers' scripts
        ("decoder", "unet.{module}", ("lora_down.weight", "lora_up.weight")),
        ("decoder", "base_model.model.{module}", ("lora_A.weight", "lora_B.weight")),  # peft
        ("decoder", "{module}", ("lora_A.default.weight", "lora_B.default.weight")),
        ("decoder", "unet.base_model.model.{module}", ("lora_A.weight", "lora_B.weight")),
        ("decoder", "diffusion_model.{module}", ("lora_down.weight", "lora_up.weight")),
        ("decoder", "lycoris_{flat}", ("lora_down.weight", "lora_up.weight")),
        ("prior", "prior.{old}", ("down.weight", "up.weight")),
        ("prior", "{module}", ("lora_A.weight", "lora_B.weight")),
        ("prior", "transformer.{module}", ("lora_A.weight", "lora_B.weight")),
        ("prior", "base_model.model.{module}", ("lora_A.weight", "lora_B.weight")),
        ("prior", "lora_prior_{flat}", ("lora_down.weight", "lora_up.weight")),
        ("prior", "lora_transformer_{flat}", ("lora_down.weight", "lora_up.weight")),
    ],
)
def test_further_spellings(models, loras, caplog, kind, template, endings):
    pairs = make_pairs(kind)
    name = write(loras, "spelling", pairs, (template, *endings))
    value = NODES[kind].execute(load(kind), name, 1.0).args[0]
    merged = merge(load(kind), pairs, 1.0)
    for module in pairs:
        assert torch.equal(patched_weight(value, module), patched_weight(merged, module))
    assert "left out" not in caplog.text


@pytest.mark.parametrize(
    "config, scale",
    [
        ({"r": RANK, "lora_alpha": 8}, 8 / RANK),
        ({"r": RANK, "lora_alpha": 8, "use_rslora": True}, 8 / RANK**0.5),
        ({"r": RANK, "lora_alpha": 8, "alpha_pattern": {"to_[a-z]+(.0)?|add_._proj": 2}}, 2 / RANK),
        ({"unet.r": RANK, "unet.lora_alpha": 12, "text_encoder.lora_alpha": 1}, 12 / RANK),
    ],
)
@pytest.mark.parametrize("down, up", [("lora_A", "lora_B"), ("lora.down", "lora.up")])
def test_alpha_in_the_metadata(models, loras, config, scale, down, up):
    """Where diffusers keeps peft's: its files have no .alpha tensors."""
    pairs = make_pairs("decoder")
    metadata = {"lora_adapter_metadata": json.dumps(config)}
    spelling = ("unet.{module}", f"{down}.weight", f"{up}.weight")
    name = write(loras, "peft", pairs, spelling, metadata=metadata)
    value = LoadDecoderLora.execute(load("decoder"), name, 1.0).args[0]
    merged = merge(load("decoder"), pairs, scale)
    for module in pairs:
        assert torch.equal(patched_weight(value, module), patched_weight(merged, module))


def kronecker(weight, generator):
    w1, w2 = torch.randn(2, 2, generator=generator), [side // 2 for side in weight.shape[:2]]
    w2 = torch.randn(*w2, *weight.shape[2:], generator=generator)
    return {"lokr_w1": w1, "lokr_w2": w2}, weight + torch.kron(w1, w2)


def hadamard(weight, generator):
    rows, columns = weight.shape
    a, c = (torch.randn(rows, RANK, generator=generator) for _ in range(2))
    b, d = (torch.randn(RANK, columns, generator=generator) for _ in range(2))
    parts = {"hada_w1_a": a, "hada_w1_b": b, "hada_w2_a": c, "hada_w2_b": d}
    return parts | {"alpha": torch.tensor(2.0)}, weight + 2.0 / RANK * ((a @ b) * (c @ d))


def decomposed(weight, generator):
    """LyCORIS' DoRA on the input axis: every column of the sum gets a length of its own."""
    up = torch.randn(weight.shape[0], RANK, generator=generator)
    down = torch.randn(RANK, weight.shape[1], generator=generator)
    length = torch.rand(1, weight.shape[1], generator=generator) + 0.5
    whole = weight + up @ down
    parts = {"lora_up.weight": up, "lora_down.weight": down, "dora_scale": length}
    norm = whole.T.norm(dim=1, keepdim=True).T + torch.finfo(torch.float32).eps
    return parts, whole * (length / norm)


def difference(weight, generator):
    change = torch.randn(weight.shape, generator=generator)
    return {"diff": change}, weight + change


@pytest.mark.parametrize("make", [kronecker, hadamard, decomposed, difference])
@each_kind
def test_other_methods_that_the_host_reads(models, loras, caplog, kind, make):
    module = {"decoder": "mid_block.attentions.0.to_q", "prior": "proj_in"}[kind]
    weight = network_of(load(kind)).get_submodule(module).weight
    parts, expected = make(weight.clone(), torch.Generator().manual_seed(0))
    save_file(
        {f"lora_unet_{flat(module)}.{end}": part for end, part in parts.items()},
        loras / "method.safetensors",
    )
    value = NODES[kind].execute(load(kind), "method.safetensors", 1.0).args[0]
    ours = patched_weight(value, module)
    assert oracle.max_diff(ours, expected) == 0.0
    assert not torch.equal(ours, weight) and "left out" not in caplog.text


# --- what does not fit -------------------------------------------------------------------------


STABLE_DIFFUSION = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q.alpha"


@pytest.mark.parametrize(
    "kind, keys, message",
    [
        (
            "prior",
            ["down_blocks.1.attentions.0.processor.to_q_lora.down.weight"],
            "has nothing for the prior's transformer. It names down_blocks.*known here are "
            r"transformer_blocks.0.attn1.*, … Use Load Decoder LoRA for it\.",
        ),
        (
            "decoder",
            ["prior.transformer_blocks.0.attn1.to_q.lora_A.weight"],
            "has nothing for the decoder's UNet.*Use Load Prior LoRA for it",
        ),
        (
            "decoder",
            [STABLE_DIFFUSION, "b", "c", "d"],
            r"It names b, c, d, …; known here are down_.*, … Choose one for Kandinsky 2\.2",
        ),
        ("prior", [STABLE_DIFFUSION], "Choose one for Kandinsky 2\\.2"),
    ],
)
def test_a_file_for_another_model(models, loras, kind, keys, message):
    save_file({key: torch.ones(1) for key in keys}, loras / "other.safetensors")
    plain = load(kind)
    with pytest.raises(ValueError, match=message):
        NODES[kind].execute(plain, "other.safetensors", 1.0)
    assert not patcher_of(plain).patches


@each_kind
def test_a_file_that_fits_in_part(models, loras, caplog, kind):
    pairs = make_pairs(kind)
    strange = {f"block.{i}": (torch.ones(1, 1), torch.ones(1, 1)) for i in range(4)}
    metadata = {"lora_adapter_metadata": json.dumps({"lora_alpha": 2})}
    name = write(loras, "part", pairs | strange, SPELLINGS["peft"], metadata=metadata)
    with caplog.at_level(logging.WARNING, "kandinsky22"):
        value = NODES[kind].execute(load(kind), name, 1.0).args[0]
    assert len(patcher_of(value).patches) == len(pairs)
    (record,) = [r for r in caplog.records if r.name == "kandinsky22"]
    assert re.fullmatch(
        "part.safetensors: 8 tensors are not for the (prior's|decoder's) .* and are left out: "
        r"block.0.lora_A.weight, block.0.lora_B.weight, block.1.lora_A.weight",
        record.getMessage(),
    )


def narrow_lora(shape):
    up, down = torch.ones(shape[0] // 2, RANK), torch.ones(RANK, shape[1] // 2)
    return {"lora_up.weight": up, "lora_down.weight": down}


def narrow_hadamard(shape):
    return hadamard(torch.ones(shape[0] // 2, shape[1]), torch.Generator())[0]


def unequal_hadamard(shape):
    return narrow_hadamard(shape) | {"hada_w1_b": torch.ones(RANK + 1, shape[1])}


def unequal_ranks(shape):
    return {"lora_up.weight": torch.ones(shape[0], 3), "lora_down.weight": torch.ones(2, shape[1])}


def narrow_difference(shape):
    return {"diff": torch.ones(shape[0] // 2, shape[1])}


@pytest.mark.parametrize(
    "make", [narrow_lora, narrow_hadamard, unequal_hadamard, unequal_ranks, narrow_difference]
)
@each_kind
def test_other_widths(models, loras, kind, make):
    module = {"decoder": "mid_block.attentions.0.to_q", "prior": "transformer_blocks.0.attn1.to_q"}
    shape = network_of(load(kind)).get_submodule(module[kind]).weight.shape
    tensors = {f"{module[kind]}.{end}": part for end, part in make(shape).items()}
    save_file(tensors, loras / "narrow.safetensors")
    message = (
        rf"narrow.safetensors is for a model of other widths: for {re.escape(module[kind])}.weight "
        rf"it has \[\d+, \d+\].*, and this model has {re.escape(str(list(shape)))}"
    )
    with pytest.raises(ValueError, match=message):
        NODES[kind].execute(load(kind), "narrow.safetensors", 1.0)


def test_half_of_a_pair(models, loras):
    key = "mid_block.attentions.0.to_q.lora_up.weight"
    save_file({key: torch.ones(64, RANK)}, loras / "half.safetensors")
    with pytest.raises(ValueError, match="lacks 'mid_block.*lora_down.weight': it is damaged"):
        LoadDecoderLora.execute(load("decoder"), "half.safetensors", 1.0)


@pytest.mark.parametrize("ending", ["pt", "bin", "ckpt", "PKL"])
def test_pickles_are_not_opened(models, loras, ending):
    class Opened:
        def __reduce__(self):
            return pytest.fail, ("the pickle was opened",)

    torch.save({"a": Opened()}, loras / f"evil.{ending}")
    message = r"evil\.\w+ is a Python pickle.*is not opened.*save_file"
    if f"evil.{ending}" in list_files("loras"):  # the host lists by lower-case endings
        assert re.search(message, LoadDecoderLora.validate_inputs(f"evil.{ending}"))
        with pytest.raises(ValueError, match=message):
            LoadDecoderLora.execute(load("decoder"), f"evil.{ending}", 1.0)
    (loras / f"evil.{ending}").rename(loras / "evil.safetensors")
    with pytest.raises(ValueError, match="damaged or not a safetensors file"):
        LoadPriorLora.execute(load("prior"), "evil.safetensors", 1.0)


@pytest.mark.parametrize(
    "config", ["[]", '{"lora_alpha": "x"}', '{"lora_alpha": 1, "alpha_pattern": {"(": 1}}']
)
def test_odd_metadata_names_its_file(models, loras, config):
    pair = {"lora_A.weight": torch.ones(RANK, 64), "lora_B.weight": torch.ones(64, RANK)}
    weights = {f"unet.mid_block.attentions.0.to_q.{name}": value for name, value in pair.items()}
    save_file(weights, loras / "odd.safetensors", {"lora_adapter_metadata": config})
    with pytest.raises(ValueError, match="odd.safetensors is damaged"):
        LoadDecoderLora.execute(load("decoder"), "odd.safetensors", 1.0)


def test_another_model():
    class Sdxl:
        model = torch.nn.Linear(1, 1)

    with pytest.raises(ValueError, match=r"is a Linear, not a Kandinsky 2\.2 decoder"):
        LoadDecoderLora.execute(Sdxl(), BUNDLED, 1.0)


# --- files in folders --------------------------------------------------------------------------


def test_lists_the_hosts_files_and_the_bundled(models, loras):
    (loras / "sub").mkdir(exist_ok=True)
    pairs = make_pairs("decoder")
    write(loras / "sub", "deep", pairs, SPELLINGS["peft"])
    options = LoadDecoderLora.define_schema().inputs[1].options
    assert {"sub/deep.safetensors", BUNDLED} <= set(options)
    assert options == LoadPriorLora.define_schema().inputs[1].options
    assert list_files("loras")[BUNDLED] == PACK / "models" / "loras" / BUNDLED
    LoadDecoderLora.execute(load("decoder"), "sub/deep.safetensors", 1.0)


def test_a_users_file_wins(models, loras):
    before = LoadDecoderLora.fingerprint_inputs(lora_name=BUNDLED, strength=1.0)
    name = BUNDLED.removesuffix(".safetensors")
    mine = loras / write(loras, name, make_pairs("decoder"), SPELLINGS["diffusers"])
    try:
        assert list_files("loras")[BUNDLED] == mine
        assert LoadDecoderLora.fingerprint_inputs(lora_name=BUNDLED, strength=1.0) != before
    finally:
        mine.unlink()


@pytest.mark.parametrize("name", ["nothing.safetensors", "../../etc/passwd", "/etc/passwd"])
def test_wrong_names(models, loras, name):
    message = "No file named .* among loras. Found: .*Put it into .*press R"
    assert re.search(message, LoadDecoderLora.validate_inputs(name))
    with pytest.raises(FileNotFoundError, match=message):
        LoadPriorLora.execute(load("prior"), name, 1.0)


def test_names_over_a_wire_are_known_later():
    assert LoadDecoderLora.validate_inputs(None) is True
    assert LoadPriorLora.validate_inputs(BUNDLED) is True


# --- the bundled one ---------------------------------------------------------------------------


def test_the_bundled_one_makes_it_night(models, caplog):
    from kandinsky22.nodes.decoder import Decoder
    from test_miniature import MARGIN, SCENES, NodeMiniature

    from tools.miniature.lora import score_lora

    class Nights(NodeMiniature):
        def decode_at_night(self, embeds, negative, seed):
            model, vae = self.load("decoder")
            model = LoadDecoderLora.execute(model, BUNDLED, 1.0).args[0]
            self.loaded["kandinsky-2-2-mini-night"] = model, vae
            canvas = {"samples": torch.zeros(len(embeds), 4, 16, 16)}
            return self.run(Decoder, "night", embeds, negative, canvas, seed)

    scores = score_lora(Nights(), SCENES)
    assert "left out" not in caplog.text
    assert scores["lora: night without"] == 0 and scores["lora: night with"] >= 0.95 - MARGIN
    for what in ("shape", "colour", "place"):
        assert scores[f"lora: {what} stays"] >= 0.90 - MARGIN


def test_the_bundled_one_says_what_it_is():
    with safe_open(list_files("loras")[BUNDLED], framework="pt") as file:
        about = file.metadata()
        names = list(file.keys())
    assert about["base_model"] == "kandinsky-2-2-mini-decoder" and about["license"] == "apache-2.0"
    assert all(re.search(r"\.processor\.\w+_lora\.(up|down)\.weight$", name) for name in names)
    assert list_files("loras")[BUNDLED].stat().st_size < 50_000
