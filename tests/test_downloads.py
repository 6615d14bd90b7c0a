"""Fetching models with scripts/get_models.py, from a hub on this machine, as a user would."""

import json
import os
import pickle
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import folder_paths
import pytest
import tiny_models
from calls import as_in_a_terminal
from checkout import PACK
from filelock import FileLock
from hub_server import Hub, half_of, wait_for
from kandinsky22.utils.comfyui import model_folders
from kandinsky22.utils.download.downloads import finished
from kandinsky22.utils.download.hub import PIECE
from kandinsky22.utils.download.repositories import REPOSITORIES
from safetensors.torch import load_file

DECODER = REPOSITORIES["kandinsky-2-2-decoder"]
UNET = "unet/diffusion_pytorch_model.safetensors"
# In the hub's listing, and of no use here.
UNWANTED = {
    "README.md": b"# card",
    "cat.png": b"picture",
    "whole.safetensors": b"a single file of everything",
    "unet/diffusion_pytorch_model.bin": pickle.dumps(print),
    "unet/diffusion_pytorch_model.fp16.safetensors": b"the same once more",
}


@pytest.fixture(scope="session")
def published(tmp_path_factory) -> Path:
    """The six repositories, tiny."""
    folder = tmp_path_factory.mktemp("published")
    tiny_models.write_all(folder, "kandinsky-2-2")
    tiny_models.write_depth_estimators(folder)
    (folder / "tiny-depth-anything").rename(folder / "Depth-Anything-V2-Small-hf")
    (folder / "tiny-dpt").rename(folder / "dpt-large")
    return folder


@pytest.fixture
def hub(published):
    with Hub() as running:
        for name, repository in REPOSITORIES.items():
            running.add(repository, published / name)
        running.repositories[DECODER.id, DECODER.commit] |= UNWANTED
        yield running


@pytest.fixture
def models_dir(tmp_path, monkeypatch) -> Path:
    """An empty models folder, which the host knows as its only one."""
    for kind in ("diffusers", "depth_estimators"):
        place = ([str(tmp_path / "models" / kind)], set())
        monkeypatch.setitem(folder_paths.folder_names_and_paths, kind, place)
    return tmp_path / "models"


@pytest.fixture
def start(hub, models_dir, tmp_path):
    """Starts the command; its environment may be changed."""

    def run(*arguments: str, preexec_fn=as_in_a_terminal, **environment: str) -> subprocess.Popen:
        here = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "NO_PROXY": "127.0.0.1"}
        return subprocess.Popen(
            [sys.executable, PACK / "scripts" / "get_models.py", "--models-dir", models_dir]
            + list(arguments),
            env=os.environ | here | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=preexec_fn,
        )

    return run


@pytest.fixture
def get(start):
    """Runs the command to its end: → what it said, if it succeeded."""

    def run(*arguments: str, **environment) -> str:
        process = start(*arguments, **environment)
        said, complained = process.communicate()
        assert process.returncode == 0, complained
        return said

    return run


@pytest.fixture
def refuse(start, models_dir):
    """Runs the command, which must fail and leave nothing like a model: → what it complained."""

    def run(*arguments: str, **environment) -> str:
        process = start(*arguments, **environment)
        _, complained = process.communicate()
        assert process.returncode == 1, complained
        assert "Traceback" not in complained
        assert listed() == set()
        # What other loaders of the host look for, at any depth.
        assert not list(models_dir.rglob("model_index.json"))
        return complained

    return run


def listed() -> set[str]:
    """The models that the loaders offer, without those in the box."""
    names = {name for kind in model_folders.KINDS for name in model_folders.list_models(kind)}
    return {name for name in names if not (model_folders.BUNDLED / name).exists()}


def files_in(folder: Path) -> dict[str, bytes]:
    files = (file for file in folder.rglob("*") if file.is_file())
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in files}


def test_all_of_them(get, hub, published, models_dir):
    text = get("--precision", "fp32", *REPOSITORIES)
    assert listed() == set(REPOSITORIES)
    for name, repository in REPOSITORIES.items():
        folder = models_dir / repository.host_folder / name
        assert f"Press R in the page, then choose {name} in {repository.loader}. It" in text
        assert f"It is in {folder}: fp32, " in text
        files = files_in(folder)
        assert json.loads(files.pop("download.json"))["commit"] == repository.commit
        assert files == files_in(published / name)  # so none of UNWANTED
        assert {entry.name for entry in folder.parent.iterdir()} <= set(REPOSITORIES)
    assert not set(UNWANTED) & set(hub.served)

    hub.served.clear()
    assert get(DECODER.name).startswith("Already there.")  # as what was asked for first
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
    ).unlink()  # as if it came from elsewhere; in fp16 it is not as published
    process = start("text-to-image")
    said, complained = process.communicate()
    assert process.returncode == 1 and f"{folder} is there, but not as published" in complained
    assert said.startswith("Ready. ") and "kandinsky-2-2-decoder" in listed()


