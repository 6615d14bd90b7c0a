"""The image encoder of a prior is built when it is first needed, and its zero embedding is kept."""

import json
import shutil

import pytest
import torch
from helpers.tiny_models import PRIOR
from kandinsky22.nodes.embeds import EncodeImage, ZeroEmbeds
from kandinsky22.nodes.loaders import LoadPrior
from kandinsky22.nodes.prior import PriorEmb2Emb, SamplePrior
from kandinsky22.utils.comfyui import clip, model_folders
from kandinsky22.utils.files import headers
from kandinsky22.utils.files.zero_embeds import FILE
from safetensors.torch import load_file, save_file

pytestmark = pytest.mark.long

PUBLISHED = "image_encoder and image_processor of kandinsky-community/kandinsky-2-2-prior"


def load(name="broken", dtype="default"):
    return LoadPrior.execute(name, dtype).args[0]


def sample(prior, negative=""):
    return SamplePrior.execute(prior, "a red cat", negative, 7, 3, 4.0, 1).args


@pytest.fixture
def broken(broken):
    """A copy without the vector that other tests may have stored in the original folder."""

    def copy(name):
        folder = broken(name)
        (folder / "image_encoder" / FILE).unlink(missing_ok=True)
        return folder

    return copy


@pytest.fixture
def built(monkeypatch):
    """The image encoders that are built from now on."""
    encoders, build = [], clip.ImageEncoder.build

    def note(config):
        encoders.append(config)
        return build(config)

    monkeypatch.setattr(clip.ImageEncoder, "build", staticmethod(note))
    return encoders


@pytest.fixture
def opened(monkeypatch):
    """The weight files that are opened from now on."""
    files, safe_open = [], headers.safe_open

    def note(file, **options):
        files.append(file)
        return safe_open(file, **options)

    monkeypatch.setattr(headers, "safe_open", note)
    return files


def test_text_to_image_reads_no_image_encoder_the_second_time(broken, prior, built, opened):
    folder = broken(PRIOR)
    embeds, negative = sample(load())
    assert len(built) == 1 and (folder / "image_encoder" / FILE).is_file()
    assert [file for file in opened if file.parent.name == "image_encoder"]
    opened.clear()
    again = load()  # as after a restart
    for mine, wanted in zip(sample(again), (embeds, negative), strict=True):
        assert torch.equal(mine.tensor, wanted.tensor)
    assert torch.equal(ZeroEmbeds.execute(again).args[0].tensor, negative.tensor)
    assert len(built) == 1
    assert opened and not [file for file in opened if file.parent.name == "image_encoder"]
    assert torch.equal(negative.tensor, sample(prior)[1].tensor)


def test_loading_builds_no_image_encoder(broken, built):
    broken(PRIOR)
    loaded = load()
    sample(loaded, "a dog")
    assert not built and loaded.get_models() == [
        loaded.transformer.patcher,
        loaded.text_encoder.patcher,
    ]
    assert isinstance(loaded.is_dynamic(), bool)
    other = loaded.with_transformer(loaded.transformer.patcher.clone())
    EncodeImage.execute(other, torch.rand(1, 70, 70, 3))
    EncodeImage.execute(loaded, torch.rand(1, 70, 70, 3))
    assert len(built) == 1  # they share it, whichever needs it first
    assert loaded.get_models()[2] is other.get_models()[2] is loaded.image_encoder.patcher


def test_priors_with_another_transformer_share_the_zero_embedding(broken, built):
    broken(PRIOR)
    loaded = load()
    other = loaded.with_transformer(loaded.transformer.patcher.clone())
    assert other.zero_embeds() is loaded.zero_embeds()
    assert len(built) == 1


def test_what_is_kept_does_not_make_a_graph_run_again(broken):
    broken(PRIOR)
    before = LoadPrior.fingerprint_inputs("broken", "default")
    sample(load())
    assert LoadPrior.fingerprint_inputs("broken", "default") == before


def test_other_weights_and_other_types_have_another_embedding(broken, built):
    folder = broken(PRIOR)
    first = load().zero_embeds().tensor
    half = load(dtype="bf16").zero_embeds().tensor
    assert len(built) == 2 and not torch.equal(first, half)
    assert torch.equal(load(dtype="bf16").zero_embeds().tensor, half)
    assert torch.equal(load().zero_embeds().tensor, first) and len(built) == 2  # both are kept
    path = folder / "image_encoder" / "model.safetensors"
    weights = load_file(path)
    weights["visual_projection.weight"] *= 2
    save_file(weights, path, metadata={"format": "pt"})
    assert torch.allclose(load().zero_embeds().tensor, first * 2) and len(built) == 3


