"""Equal files on this computer, byte for byte, are linked or copied, and not downloaded."""

import json
import os
import shutil
import tempfile
import time
from pathlib import Path

import pytest
from helpers.published_models import TINY, TINY_FILES, UNET, files_in, listed
from huggingface_hub import constants
from kandinsky22.nodes.loaders import LoadPrior
from kandinsky22.utils.download.background import download
from kandinsky22.utils.download.repositories import PRIOR
from safetensors.torch import load_file

pytestmark = pytest.mark.long
WHOLE = TINY_FILES[UNET]
REST = sum(map(len, TINY_FILES.values())) - len(WHOLE)
ENCODER = "image_encoder/model.safetensors"
WITHOUT = "text-to-image without the image encoder"


@pytest.fixture
def root(tiny_hub, tmp_path) -> Path:
    return tmp_path / "models" / "diffusers"


@pytest.fixture
def own(tmp_path) -> Path:
    """A folder of ComfyUI with a user's files."""
    folder = tmp_path / "models" / "clip_vision"
    folder.mkdir(parents=True)
    return folder


def get(root, *elsewhere, precision="fp32", watch=lambda progress: None) -> str:
    return download(TINY, root, precision, watch, elsewhere)


def put(file: Path, content: bytes = WHOLE) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    return file


def test_it_is_linked(tiny_hub, root, own):
    mine = put(own / "IP-Adapter" / "sub" / "CLIP-ViT-bigG.safetensors")
    said = get(root, own.parent / "text_encoders", own)
    assert tiny_hub.bytes_served == REST and UNET not in tiny_hub.served
    assert f"Not downloaded: {UNET}. It is a link to {mine}, which is the published file." in said
    assert mine.samefile(root / TINY.name / UNET)
    found = files_in(root / TINY.name)
    assert found.pop("download.json") and found == TINY_FILES


def test_it_is_copied_from_another_disk(tiny_hub, root):
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        mine = put(Path(folder) / "mine")
        assert mine.stat().st_dev != root.parent.parent.stat().st_dev
        said = get(root, Path(folder))
    assert tiny_hub.bytes_served == REST
    assert f"Not downloaded: {UNET}. It was made from {mine}, which is the published file." in said
    assert (root / TINY.name / UNET).read_bytes() == WHOLE
    assert not list(root.rglob("*.part"))


def test_it_is_converted(tiny_hub, root, own):
    mine = put(own / "mine.safetensors")
    said = get(root, own, precision="fp16")
    assert tiny_hub.bytes_served == REST and f"{UNET}. It was made from {mine}" in said
    found = load_file(root / TINY.name / UNET)["weight"]
    assert found.equal(load_file(mine)["weight"].half()) and mine.read_bytes() == WHOLE


def test_other_bytes_of_the_same_size_are_not_used(tiny_hub, root, own):
    other = put(own / "other.safetensors", WHOLE[:-1] + b"\x01")
    assert "Not downloaded" not in get(root, own)
    assert tiny_hub.served[UNET] == len(WHOLE)
    assert (root / TINY.name / UNET).read_bytes() == WHOLE != other.read_bytes()


def test_links_pipes_and_folders_do_no_harm(tiny_hub, root, own, tmp_path):
    outside = put(tmp_path / "outside" / "mine.safetensors")
    (own / "back").symlink_to(own, target_is_directory=True)
    (own / "nowhere.safetensors").symlink_to(own / "nothing")
    (own / "itself.safetensors").symlink_to(own / "itself.safetensors")
    (own / "linked.safetensors").symlink_to(outside)
    (own / "folder.safetensors").mkdir()
    os.mkfifo(own / "pipe.safetensors")
    said = get(root, own, own / "back", own / "nothing", own / "linked.safetensors")
    assert tiny_hub.bytes_served == REST and f"is a link to {outside}" in said
    assert not (root / TINY.name / UNET).is_symlink()


@pytest.mark.skipif(os.name == "nt", reason="Windows has other permissions than these")
def test_what_may_not_be_read_is_fetched(tiny_hub, root, own, tmp_path, monkeypatch):
    """The user of this run may not read the file."""
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no token"))
    put(own / "mine.safetensors").chmod(0)
    put(own / "closed" / "mine.safetensors").parent.chmod(0)
    if is_root := os.geteuid() == 0:  # root may read everything, so the test becomes another user
        root.mkdir(parents=True)
        root.chmod(0o777)
        for folder in (root, *root.parents):
            if folder.stat().st_uid == 0 and len(folder.parts) > 2:
                folder.chmod(folder.stat().st_mode | 0o055)
        os.seteuid(65534)
    try:
        said = get(root, own)
    finally:
        if is_root:
            os.seteuid(0)
        (own / "closed").chmod(0o700)
    assert tiny_hub.served[UNET] == len(WHOLE) and "Not downloaded" not in said


