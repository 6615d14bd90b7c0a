"""A LoRA file, or the settings beside it, that cannot be used is refused with an error.

Nothing in it is run, and no large memory is allocated for it.
"""

import json
import re
import struct
import time

import numpy
import pytest
import torch
from helpers import oracle
from helpers.lora_reference import (
    NODES,
    RANK,
    SPELLINGS,
    load,
    make_pairs,
    network_of,
    patcher_of,
    write,
)
from kandinsky22.nodes.lora import LoadDecoderLora, LoadPriorLora
from safetensors.torch import save_file

pytestmark = pytest.mark.long

MODULE = "transformer_blocks.0.attn1.to_q"
SIDE = 24  # the side of its weight
HOSTILE = "(a+)+$"


@pytest.fixture(autouse=True)
def in_time():
    """Check the processor time, so that a busy machine does not matter."""
    started = time.process_time()
    yield
    assert time.process_time() - started < 5


def pair(rank=RANK, **more):
    return {
        "lora_A.weight": torch.ones(rank, SIDE),
        "lora_B.weight": torch.ones(SIDE, rank),
    } | more


def apply(loras, parts, metadata=None, module=MODULE):
    save_file(
        {f"{module}.{e}": p for e, p in parts.items()}, loras / "spoiled.safetensors", metadata
    )
    return LoadPriorLora.execute(load("prior"), "spoiled.safetensors", 1.0).args[0]


def ones(*shape, dtype=torch.float32):
    return torch.ones(shape, dtype=dtype)


def loha(**other):
    parts = {f"hada_w{i}_a": ones(SIDE, 2) for i in (1, 2)}
    return parts | {f"hada_w{i}_b": ones(2, SIDE) for i in (1, 2)} | other