@pytest.mark.parametrize(
    "content",
    ["{", "[]", '{"embeds": 5}', "wide", "text", "nested", "huge", None],
)
def test_a_damaged_file_is_made_again(broken, content):
    file = broken(PRIOR) / "image_encoder" / FILE
    right = load().zero_embeds().tensor
    kept = json.loads(file.read_text())
    (how,) = kept["embeds"]
    odd = {"wide": [1.0] * 25, "text": "a" * 24, "nested": [[1.0]] * 24, "huge": [1e300] * 24}
    if content is None:
        file.unlink()
        file.mkdir()  # nothing can be written there
    else:
        kept["embeds"][how] = odd.get(content)
        file.write_text(json.dumps(kept) if content in odd else content)
    assert torch.equal(load().zero_embeds().tensor, right)
    if content is not None:
        assert json.loads(file.read_text())["embeds"][how] == right[0].tolist()
    assert not [path for path in file.parent.iterdir() if path.name.startswith(f"{FILE}.")]


def test_nothing_is_written_beside_the_bundled_models():
    (name,) = [name for name in model_folders.list_models("prior") if "mini" in name]
    folder = model_folders.find_model(name, "prior")
    load(name).zero_embeds()
    assert not list(folder.rglob(FILE))


def test_a_prior_without_an_image_encoder(broken, prior):
    folder = broken(PRIOR)
    shutil.rmtree(folder / "image_encoder")
    shutil.rmtree(folder / "image_processor")
    assert "broken" in model_folders.list_models("prior")
    loaded = load()
    for mine, wanted in zip(sample(loaded, "a dog"), sample(prior, "a dog"), strict=True):
        assert torch.equal(mine.tensor, wanted.tensor)
    embeds, image = sample(loaded, "a dog")[0], torch.rand(1, 70, 70, 3)
    for need, run in (
        ("An empty negative prompt", lambda: sample(loaded)),
        (
            "An empty negative prompt",
            lambda: PriorEmb2Emb.execute(loaded, embeds, "a cat", "", 0.5, 7, 4, 4.0),
        ),
        ("Encode Image", lambda: EncodeImage.execute(loaded, image)),
        ("Zero Embeds", lambda: ZeroEmbeds.execute(loaded)),
    ):
        with pytest.raises(FileNotFoundError) as error:
            run()
        message = str(error.value)
        assert message.startswith(f"{need} needs the prior's image encoder, and {folder} has none.")
        assert PUBLISHED in message and "Prior works with a negative prompt" in message


def test_without_an_index_it_is_known_too(broken):
    folder = broken(PRIOR)
    shutil.rmtree(folder / "image_encoder")
    (folder / "model_index.json").unlink()
    assert "broken" in model_folders.list_models("prior")


@pytest.mark.parametrize("name", ["StableUnCLIPPipeline", "UnCLIPPipeline"])
def test_another_pipeline_with_a_prior_is_none_of_ours(broken, name):
    """Karlo and Stable unCLIP have a prior, a text encoder and a tokenizer, too."""
    folder = broken(PRIOR)
    shutil.rmtree(folder / "image_encoder")
    index = json.loads((folder / "model_index.json").read_text()) | {"_class_name": name}
    del index["image_encoder"], index["image_processor"]
    (folder / "model_index.json").write_text(json.dumps(index))
    assert "broken" not in model_folders.list_models("prior")


def test_parts_of_different_models(broken):
    path = broken(PRIOR) / "image_encoder" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"projection_dim": 16}))
    with pytest.raises(ValueError, match="image_encoder's projection_dim is 16, and the prior"):
        load()


def test_damaged_weights_are_named_when_they_are_needed(broken):
    path = broken(PRIOR) / "image_encoder" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    loaded = load()
    with pytest.raises(ValueError, match="image_encoder/model.safetensors is damaged"):
        EncodeImage.execute(loaded, torch.rand(1, 70, 70, 3))
    path.unlink()
    with pytest.raises(FileNotFoundError, match="image_encoder has no .safetensors weights"):
        load()
