"""Whatever a hub lists or sends, the error names the file, and downloaded bytes are kept."""

import gzip
import hashlib
import json
import shutil
import tracemalloc

import pytest
from filelock import FileLock
from helpers.published_models import TINY, TINY_FILES, UNET, files_in
from kandinsky22.utils.download import hub
from kandinsky22.utils.download.background import download
from kandinsky22.utils.download.repositories import Repository

pytestmark = pytest.mark.long
WHOLE = TINY_FILES[UNET]
HALF = 2 * hub.PIECE
FILE = f"{UNET} of {TINY.id}"


@pytest.fixture
def root(tiny_hub, tmp_path):
    """ComfyUI's folder for the model.

    After each test, the next download from a correct hub must work and leave nothing beside the
    folder.
    """
    (tmp_path / "outside").mkdir()
    root = tmp_path / "models"
    yield root
    tiny_hub.answers.clear()
    tiny_hub.claims.clear()
    tiny_hub.repositories[TINY.id, TINY.commit] = dict(TINY_FILES)
    get(root)
    found = files_in(root / TINY.name)
    assert found.pop("download.json") and found == TINY_FILES
    assert [entry.name for entry in root.iterdir()] == [TINY.name]
    assert not list((tmp_path / "outside").iterdir())


def get(root, precision="fp32", repository=TINY) -> str:
    return download(repository, root, precision, lambda progress: None)


@pytest.fixture
def part(tiny_hub, root):
    """A file of which half is downloaded. The other files are complete."""
    tiny_hub.cut[UNET] = [HALF, 0, 0, 0]
    with pytest.raises(ConnectionError, match=FILE):
        get(root)
    tiny_hub.cut.clear()
    tiny_hub.served.clear()
    part = root / f".{TINY.name}.partial" / f"{UNET}.part"
    assert part.read_bytes() == WHOLE[:HALF]
    return part


def listing(**changes):
    """Return a function that makes a listing with other values in the entry of the UNet."""

    def answer(content, _):
        listed = json.loads(content)
        entry = next(item for item in listed["siblings"] if item["rfilename"] == UNET)
        for key, value in changes.items():
            entry.pop(key) if value is ... else entry.update({key: value})
        return 200, json.dumps(listed).encode(), {}

    return answer


def says(body: bytes, status: int = 200, **headers: str):
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda content, asked: (status, body, fields)


ODD_LISTINGS = {
    "null": (says(b"null"), "no list of files .siblings., but is None"),
    "list": (says(b"[]"), "but is \\[\\]"),
    "text": (says(b'"x"'), "but is 'x'"),
    "nothing": (says(b"{}"), "but is {}"),
    "null files": (says(b'{"siblings": null}'), "no list of files"),
    "files by name": (says(b'{"siblings": {"a": {}}}'), "no list of files"),
    "null file": (says(b'{"siblings": [null]}'), "a file has no name .rfilename., but is None"),
    "no name": (listing(rfilename=...), "has no name"),
    "name 5": (listing(rfilename=5), "has no name"),
    "no size": (listing(size=...), f"the size of '{UNET}' is None"),
    "size of another type": (listing(size="9"), "is '9'"),
    "true size": (listing(size=True), "is True"),
    "half a byte": (listing(size=0.5), "is 0.5"),
    "no number": (listing(size=float("nan")), "is nan"),
    "negative size": (listing(size=-1), "is -1"),
    "huge size": (listing(size=2**63), "is 9223"),
    "size of 400 digits": (listing(size=10**400), "is 1000"),
    "size of 9999 digits": (says(b'{"siblings": [{"size": 1%s}]}' % (b"0" * 9999)), "hub does"),
    "lfs as text": (listing(lfs="x"), "the checksum of .* is 'x'"),
    "lfs as a list": (listing(lfs=[1]), "the checksum of .* is \\[1\\]"),
    "no sha256": (listing(lfs={"size": 5}), "the checksum of .* is None"),
    "short sha256": (listing(lfs={"sha256": "abc"}), "is 'abc'"),
    "no checksum": (listing(lfs=None, blobId=...), "the checksum of .* is None"),
    "checksum 5": (listing(lfs=None, blobId=5), "the checksum of .* is 5"),
    "no JSON": (says(b"\xff\xfe\x00"), "did not answer as a hub does for someone/tiny"),
    "deep": (says(b"[" * 10**6), "did not answer as a hub does"),
    "empty": (says(b""), "did not answer as a hub does"),
    "to nowhere": (says(b"", 302), "status 302 without a listing"),
    "no content": (says(b"", 204), "status 204 without a listing"),
    "in a circle": (says(b"", 302, Location=f"/api/models/{TINY.id}/revision/c0ffee"), "redirects"),
    "to no address": (says(b"", 302, Location="http://["), "cannot be reached, or broke off"),
    "to a file": (says(b"", 301, Location="file:///etc/passwd"), "cannot be reached, or broke"),
    "no gzip": (says(b"{}", Content_Encoding="gzip"), "cannot be reached, or broke off"),
}