KOHYA = {"lora_up.weight": ones(SIDE, 2), "lora_down.weight": ones(2, SIDE)}
OTHER = "is for a model of other widths: for transformer_blocks.0.attn1.to_q.weight it has "
TENSORS = {
    "integers": (
        pair() | {"lora_A.weight": ones(RANK, SIDE, dtype=torch.int64)},
        "is a tensor of torch.int64, not of floating-point numbers",
    ),
    "booleans": (
        KOHYA | {"lora_up.weight": ones(SIDE, 2, dtype=torch.bool)},
        "is a tensor of torch.bool",
    ),
    "complex": (
        KOHYA | {"lora_up.weight": ones(SIDE, 2, dtype=torch.complex64)},
        "is a tensor of torch.complex64",
    ),
    "rank 0": (pair(0, alpha=torch.tensor(1.0)), r"lora_A.weight is empty: its shape is \[0, 24\]"),
    "rank 0 without alpha": (KOHYA | {"lora_down.weight": ones(0, SIDE)}, "is empty"),
    "0 dimensions": (pair() | {"lora_A.weight": torch.tensor(1.0)}, "is a single number"),
    "1 dimension": (pair() | {"lora_A.weight": ones(SIDE)}, OTHER),
    "5 dimensions": (pair() | {"lora_A.weight": ones(RANK, SIDE, 1, 1, 2)}, OTHER),
    "transposed": (
        {"lora_up.weight": ones(SIDE * 2, 2), "lora_down.weight": ones(2, SIDE // 2)},
        OTHER,
    ),
    "NaN": (
        pair() | {"lora_A.weight": ones(RANK, SIDE) * float("nan")},
        "is not finite: it has NaN or infinity",
    ),
    "NaN in float8": (
        KOHYA | {"lora_up.weight": (ones(SIDE, 2) * float("nan")).to(torch.float8_e4m3fn)},
        "is not finite",
    ),
    "infinity": (
        KOHYA | {"lora_up.weight": ones(SIDE, 2, dtype=torch.float16) * float("inf")},
        "is not finite",
    ),
    "alpha of many": (
        KOHYA | {"alpha": ones(2)},
        r"alpha is a tensor of torch.float32 and of shape \[2\], not one number",
    ),
    "alpha of none": (KOHYA | {"alpha": ones(0)}, "not one number"),
    "alpha of a truth": (KOHYA | {"alpha": torch.tensor(True)}, "alpha is a tensor of torch.bool"),
    "alpha NaN": (
        KOHYA | {"alpha": torch.tensor(float("nan"))},
        "alpha is nan, not a finite number",
    ),
    "alpha infinite": (
        KOHYA | {"alpha": torch.tensor(1e300, dtype=torch.float64)},
        "alpha is 1e.300, not a finite",
    ),
    "LoKr without w2": ({"lokr_w1": ones(2, 2)}, "lacks '.*to_q.lokr_w2'"),
    "LoKr without w1": ({"lokr_w2_a": ones(12, 2), "lokr_w2_b": ones(2, 12)}, "lacks '.*lokr_w1'"),
    "LoKr with half of w1": (
        {"lokr_w1_a": ones(2, 1), "lokr_w2": ones(12, 12)},
        "lacks '.*lokr_w1_b'",
    ),
    "LoKr with a core alone": ({"lokr_t2": ones(2, 2, 1, 1)}, "lacks '.*lokr_w2_a'"),
    "LoKr of another fold": ({"lokr_w1": ones(2, 4), "lokr_w2": ones(24, 3)}, OTHER),
    "LoKr of gigabytes": ({"lokr_w1": ones(3000, 3000), "lokr_w2": ones(500, 500)}, OTHER),
    "LoKr of petabytes": (
        {"lokr_w1": ones(2, 2), "lokr_w2_a": ones(1000000, 1), "lokr_w2_b": ones(1, 1000000)},
        OTHER,
    ),
    "LoKr with a core of terabytes": (
        {
            "lokr_w1": ones(1, 1),
            "lokr_t2": ones(1, 1, 1, 1),
            "lokr_w2_a": ones(1, SIDE),
            "lokr_w2_b": ones(1, 1000000),
        },
        OTHER,
    ),
    "LoHa of terabytes": (loha(hada_w1_a=ones(1000000, 2), hada_w1_b=ones(2, 1000000)), OTHER),
    "LoHa that is stretched": (loha(hada_w2_a=ones(1, 2)), OTHER),
    "LoHa with a core that is stretched": (
        loha(
            hada_w1_a=ones(1, SIDE),
            hada_w2_a=ones(1, SIDE),
            hada_t1=ones(1000000, 1, 1, 1),
            hada_t2=ones(1000000, 1, 1, 1),
        ),
        OTHER,
    ),
    "LoHa with half a core": (loha(hada_t1=ones(2, 2, 1, 1)), "lacks '.*hada_t2'"),
    "half a LoHa": ({"hada_w1_a": ones(SIDE, 2)}, "lacks '.*hada_w1_b'"),
    "half a pair": ({"lora_A.weight": ones(2, SIDE)}, "lacks '.*lora_B.weight'"),
    "half a GLoRA": ({"a1.weight": ones(SIDE, 2)}, "lacks '.*a2.weight'"),
    "GLoRA of other ranks": (
        {
            "a1.weight": ones(SIDE, 2),
            "a2.weight": ones(3, SIDE),
            "b1.weight": ones(SIDE, 4),
            "b2.weight": ones(5, SIDE),
            "alpha": ones(1),
        },
        OTHER,
    ),
    "OFT of other widths": ({"oft_blocks": ones(5, 5, 5)}, OTHER),
    "DoRA alone": ({"lora_magnitude_vector": ones(SIDE)}, "lacks '.*lora_A.weight'"),
    "DoRA of other widths": (pair(lora_magnitude_vector=ones(SIDE - 1)), OTHER),
    "DoRA of one length": (pair(lora_magnitude_vector=ones(1)), OTHER),
    "dora_scale of other widths": (KOHYA | {"dora_scale": ones(SIDE - 1, 1)}, OTHER),
    "dora_scale of one length": (KOHYA | {"dora_scale": ones(1)}, OTHER),
    "dora_scale of one dimension": (KOHYA | {"dora_scale": ones(SIDE)}, OTHER),
    "a new shape": (
        KOHYA | {"reshape_weight": torch.tensor([1000000, 1000000])},
        "is a new shape for a weight",
    ),
    "AdaLoRA": (
        {"lora_A": ones(2, SIDE), "lora_B": ones(SIDE, 2), "lora_E": ones(2, 1)},
        "is AdaLoRA",
    ),
    "two adapters": (
        pair() | {"lora_A.mine.weight": ones(2, SIDE)},
        "has two tensors for lora_A.weight",
    ),
    "several changes": (
        KOHYA | {"diff": ones(SIDE, SIDE)},
        "has several changes for .*lora_up.weight and diff",
    ),
    "diff of other widths": ({"diff": ones(SIDE, SIDE, 1)}, OTHER),
    "diff_b of other widths": (KOHYA | {"diff_b": ones(3)}, "other widths: for .*to_q.bias it has"),
}


@pytest.mark.parametrize("parts, message", TENSORS.values(), ids=TENSORS)
def test_tensors(models, loras, parts, message):
    with pytest.raises(ValueError, match=r"spoiled\.safetensors.*" + message):
        apply(loras, parts)


NUMBER = "not a finite number"
SETTINGS = {
    "a list": ("[]", r"the settings are \[\], not a JSON object"),
    "null": ("null", "the settings are None"),
    "nothing": ("", "not valid JSON"),
    "deep": ("[" * 5000 + "]" * 5000, "not valid JSON"),
    "deep objects": ('{"a":' * 5000 + "1" + "}" * 5000, "not valid JSON"),
    "alpha 10^400": ('{"lora_alpha": 1' + "0" * 400 + "}", f"lora_alpha is 10000.*{NUMBER}"),
    "alpha of 10,000 digits": ('{"lora_alpha": ' + "9" * 10000 + "}", "not valid JSON"),
    "alpha 1e400": ('{"lora_alpha": 1e400}', f"lora_alpha is inf, {NUMBER}"),
    "alpha NaN": ('{"lora_alpha": NaN}', f"lora_alpha is nan, {NUMBER}"),
    "alpha a text": ('{"lora_alpha": "8"}', f"lora_alpha is '8', {NUMBER}"),
    "alpha null": ('{"lora_alpha": null}', f"lora_alpha is None, {NUMBER}"),
    "alpha true": ('{"lora_alpha": true}', f"lora_alpha is True, {NUMBER}"),
    "rank 0": ('{"lora_alpha": 8, "r": 0}', "the rank r is 0, not a whole number from 1"),
    "rank 10^400": ('{"lora_alpha": 8, "r": 1' + "0" * 400 + "}", f"r is 10000.*{NUMBER}"),
    "rslora a text": ('{"lora_alpha": 8, "use_rslora": "no"}', "use_rslora is 'no'"),
    "patterns a list": ('{"lora_alpha": 8, "alpha_pattern": [1]}', r"alpha_pattern is \[1\]"),
    "a pattern's alpha": ('{"lora_alpha": 8, "alpha_pattern": {"to_q": "x"}}', "to_q is 'x'"),
    "a pattern's rank": ('{"lora_alpha": 8, "rank_pattern": {"to_q": 0.5}}', "rank to_q is 0.5"),
    "changes the model": (
        '{"lora_alpha": 8, "init_lora_weights": "pissa_niter_4"}',
        "'pissa_niter_4', which changes the model",
    ),
    "huge": (json.dumps({"lora_alpha": 8, "x": "x" * 5_000_000}), "far more than peft writes"),
}


@pytest.fixture
def sidecar(loras):
    file = loras / "spoiled_adapter_config.json"
    yield file
    file.unlink()


@pytest.mark.parametrize("settings, message", SETTINGS.values(), ids=SETTINGS)
def test_settings_beside_it(models, loras, sidecar, settings, message):
    sidecar.write_text(settings)
    with pytest.raises(
        ValueError, match=r"spoiled_adapter_config\.json (is damaged|says).*" + message
    ):
        apply(loras, pair())


@pytest.mark.parametrize("settings, message", SETTINGS.values(), ids=SETTINGS)
def test_settings_in_its_metadata(models, loras, settings, message):
    if settings:  # a LoKr without settings has none
        with pytest.raises(ValueError, match=r"spoiled\.safetensors (is damaged|says).*" + message):
            apply(loras, pair(), {"lora_adapter_metadata": settings})


def test_settings_that_are_no_text(models, loras, sidecar):
    sidecar.write_bytes(b"\xff\xfe\x00\xd8")
    with pytest.raises(
        ValueError, match=r"spoiled_adapter_config\.json is damaged: .*not valid JSON"
    ):
        apply(loras, pair())


def warnings(caplog) -> str:
    return "\n".join(r.getMessage() for r in caplog.records if r.name == "kandinsky22")


def weight(value):
    import comfy.model_management

    comfy.model_management.load_models_gpu([patcher_of(value)])
    return network_of(value).get_submodule(MODULE).weight


@pytest.mark.parametrize("pattern", [HOSTILE, "(", ".*to_q", "to_[qk]", "(a|a)*" * 1000])
def test_patterns_are_not_run(models, loras, caplog, sidecar, pattern):
    sidecar.write_text(json.dumps({"r": RANK, "lora_alpha": RANK, "alpha_pattern": {pattern: 99}}))
    value = apply(loras, pair())
    assert (
        "1 patterns of spoiled_adapter_config.json are regular expressions, which are not run"
        in (warnings(caplog))
    )
    plain = network_of(load("prior")).get_submodule(MODULE).weight
    assert torch.allclose(weight(value), plain + RANK)


def test_a_million_patterns(models, loras, sidecar):
    patterns = {f"{i:x}": 1 for i in range(200_000)} | {"to_q": 2 * RANK}
    sidecar.write_text(json.dumps({"r": RANK, "lora_alpha": 1, "alpha_pattern": patterns}))
    plain = network_of(load("prior")).get_submodule(MODULE).weight
    assert torch.allclose(weight(apply(loras, pair())), plain + 2 * RANK)


def test_without_any_alpha_the_strength_taken_is_said(models, loras, caplog):
    value = apply(loras, pair())
    assert re.search(
        "the alpha of its training is not in it.*alpha = rank is assumed", warnings(caplog)
    )
    plain = network_of(load("prior")).get_submodule(MODULE).weight
    assert torch.allclose(weight(value), plain + RANK)


@pytest.mark.parametrize(
    "parts, metadata",
    [
        (pair(alpha=torch.tensor(2.0)), None),
        (pair(), {"lora_adapter_metadata": json.dumps({"lora_alpha": 2, "r": RANK})}),
        (KOHYA, None),
    ],
)
def test_nothing_is_said_where_it_is_known(models, loras, caplog, parts, metadata):
    apply(loras, parts, metadata)
    assert not warnings(caplog)


def test_settings_of_another_adapter_are_not_used(models, loras, caplog, sidecar):
    sidecar.write_text(json.dumps({"peft_type": "LORA", "r": 64, "lora_alpha": 128}))
    apply(loras, pair())
    assert "spoiled_adapter_config.json beside it is another adapter's" in warnings(caplog)
    assert "alpha = rank is assumed" in warnings(caplog)


@pytest.mark.parametrize("settings", [{"sd version": "x", "notes": ""}, {"peft_type": "OFT"}])
def test_settings_of_something_else_are_passed_over(models, loras, caplog, sidecar, settings):
    sidecar.write_text(json.dumps(settings))
    apply(loras, pair())
    assert "alpha = rank is assumed" in warnings(caplog)


@pytest.mark.parametrize("ending", ["lora_B.bias", "diff_b"])
def test_a_bias_for_a_layer_without_is_named(models, loras, caplog, ending):
    plain, module = load("decoder"), "down_blocks.1.attentions.0.to_q"
    layer = network_of(plain).get_submodule(module)
    layer.bias = None
    out, inner = layer.weight.shape
    parts = {"lora_A.weight": ones(2, inner), "lora_B.weight": ones(out, 2)} | {ending: ones(out)}
    save_file({f"{module}.{e}": p for e, p in parts.items()}, loras / "bias.safetensors")
    LoadDecoderLora.execute(plain, "bias.safetensors", 1.0)
    assert f"1 tensors are not for the decoder's UNet and are left out: {module}.{ending}" in (
        warnings(caplog)
    )


def test_text_encoders_are_named(models, loras, caplog):
    text = {f"text_encoder.layers.{i}.lora_A.weight": ones(2, 2) for i in range(2)}
    save_file(text, loras / "text.safetensors")
    with pytest.raises(ValueError, match="has nothing for the prior's.*text_encoder.layers.0.lora"):
        LoadPriorLora.execute(load("prior"), "text.safetensors", 1.0)
    known = {f"prior.{MODULE}.{e}": p for e, p in KOHYA.items()}
    save_file(text | known, loras / "text.safetensors")
    LoadPriorLora.execute(load("prior"), "text.safetensors", 1.0)
    assert "are left out: text_encoder.layers.0.lora_A.weight" in warnings(caplog)


def header(text: bytes, size=None) -> bytes:
    return struct.pack("<Q", len(text) if size is None else size) + text


LARGE = '{"a": {"dtype": "F32", "shape": [%s], "data_offsets": [0, 4]}}'
FILES = {
    "empty": b"",
    "cut": header(b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}') + b"abc",
    "a header of 2^63 bytes": header(b"{}", 2**63),
    "a header of 90 MB": header(b"{}", 90_000_000),
    "a shape of 2^62": header((LARGE % "4611686018427387904, 4611686018427387904").encode())
    + b"1234",
    "a shape of 10^9": header((LARGE % "1000000000").encode()) + b"1234",
    "a negative shape": header((LARGE % "-1").encode()) + b"1234",
    "no JSON": header(b"[" * 5000),
    "an unknown type": header(LARGE.replace("F32", "F9").encode() % b"1") + b"1234",
}


@pytest.mark.parametrize("content", FILES.values(), ids=FILES)
def test_files(models, loras, content):
    (loras / "spoiled.safetensors").write_bytes(content)
    with pytest.raises(
        ValueError, match="spoiled.safetensors is damaged or not a safetensors file"
    ):
        LoadPriorLora.execute(load("prior"), "spoiled.safetensors", 1.0)


@pytest.mark.parametrize("number", [numpy.float32(0.5), numpy.float64(0.5), numpy.int64(1)])
def test_strength_as_a_number_of_numpy(models, loras, number):
    name = write(loras, "numpy", make_pairs("prior"), SPELLINGS["kohya"], 2.0)
    ours, plain = (
        NODES["prior"].execute(load("prior"), name, strength).args[0]
        for strength in (number, float(number))
    )
    assert oracle.max_diff(weight(ours), weight(plain)) == 0.0
    with pytest.raises(ValueError, match="strength is nan"):
        NODES["prior"].execute(load("prior"), name, numpy.float32("nan"))


def test_looking_at_a_patch_of_published_size_costs_nothing():
    from comfy.weight_adapter import LoKrAdapter, LoRAAdapter
    from kandinsky22.utils.comfyui.lora import fits

    started = time.process_time()
    lora = LoRAAdapter(set(), (ones(6144, 128), ones(128, 1536), 8.0, None, None, None))
    lokr = LoKrAdapter(set(), (ones(64, 48), ones(96, 32), None, *[None] * 6))
    for _ in range(300):
        assert fits(lora, "key", torch.Size([6144, 1536]))
        assert fits(lokr, "key", torch.Size([6144, 1536]))
    assert time.process_time() - started < 3


@pytest.mark.parametrize("dtype", ["F4", "F8_E8M0", "U16", "C64", "F8_E4M3FNUZ"])
def test_types_that_are_not_known(models, loras, dtype):
    size = {"F4": 24, "U16": 96, "C64": 384}.get(dtype, 48)
    tensors = {
        f"{MODULE}.lora_up.weight": {"dtype": dtype, "shape": [SIDE, 2], "data_offsets": [0, size]}
    }
    content = header(json.dumps(tensors).encode()) + bytes(size)
    (loras / "spoiled.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match="spoiled.safetensors is damaged"):
        LoadPriorLora.execute(load("prior"), "spoiled.safetensors", 1.0)