def test_comparing_is_shown_and_can_be_stopped(tiny_hub, root, own):
    """There are 4 GB, which take seconds to read."""
    size, shown = 4_000_000_000, []
    tiny_hub.claims[UNET] = {"size": size, "lfs": {"sha256": "0" * 64}}
    mine = own / "mine.safetensors"
    with mine.open("wb") as file:
        file.truncate(size)

    def watch(progress):
        shown.append(str(progress))
        if 0 < progress.done < size and len(shown) > 3:
            raise KeyboardInterrupt

    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        get(root, own, watch=watch)
    assert time.monotonic() - start < 5
    assert shown[-1].startswith(f"Comparing {mine} with what is published: ")
    assert shown[-1].endswith(" of 4.00 GB") and ": 0.00 GB" not in shown[-1]
    assert UNET not in tiny_hub.served


def test_a_users_file_is_never_written_to(tiny_hub, root, own):
    """The hub lists another file during a download, and sends it."""
    mine = put(own / "mine.safetensors")
    path = "unet/config.json"
    tiny_hub.cut[path] = [5, 0, 0, 0]
    with pytest.raises(ConnectionError):
        get(root, own)
    assert mine.samefile(root / f".{TINY.name}.partial" / UNET)
    tiny_hub.cut.clear()
    tiny_hub.repositories[TINY.id, TINY.commit] = TINY_FILES | {UNET: WHOLE + b"more"}
    get(root, own)
    assert (root / TINY.name / UNET).read_bytes() == WHOLE + b"more"
    assert mine.read_bytes() == WHOLE and mine.stat().st_nlink == 1


def test_the_command_looks_beside_the_models(get, hub, published, models_dir):
    """It also looks below the folders, and for every model.

    Files to be converted are read there.
    """
    put(models_dir / "clip_vision" / "sdxl" / "bigG.safetensors", read(published, ENCODER))
    put(models_dir / "text_encoders" / "g", read(published, "text_encoder/model.safetensors"))
    said = get("text-to-image")
    assert "kandinsky-2-2-prior" in listed()
    assert said.count("Not downloaded: ") == 2
    assert f"{ENCODER}. It was made from {models_dir / 'clip_vision'}" in said
    assert ENCODER not in hub.served and "text_encoder/model.safetensors" not in hub.served


def read(published: Path, path: str) -> bytes:
    return (published / PRIOR.name / path).read_bytes()


def record(models_dir: Path) -> dict:
    return json.loads((models_dir / "diffusers" / PRIOR.name / "download.json").read_text())


def test_without_the_image_encoder_and_then_with_it(get, start, hub, models_dir):
    folder = models_dir / "diffusers" / PRIOR.name
    get(WITHOUT)
    assert listed() == {"kandinsky-2-2-prior", "kandinsky-2-2-decoder"}
    assert not (folder / "image_encoder").exists() and ENCODER not in hub.served
    assert LoadPrior.execute(PRIOR.name, "default").args[0].get_models()
    assert get(WITHOUT).count("Already there.") == 2

    hub.served.clear()
    hub.cut[ENCODER] = [100, 0, 0, 0]
    process = start("text-to-image")
    assert "broke off" in process.communicate()[1] and process.returncode == 1
    assert PRIOR.name in listed() and not (folder / "image_encoder").exists()
    hub.cut.clear()
    said = get("text-to-image", "--precision", "fp32")  # the folder stays fp16
    assert f"Ready. Press R in ComfyUI, then choose {PRIOR.name} in Load Prior." in said
    assert ": fp16, " in said
    assert set(hub.served) == {"", ENCODER, "image_encoder/config.json"}
    LoadPrior.execute(PRIOR.name, "default").args[0].zero_embeds()
    assert {path.name for path in folder.parent.iterdir()} == listed()
    assert record(models_dir)["left_out"] == [] and ENCODER in record(models_dir)["files"]
    for name in ("text-to-image", WITHOUT):
        assert get(name, HF_HUB_OFFLINE="1").count("Already there.") == 2


def test_begun_with_the_image_encoder_and_ended_without(get, start, hub, models_dir):
    hub.cut[ENCODER] = [100, 0, 0, 0]
    start(PRIOR.name).communicate()
    assert list((models_dir / "diffusers").rglob("*.part"))
    get(WITHOUT)
    assert PRIOR.name in listed()
    assert not (models_dir / "diffusers" / PRIOR.name / "image_encoder").exists()


def test_an_image_encoder_put_there_by_hand(get, start, hub, published, models_dir):
    folder = models_dir / "diffusers" / PRIOR.name
    get(WITHOUT)
    shutil.copytree(published / PRIOR.name / "image_encoder", folder / "image_encoder")
    hub.served.clear()
    assert get(PRIOR.name).startswith("Already there.")
    (folder / ENCODER).write_bytes(b"another")
    process = start(PRIOR.name)
    assert f"not as published: {ENCODER} is missing" in process.communicate()[1]
    assert process.returncode == 1 and (folder / ENCODER).read_bytes() == b"another"
    assert set(hub.served) == {""}


@pytest.mark.parametrize(
    "left_out, code", [("5", 1), ('"image_encoder"', 1), ("[5, {}]", 0), ('[".."]', 0)]
)
def test_an_odd_record(get, start, hub, models_dir, left_out, code):
    get(WITHOUT)
    file = models_dir / "diffusers" / PRIOR.name / "download.json"
    file.write_text(file.read_text().replace('[\n  "image_encoder"\n ]', left_out))
    assert left_out in file.read_text()
    process = start(PRIOR.name)
    _, complained = process.communicate()
    assert process.returncode == code and "Traceback" not in complained, complained