@pytest.mark.parametrize("answer, message", ODD_LISTINGS.values(), ids=ODD_LISTINGS)
def test_an_odd_listing(tiny_hub, root, answer, message):
    tiny_hub.answers[""] = answer
    with pytest.raises((OSError, ValueError), match=message) as refused:
        get(root)
    assert TINY.id in str(refused.value) and len(str(refused.value)) < 1000
    assert tiny_hub.bytes_served == 0 and not root.exists()


def test_a_listing_without_end(tiny_hub, root):
    packed = gzip.compress(bytes(20 * hub.MOST_LISTED))
    tiny_hub.answers[""] = says(packed, Content_Encoding="gzip")
    tracemalloc.start()
    with pytest.raises(ValueError, match=f"{TINY.id} .* more than {hub.MOST_LISTED} bytes"):
        get(root)
    assert tracemalloc.get_traced_memory()[1] < 8 * hub.MOST_LISTED
    tracemalloc.stop()


def test_a_listing_that_is_packed(tiny_hub, root):
    """The real hub compresses its listing, too."""
    tiny_hub.answers[""] = lambda content, _: (
        200,
        gzip.compress(content),
        {"Content-Encoding": "gzip"},
    )
    assert get(root).startswith("Ready.")


@pytest.mark.parametrize(
    "path, fault",
    [
        ("unet/a\0.json", "no name that a disk takes"),
        ("unet/a\n.json", "no name that a disk takes"),
        ("unet/\x1b[2J.txt", "no name that a disk takes"),
        ("unet/\ud800.json", "no name that a disk takes"),
        ("unet//a.json", "no name that a disk takes"),
        ("./unet/a.json", "no name that a disk takes"),
        ("", "no name that a disk takes"),
        (f"unet/{'x' * 250}.json", "a name of more than 250 bytes"),
        (f"unet/{'ж' * 125}.json", "a name of more than 250 bytes"),
        ("model_index.json/a.json", "as a file and as a folder"),
    ],
)
def test_a_name_that_no_disk_takes(tiny_hub, root, path, fault):
    tiny_hub.repositories[TINY.id, TINY.commit][path] = b"{}"
    with pytest.raises(ValueError, match=f"^{TINY.id} lists .*{fault}"):
        get(root)
    assert tiny_hub.bytes_served == 0 and not root.exists()


def test_the_longest_name(tiny_hub, root):
    path = f"unet/{'x' * 245}.json"
    tiny_hub.repositories[TINY.id, TINY.commit][path] = b"{}"
    get(root)
    assert (root / TINY.name / path).read_bytes() == b"{}"
    shutil.rmtree(root / TINY.name)


def test_a_file_with_the_name_of_our_record(tiny_hub, root):
    """A file with this name is not part of the model."""
    repository = Repository(TINY.id, TINY.commit, 0, "", "depth_estimators", "config.json")
    files = {"config.json": b"{}", "model.safetensors": WHOLE, "download.json": b'{"precision": 1}'}
    tiny_hub.repositories[TINY.id, TINY.commit] = files
    for begin in ("Ready. ", "Already there. "):
        assert get(root, repository=repository).startswith(begin)
    shutil.rmtree(root / TINY.name)


def begin_of(asked: str | None) -> int:
    return int(asked[6:].split("-")[0]) if asked else 0


def partly(first: int | None, always: bool = False):
    """Return an answer with status 206 from another byte on. None: it does not say from where."""

    def answer(content, asked):
        if not asked and not always:
            return 200, content, {}
        begin = begin_of(asked) + (first or 0)
        place = f"bytes {begin}-{len(content) - 1}/{len(content)}"
        return 206, content[begin:], {} if first is None else {"Content-Range": place}

    return answer


def packed(content, asked):
    """Return a compressed answer to a plain request. A range counts the compressed bytes."""
    body, begin = gzip.compress(content), begin_of(asked)
    place = {"Content-Range": f"bytes {begin}-{len(body) - 1}/{len(body)}"} if asked else {}
    return 206 if asked else 200, body[begin:], {"Content-Encoding": "gzip"} | place