def test_where_the_loaders_look():
    known = {(kind.host_folder, kind.marker, kind.loader) for kind in model_folders.KINDS.values()}
    for repository in REPOSITORIES.values():
        loader = repository.loader.split(" / ")[0]
        assert (repository.host_folder, repository.marker, loader) in known


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


def test_a_connection_that_breaks_is_opened_again(get, hub, published, models_dir):
    content = (published / DECODER.name / UNET).read_bytes()
    hub.cut[UNET] = [PIECE, 0, 6 * PIECE]
    get(DECODER.name, "--precision", "fp32")
    assert (models_dir / "diffusers" / DECODER.name / UNET).read_bytes() == content
    assert hub.served[UNET] == len(content)


def test_what_came_is_kept_when_the_rest_does_not(get, refuse, hub, published):
    half = half_of((published / DECODER.name / UNET).stat().st_size)
    hub.cut[UNET] = [half, 0, 0, 0]
    assert f"{hub.url} cannot be reached, or broke off" in refuse(DECODER.name)
    assert hub.served[UNET] == half
    hub.cut.clear()
    get(DECODER.name)
    assert listed() == {DECODER.name}
    assert hub.bytes_served == sum(map(len, files_in(published / DECODER.name).values()))


def test_a_server_that_cannot_go_on_starts_over(get, hub, published, models_dir):
    hub.cut[UNET], hub.ranges = [1000], False
    get(DECODER.name, "--precision", "fp32")
    content = (published / DECODER.name / UNET).read_bytes()
    assert (models_dir / "diffusers" / DECODER.name / UNET).read_bytes() == content


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_stopped_while_the_network_says_nothing(start, get, hub, published, models_dir, end):
    size = (published / DECODER.name / UNET).stat().st_size
    hub.hold[UNET] = half = half_of(size)
    process = start(DECODER.name)
    part = models_dir / "diffusers" / f".{DECODER.name}.partial" / f"{UNET}.part"
    wait_for(part, half)
    process.send_signal(end)
    _, complained = process.communicate()
    if end is signal.SIGINT:
        assert process.returncode == 130 and complained.startswith("Stopped. The same command")
    assert not hub.release.is_set()  # it did not wait for the rest
    assert listed() == set()

    hub.release.set()
    hub.served.clear()
    get(DECODER.name)
    assert listed() == {DECODER.name}
    assert hub.served[UNET] == size - half


@pytest.mark.parametrize(
    "path, claim",
    [
        (UNET, {"lfs": {"sha256": "0" * 64, "size": 1, "pointerSize": 134}}),
        ("unet/config.json", {"blobId": "0" * 40}),
    ],
)
def test_a_broken_file_is_refused_and_fetched_again(get, refuse, hub, path, claim):
    hub.claims[path] = claim
    complaint = refuse(DECODER.name)
    assert f"{path} of {DECODER.id} came broken: its checksum is" in complaint
    assert "0" * 40 in complaint
    hub.claims.clear()
    hub.served.clear()
    get(DECODER.name)
    assert listed() == {DECODER.name} and hub.served[path]


def test_an_empty_file(get, hub, models_dir):
    hub.repositories[DECODER.id, DECODER.commit] = dict(
        hub.repositories[DECODER.id, DECODER.commit], **{"unet/notes.txt": b""}
    )
    get(DECODER.name)
    assert (models_dir / "diffusers" / DECODER.name / "unet" / "notes.txt").read_bytes() == b""


def test_a_file_that_does_not_end(get, refuse, hub):
    hub.claims["unet/config.json"] = {"size": 10}
    assert "sends more than its 10 bytes" in refuse(DECODER.name)
    hub.claims.clear()
    get(DECODER.name)


def test_too_little_room_is_said_before_anything_is_fetched(get, refuse, hub, models_dir):
    movq = "movq/diffusion_pytorch_model.safetensors"
    hub.claims |= {movq: {"size": 8 * 10**14}, UNET: {"size": 10**15}}
    complaint = refuse(DECODER.name, "--precision", "fp32")
    assert "1800000.00 GB more is needed on the disk of" in complaint
    # As fp16: half the UNet beside MoVQ one and a half times is more than the UNet in that state.
    assert "1700000.00 GB more is needed on the disk of" in refuse(DECODER.name)
    assert str(models_dir) in complaint and "GB is free" in complaint
    assert hub.bytes_served == 0
    hub.claims.clear()
    get(DECODER.name)


