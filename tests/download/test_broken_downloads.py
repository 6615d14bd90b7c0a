"""A download that breaks, stops or finds no room says so, and the next one resumes it."""

import resource
import signal

import pytest
from helpers.hub_server import half_of, wait_for
from helpers.published_models import DECODER, UNET, files_in, listed
from kandinsky22.utils.download.hub import PIECE
from kandinsky22.utils.download.repositories import PRIOR

pytestmark = pytest.mark.long  # each starts the command


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
    # As fp16, half of the UNet and one and a half times MoVQ are more than the UNet at that time.
    assert "1700000.00 GB more is needed on the disk of" in refuse(DECODER.name)
    assert str(models_dir) in complaint and "GB is free" in complaint
    assert hub.bytes_served == 0
    hub.claims.clear()
    get(DECODER.name)


def test_the_image_encoder_needs_no_room_to_be_converted(refuse, hub):
    """It is published in fp16."""
    hub.claims |= {"image_encoder/model.safetensors": {"size": 10**15}}
    assert "1000000.00 GB more is needed" in refuse(PRIOR.name)


def test_a_disk_that_takes_no_more(get, refuse, hub, published, models_dir):
    """As on a full disk, the system refuses to write beyond some size."""
    limit = (published / DECODER.name / UNET).stat().st_size // 2

    def small_disk():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    complaint = refuse(DECODER.name, preexec_fn=small_disk)
    assert f"Cannot write to {models_dir}" in complaint and "run this again" in complaint
    hub.served.clear()
    get(DECODER.name)
    assert listed() == {DECODER.name}


def test_a_full_disk_costs_nothing_that_has_come(get, refuse, hub, published):
    """This also holds if the record of the download cannot be written again."""
    size = (published / DECODER.name / UNET).stat().st_size
    hub.cut[UNET] = [half_of(size), 0, 0, 0]
    refuse(DECODER.name)
    hub.cut.clear()

    def full_disk():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))

    assert "Cannot write to" in refuse(DECODER.name, preexec_fn=full_disk)
    hub.served.clear()
    get(DECODER.name)
    assert hub.served[UNET] == size - half_of(size)


def test_a_place_that_cannot_be_written_to(get, refuse, models_dir):
    models_dir.write_text("in the way")
    assert f"Cannot write to {models_dir}" in refuse(DECODER.name)
    models_dir.unlink()
    get(DECODER.name)


def test_another_precision_begins_again(get, refuse, hub, published, models_dir):
    hub.cut[UNET] = [1000, 0, 0, 0]  # the MoVQ is complete by then
    refuse(DECODER.name)
    get(DECODER.name, "--precision", "fp32")
    found = files_in(models_dir / "diffusers" / DECODER.name)
    assert found.items() >= files_in(published / DECODER.name).items()