USABLE = {
    "from the beginning": partly(-HALF),
    "from elsewhere before": partly(-10),
    "from elsewhere behind": partly(10),
    "from who knows where": partly(None),
    "odd place": lambda c, asked: (206, c, {"Content-Range": "x"}) if asked else (200, c, {}),
    "the whole file": lambda content, asked: (200, content, {}),
    "416": lambda content, asked: (416, b"", {}) if asked else (200, content, {}),
    "302 for a range": lambda content, asked: (302, b"", {}) if asked else (200, content, {}),
    "packed": packed,
}


@pytest.mark.parametrize("answer", USABLE.values(), ids=USABLE)
def test_an_answer_of_another_range(tiny_hub, root, part, answer):
    tiny_hub.answers[UNET] = answer
    assert get(root).startswith("Ready.")


REFUSED = {
    "302 to nowhere": (says(b"", 302), "status 302 without the file"),
    "301 to nowhere": (says(b"moved", 301), "status 301 without the file"),
    "304": (says(b"", 304), "status 304 without the file"),
    "202": (says(WHOLE, 202), "status 202 without the file"),
    "in a circle": (says(b"", 302, Location=f"/{TINY.id}/resolve/c0ffee/{UNET}"), "redirects"),
    "to no address": (says(b"", 302, Location="http://["), "broke off"),
    "to a file": (says(b"", 302, Location="file:///etc/passwd"), "broke off"),
    "always behind": (partly(HALF + 10, always=True), "status 206 without the file"),
    "always who knows where": (partly(None, always=True), "status 206 without the file"),
    "always 416": (says(b"", 416), "answered 416"),
    "404": (says(b"", 404), "does not have"),
    "shorter": (lambda c, asked: (200, c[:-10], {}), f"ended after {len(WHOLE) - 10} of"),
    "shorter than it says": (
        lambda content, asked: (200, content[:-10], {"Content-Length": str(len(content))}),
        "broke off",
    ),
    "less than what there is": (lambda content, asked: (200, content[:10], {}), "broke off"),
    "longer": (lambda content, asked: (200, content + b"x", {}), "sends more than its"),
    "no gzip": (says(WHOLE, Content_Encoding="gzip"), "broke off"),
}


@pytest.mark.parametrize("answer, message", REFUSED.values(), ids=REFUSED)
def test_an_answer_that_is_not_the_file(tiny_hub, root, part, answer, message):
    tiny_hub.answers[UNET] = answer
    with pytest.raises((OSError, ValueError), match=message) as refused:
        get(root)
    assert FILE in str(refused.value)
    kept = part.read_bytes()
    assert len(kept) >= HALF and WHOLE.startswith(kept)
    tiny_hub.answers.clear()
    tiny_hub.served.clear()
    get(root)
    assert tiny_hub.served[UNET] == len(WHOLE) - len(kept)


def test_the_whole_file_breaks_off_where_a_range_was_asked_for(tiny_hub, root, part):
    tiny_hub.answers[UNET] = USABLE["the whole file"]
    tiny_hub.cut[UNET] = [10, 0, 10]
    with pytest.raises(ConnectionError, match=FILE):
        get(root)
    assert part.read_bytes() == WHOLE[:HALF]


def test_other_bytes(tiny_hub, root, part):
    """Wrong bytes are removed, and the right ones are downloaded again in the same run."""
    tiny_hub.answers[UNET] = lambda content, asked: (200, bytes(len(content)), {})
    with pytest.raises(ValueError, match=f"{FILE} came broken"):
        get(root)
    assert not part.exists()


def test_a_part_that_another_hub_began(tiny_hub, root, part):
    part.write_bytes(b"<html>Welcome to our hotel")
    assert get(root).startswith("Ready.")


def test_a_part_that_is_too_long(tiny_hub, root, part):
    part.write_bytes(WHOLE + b"x")
    assert get(root).startswith("Ready.")


def test_a_whole_file_of_another_hub(tiny_hub, root):
    """It is correct by the checksums of the first hub, and not by those of the second."""
    path = "unet/config.json"
    tiny_hub.repositories[TINY.id, TINY.commit] |= {path: b"other"}
    tiny_hub.cut["model_index.json"] = [0, 0, 0]
    with pytest.raises(ConnectionError, match="model_index.json of someone/tiny"):
        get(root)
    assert (root / f".{TINY.name}.partial" / path).read_bytes() == b"other"
    tiny_hub.served.clear()
    tiny_hub.repositories[TINY.id, TINY.commit] |= TINY_FILES
    get(root)
    assert set(tiny_hub.served) == {"", path, "model_index.json"}  # "": the listing


def test_a_damaged_file_in_the_hubs_own_cache(tiny_hub, root, tmp_path):
    cached = tmp_path / "cache" / "models--someone--tiny" / "snapshots" / TINY.commit / UNET
    cached.parent.mkdir(parents=True)
    for content in (bytes(len(WHOLE)), b"short"):
        cached.write_bytes(content)
        assert get(root).startswith("Ready.")
        shutil.rmtree(root)


