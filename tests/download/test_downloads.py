"""scripts/get_models.py downloads the chosen models, complete, once and into the right folder."""

import json
import os
import shutil
import subprocess
import sys
import time

import pytest
from filelock import FileLock
from helpers.checkout import PACK
from helpers.published_models import DECODER, UNET, UNWANTED, files_in, listed
from kandinsky22.utils.comfyui import model_folders
from kandinsky22.utils.download.folder import finished
from kandinsky22.utils.download.repositories import REPOSITORIES
from kandinsky22.utils.files.model_kinds import MARKERS
from safetensors.torch import load_file

pytestmark = pytest.mark.long  # each starts the command


def test_all_of_them(get, hub, published, models_dir):
    text = get("--precision", "fp32", *REPOSITORIES)
    assert listed() == set(REPOSITORIES)
    for name, repository in REPOSITORIES.items():
        folder = models_dir / repository.comfyui_folder / name
        assert f"Press R in ComfyUI, then choose {name} in {repository.loader}. It" in text
        assert f"It is in {folder}: fp32, " in text
        files = files_in(folder)
        assert json.loads(files.pop("download.json"))["commit"] == repository.commit
        assert files == files_in(published / name)  # so none of UNWANTED
        assert {entry.name for entry in folder.parent.iterdir()} <= set(REPOSITORIES)
    assert not set(UNWANTED) & set(hub.served)

    hub.served.clear()
    assert get(DECODER.name).startswith("Already there.")  # in the precision of the first download
    assert hub.bytes_served == 0
    assert get(DECODER.name, HF_HUB_OFFLINE="1").startswith("Already there.")
    assert f"{DECODER.name}: fp32.\n" in get(DECODER.name, HF_HUB_OFFLINE="1")


def test_all_for_some_workflows(get, hub):
    get("text-to-image")
    assert listed() == {"kandinsky-2-2-prior", "kandinsky-2-2-decoder"}
    hub.served.clear()
    text = get("inpaint", "depth-controlnet")
    assert listed() == set(REPOSITORIES) - {"dpt-large"}
    assert text.count("Already there") == 1 and "text_encoder/config.json" not in hub.served


def test_an_odd_folder_keeps_no_other_waiting(get, start, models_dir):
    get("kandinsky-2-2-prior")
    folder = models_dir / "diffusers" / "kandinsky-2-2-prior"
    (
        folder / "download.json"
    ).unlink()  # as if the folder came from elsewhere; in fp16 it is not as published
    process = start("text-to-image")
    said, complained = process.communicate()
    assert process.returncode == 1 and f"{folder} is there, but not as published" in complained
    assert said.startswith("Ready. ") and "kandinsky-2-2-decoder" in listed()


def test_where_the_loaders_look():
    known = {(kind.comfyui_folders[0], kind.loader) for kind in model_folders.KINDS.values()}
    for repository in REPOSITORIES.values():
        loader = repository.loader.split(" / ")[0]
        assert (repository.comfyui_folder, loader) in known
        assert repository.marker in MARKERS


def test_fp16_is_the_same_numbers_halved(get, published, models_dir):
    get(DECODER.name, "kandinsky-2-2-prior")
    for name in (DECODER.name, "kandinsky-2-2-prior"):
        found = models_dir / "diffusers" / name
        for file in (published / name).rglob("*.safetensors"):
            before, after = load_file(file), load_file(found / file.relative_to(published / name))
            assert set(before) == set(after)
            for key, tensor in before.items():
                expected = tensor.half() if tensor.is_floating_point() else tensor
                assert after[key].dtype == expected.dtype and after[key].equal(expected)
    assert listed() == {DECODER.name, "kandinsky-2-2-prior"}


def test_a_folder_put_there_by_hand_is_left_as_it_is(get, start, hub, published, models_dir):
    folder = models_dir / "diffusers" / DECODER.name
    shutil.copytree(published / DECODER.name, folder)
    assert get(DECODER.name).startswith("Already there.")
    (folder / UNET).unlink()
    process = start(DECODER.name)
    assert f"not as published: {UNET} is missing" in process.communicate()[1]
    assert process.returncode == 1 and not (folder / UNET).exists() and hub.bytes_served == 0


def test_what_diffusers_has_fetched_is_not_fetched_again(get, hub, tmp_path):
    """They are copied from the cache in HF_HOME."""
    fetch = f"from huggingface_hub import *; hf_hub_download({DECODER.id!r}, {UNET!r}, revision="
    here = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "NO_PROXY": "127.0.0.1"}
    command = [sys.executable, "-c", f"{fetch}{DECODER.commit!r})"]
    subprocess.run(command, env=os.environ | here, check=True)
    assert hub.served.pop(UNET)
    get(DECODER.name)
    assert UNET not in hub.served and listed() == {DECODER.name}


def test_two_at_once(get, refuse, models_dir):
    (models_dir / "diffusers").mkdir(parents=True)
    with FileLock(models_dir / "diffusers" / f".{DECODER.name}.lock"):
        complaint = refuse(DECODER.name, HF_HUB_DOWNLOAD_TIMEOUT="1")
        assert "is being fetched by another process" in complaint
    get(DECODER.name)


def test_the_second_of_two_finds_what_the_first_fetched(start, get, hub, models_dir):
    (models_dir / "diffusers").mkdir(parents=True)
    lock = FileLock(models_dir / "diffusers" / f".{DECODER.name}.lock")
    with lock:
        waiting = start(DECODER.name)
        deadline = time.monotonic() + 60
        while "" not in hub.served and time.monotonic() < deadline:  # until it has the list
            time.sleep(0.02)
        made = models_dir / "elsewhere"
        get(DECODER.name, "--models-dir", str(made))
        (made / "diffusers" / DECODER.name).rename(models_dir / "diffusers" / DECODER.name)
        hub.served.clear()
    said, complained = waiting.communicate()
    assert said.startswith("Already there."), complained
    assert not [path for path in hub.served if path.endswith(".safetensors")]


@pytest.mark.parametrize("record", ["[]", "5", '{"files": {"a": 1}}', '{"files": 3}'])
def test_an_odd_record_is_none(tmp_path, record):
    (tmp_path / "download.json").write_text(record)
    assert finished(tmp_path) is None


def test_the_command_needs_no_comfyui_and_no_torch():
    look = "import sys, utils.download.background; "
    look += "print({'torch', 'comfy', 'folder_paths'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", look], cwd=PACK, capture_output=True, text=True)
    assert done.stdout == "set()\n"