def test_a_disk_that_takes_no_more(get, refuse, hub, published, models_dir):
    """As a full disk: the system refuses to write beyond some size."""
    limit = (published / DECODER.name / UNET).stat().st_size // 2

    def small_disk():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    complaint = refuse(DECODER.name, preexec_fn=small_disk)
    assert f"Cannot write to {models_dir}" in complaint and "run this again" in complaint
    hub.served.clear()
    get(DECODER.name)
    assert listed() == {DECODER.name}


def test_a_place_that_cannot_be_written_to(get, refuse, models_dir):
    models_dir.write_text("in the way")
    assert f"Cannot write to {models_dir}" in refuse(DECODER.name)
    models_dir.unlink()
    get(DECODER.name)


def test_a_hub_that_does_not_give_it(get, refuse, hub, monkeypatch):
    faults = {
        f"does not give out {DECODER.id} (status 401)": dict(status=401),
        "log in with `hf auth login` or set HF_TOKEN": dict(status=403),
        f"answered 503 for {DECODER.id}": dict(status=503),
        "did not answer as a hub does": dict(portal=True),
        f"does not have {DECODER.id} with commit": dict(repositories={}),
    }
    for complaint, fault in faults.items():
        with monkeypatch.context() as faulty:
            for name, value in fault.items():
                faulty.setattr(hub, name, value)
            said = refuse(DECODER.name)
        assert complaint in said and hub.url in said
    get(DECODER.name)


def test_another_commit_is_not_taken_instead(refuse, hub):
    hub.repositories[DECODER.id, "main"] = hub.repositories.pop((DECODER.id, DECODER.commit))
    assert f"with commit {DECODER.commit}" in refuse(DECODER.name)


def test_no_network(get, refuse):
    with Hub() as gone:
        pass
    assert f"{gone.url} cannot be reached" in refuse(DECODER.name, HF_ENDPOINT=gone.url)
    get(DECODER.name)


def test_offline_mode(refuse, hub):
    assert "HF_HUB_OFFLINE is set" in refuse(DECODER.name, HF_HUB_OFFLINE="1")
    assert not hub.tokens["hub"]


@pytest.mark.parametrize(
    "path", ["../evil.json", "/tmp/evil.json", "unet/..\\evil.json", "c:evil.json"]
)
def test_a_name_that_leads_out_of_the_folder(refuse, hub, tmp_path, path):
    hub.repositories[DECODER.id, DECODER.commit][path] = b"{}"
    assert "leads out of its folder" in refuse(DECODER.name)
    assert hub.bytes_served == 0 and not list(tmp_path.rglob("*evil*"))


def test_pickles_alone_are_not_enough(refuse, hub):
    files = hub.repositories[DECODER.id, DECODER.commit]
    for path in [path for path in files if path.endswith(".safetensors")]:
        del files[path]
    assert "no safetensors; pickles are not fetched" in refuse(DECODER.name)
    assert hub.bytes_served == 0


def test_a_folder_put_there_by_hand_is_left_as_it_is(get, start, hub, published, models_dir):
    folder = models_dir / "diffusers" / DECODER.name
    shutil.copytree(published / DECODER.name, folder)
    assert get(DECODER.name).startswith("Already there.")
    (folder / UNET).unlink()
    process = start(DECODER.name)
    assert f"not as published: {UNET} is missing" in process.communicate()[1]
    assert process.returncode == 1 and not (folder / UNET).exists() and hub.bytes_served == 0


def test_the_token_stays_at_the_hub(get, hub):
    get(DECODER.name, HF_TOKEN="hf_secret")
    assert hub.tokens == {"hub": {"Bearer hf_secret"}, "files": {None}}


def test_what_diffusers_has_fetched_is_not_fetched_again(get, hub, tmp_path):
    """From the cache in HF_HOME."""
    fetch = f"from huggingface_hub import *; hf_hub_download({DECODER.id!r}, {UNET!r}, revision="
    here = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "NO_PROXY": "127.0.0.1"}
    command = [sys.executable, "-c", f"{fetch}{DECODER.commit!r})"]
    subprocess.run(command, env=os.environ | here, check=True)
    assert hub.served.pop(UNET)
    get(DECODER.name)
    assert UNET not in hub.served and listed() == {DECODER.name}


def test_another_precision_begins_again(get, refuse, hub, published, models_dir):
    hub.cut[UNET] = [1000, 0, 0, 0]  # the MoVQ has come by then
    refuse(DECODER.name)
    get(DECODER.name, "--precision", "fp32")
    found = files_in(models_dir / "diffusers" / DECODER.name)
    assert found.items() >= files_in(published / DECODER.name).items()


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
    look = "import sys; from scripts import pack; pack.name_pack(); "
    look += "import kandinsky22.utils.download.downloads; "
    look += "print({'torch', 'comfy', 'folder_paths'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", look], cwd=PACK, capture_output=True, text=True)
    assert done.stdout == "set()\n"