@pytest.mark.parametrize(
    "header",
    [
        b"[]",
        b'{"a": 5}',
        b'{"a": {}}',
        b'{"a": {"dtype": "F32", "data_offsets": [0]}}',
        b'{"a": {"dtype": ["F32"], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "data_offsets": [0, 3]}}',
        b'{"a": {"dtype": "F32", "data_offsets": [8, 4]}}',
        b'{"a": {"dtype": "F32", "data_offsets": [-8, -4]}}',
        b'{"a": {"dtype": "F32", "data_offsets": [0, 9999999999999]}}',
        b"[" * 100_000,
    ],
    ids=lambda header: header[:50].decode(),
)
def test_weights_that_are_none(tiny_hub, root, header):
    content = len(header).to_bytes(8, "little") + header + b"numbers!"
    tiny_hub.repositories[TINY.id, TINY.commit][UNET] = content
    with pytest.raises(ValueError, match=f"{UNET}.part (is not a safetensors file|ends too early)"):
        get(root, "fp16")


def link_to_nothing(place, outside):
    place.symlink_to(outside / "nothing")


def link_elsewhere(place, outside):
    (outside.parent / "elsewhere").mkdir()
    place.symlink_to(outside.parent / "elsewhere")


def link_to_itself(place, outside):
    place.symlink_to(place)


def folder(place, outside):
    place.mkdir()


def file(place, outside):
    place.write_bytes(b"in the way")


def put(root, place, make):
    path = root / place
    path.parent.mkdir(parents=True, exist_ok=True)
    make(path, root.parent / "outside")
    return path


PARTIAL = f".{TINY.name}.partial"
LINKS = (link_to_nothing, link_elsewhere, link_to_itself)
IN_THE_WAY = [
    *((place, make) for make in (*LINKS, file) for place in (PARTIAL, f"{PARTIAL}/unet")),
    *(
        (place, make)
        for make in (*LINKS, folder)
        for place in (
            f".{TINY.name}.lock",
            f"{PARTIAL}/download.json",
            f"{PARTIAL}/download.json.part",
            f"{PARTIAL}/{UNET}",
            f"{PARTIAL}/{UNET}.part",
            f"{PARTIAL}/{UNET}.half",
            f"{PARTIAL}/model_index.json",
        )
    ),
    *(("", make) for make in (link_to_nothing, link_to_itself, file)),
]


@pytest.mark.parametrize("place, make", IN_THE_WAY)
def test_something_in_the_way(tiny_hub, root, place, make):
    path = put(root, place, make)
    with pytest.raises(FileExistsError, match="is in the way: .* Move it away") as refused:
        get(root)
    assert f"{path} is" in str(refused.value) and tiny_hub.bytes_served == 0
    elsewhere = root.parent / "elsewhere"
    assert not elsewhere.exists() or not list(elsewhere.iterdir())
    path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()


@pytest.mark.parametrize(
    "make, message",
    [
        (link_to_nothing, "is a link that leads to nothing"),
        (link_to_itself, "is a link that leads to nothing"),
        (link_elsewhere, "is there, but not as published"),
        (folder, "is there, but not as published"),
        (file, "is there, but not as published"),
    ],
)
def test_a_folder_of_that_name_that_is_none(tiny_hub, root, make, message):
    path = put(root, TINY.name, make)
    with pytest.raises(FileExistsError, match=f"{path} {message}.* Nothing was changed"):
        get(root)
    assert tiny_hub.bytes_served == 0
    path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()


def test_a_folder_where_a_file_of_the_model_should_be(root):
    get(root)
    (root / TINY.name / "unet/config.json").unlink()
    (root / TINY.name / "unet/config.json").mkdir()
    with pytest.raises(FileExistsError, match="unet/config.json is missing or of another size"):
        get(root)
    shutil.rmtree(root)


def test_the_place_may_be_a_link(root, tmp_path):
    """Many users have a link to another disk there."""
    (tmp_path / "disk").mkdir()
    root.symlink_to(tmp_path / "disk")
    assert get(root).startswith("Ready.")


def test_another_checksum_in_capitals(tiny_hub, root):
    digest = hashlib.sha256(WHOLE).hexdigest().upper()
    tiny_hub.claims[UNET] = {"lfs": {"sha256": digest}}
    assert get(root).startswith("Ready.")


def test_a_lock_that_was_left(root):
    root.mkdir()
    with FileLock(root / f".{TINY.name}.lock"):
        pass
    (root / f".{TINY.name}.lock").touch()
    assert get(root).startswith("Ready.")
