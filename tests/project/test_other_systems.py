"""Windows and macOS, as far as Linux can test them: names, paths, commands, system checks.

Tests here pretend to be on the other system, with modules that work like those of Windows.
"""

import ast
import os
import re
import subprocess
import sys
import types
from collections import Counter
from pathlib import Path

import psutil
import pytest
import yaml
from helpers.checkout import PACK
from kandinsky22.utils.download import folder as download_folder
from kandinsky22.utils.files import zero_embeds

from scripts import comfyui, host
from scripts.batch_runs.jobs import Task
from scripts.batch_runs.manifest import Manifest
from scripts.batch_runs.workers import Outcome

FILES = (
    subprocess.run(["git", "ls-files", "-z"], cwd=PACK, capture_output=True, check=True)
    .stdout.decode()[:-1]
    .split("\0")
)
USUAL = (
    r"C:\Users\A Person With A Long Name\Documents\ComfyUI_windows_portable\ComfyUI\custom_nodes"
    r"\kandinsky22"
)
RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.I)


# --- the files ------------------------------------------------------------------------------------


def test_windows_takes_every_name():
    for path in FILES:
        for part in path.split("/"):
            odd = re.search(r'[<>:"|?*\\\x00-\x1f]|[ .]$', part) or RESERVED.fullmatch(part)
            assert not odd, path
        assert len(f"{USUAL}\\{path}") < 200, path


def test_no_two_names_differ_in_case_alone():
    """Windows and macOS treat them as one."""
    folders = {str(parent) for path in FILES for parent in Path(path).parents}
    names = Counter(name.lower() for name in [*FILES, *folders])
    assert not [name for name, count in names.items() if count > 1]


def test_git_changes_no_line_ends():
    assert "* -text" in (PACK / ".gitattributes").read_text("utf-8").splitlines()


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_what_only_bash_understands_has_a_twin_for_powershell(page):
    text = (PACK / page).read_text("utf-8")
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", text, re.M | re.S)
    for (language, block), (next_language, _) in zip(blocks, [*blocks[1:], ("", "")], strict=True):
        for_bash = re.search(r"\\$|\$\(|^export |^\w+=\S+ \w|<<|&&|/dev/null", block, re.M)
        assert language or not for_bash or next_language == "powershell", block


def test_the_python_of_comfyui_portable_is_named():
    assert r"python_embeded\python.exe -m pip install -r" in (PACK / "README.md").read_text("utf-8")


def test_the_workflow_checks_windows_and_macos():
    jobs = yaml.safe_load((PACK / ".github/workflows/test.yml").read_text("utf-8"))["jobs"]
    job = jobs["other-systems"]
    assert job["strategy"]["matrix"]["system"] == ["windows-latest", "macos-latest"]
    assert "python scripts/test.py --quick" in [step.get("run") for step in job["steps"]]


def test_programs_say_the_encoding_of_what_they_read_and_write():
    """Windows has another default encoding."""
    code = [PACK / "__init__.py"]
    for name in ("nodes", "utils", "scripts"):
        code += (PACK / name).rglob("*.py")
    for path in code:
        for call in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute):
                if call.func.attr in ("read_text", "write_text"):
                    assert "utf-8" in ast.unparse(call), f"{path}: {ast.unparse(call)}"


# --- code that asks where it is -------------------------------------------------------------------


@pytest.fixture
def windows(monkeypatch):
    """os.name is "nt", and there is no fcntl. Nothing else differs."""
    monkeypatch.setattr(os, "name", "nt")
    monkeypatch.setitem(sys.modules, "fcntl", None)
    yield
    monkeypatch.undo()  # before pytest makes its next path, which would be a Windows path


def test_a_file_is_locked_without_fcntl(tmp_path, windows, monkeypatch):
    """msvcrt locks one byte from the file's position, until the file is closed."""
    held: dict[int, int] = {}

    def locking(number: int, mode: int, count: int) -> None:
        assert (mode, count, os.lseek(number, 0, os.SEEK_CUR)) == (2, 1, 0)
        if held.setdefault(os.fstat(number).st_ino, number) != number:
            raise OSError(13, "Permission denied")

    monkeypatch.setitem(sys.modules, "msvcrt", types.SimpleNamespace(LK_NBLCK=2, locking=locking))
    name = os.path.join(str(tmp_path), "lock")
    with open(name, "a+b") as first, open(name, "a+b") as second:
        assert host.try_lock(first) and not host.try_lock(second)


def test_the_pack_is_linked_by_a_junction(tmp_path, windows, monkeypatch):
    """A symbolic link needs rights there that few users have."""
    made = []

    def create(source: str, target: str) -> None:
        made.append((source, target))
        os.symlink(source, target)

    monkeypatch.setitem(sys.modules, "_winapi", types.SimpleNamespace(CreateJunction=create))
    pack = tmp_path / "pack"
    pack.mkdir()
    nodes = tmp_path / "nodes"
    nodes.mkdir()
    link = comfyui.link_pack(pack, nodes)
    assert made == [(str(pack), str(link))]
    assert comfyui.link_pack(pack, nodes) == link and len(made) == 1


def test_a_program_is_run_without_what_posix_alone_can_pass_on(tmp_path, windows, monkeypatch):
    passed = {}
    run = subprocess.run
    monkeypatch.setattr(
        subprocess, "run", lambda *args, **named: run(*args, **passed.setdefault("it", named))
    )
    steps = host.Steps(print, None, 1)
    steps.run([sys.executable, "-c", "pass"], tmp_path / "log.txt", "")
    assert passed["it"]["pass_fds"] == ()


@pytest.mark.parametrize(
    "system, variables, expected",
    [
        ("win32", {"LOCALAPPDATA": "/local"}, "/local/kandinsky22"),
        ("win32", {}, "~/AppData/Local/kandinsky22"),
        ("darwin", {"XDG_CACHE_HOME": "/no"}, "~/Library/Caches/kandinsky22"),
        ("linux", {"XDG_CACHE_HOME": "/cache"}, "/cache/kandinsky22"),
        ("linux", {}, "~/.cache/kandinsky22"),
    ],
)
def test_where_environments_are_kept(monkeypatch, system, variables, expected):
    for name in ("KANDINSKY22_CACHE", "LOCALAPPDATA", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "platform", system)
    assert host.cache_folder() == Path(expected).expanduser()


def test_where_a_venv_of_windows_has_its_python(tmp_path, windows):
    assert str(host.venv_python(tmp_path)).endswith("Scripts/python.exe")
    assert str(host.site_packages(tmp_path)).endswith("Lib/site-packages")


@pytest.fixture
def open_files_stay(monkeypatch):
    """As on Windows, a file that is open is neither replaced nor deleted."""
    opened = psutil.Process().open_files

    def guard(name: str):
        there = getattr(os, name)

        def checked(path, *others, **named):
            taken = {file.path for file in opened()}
            for each in (path, *others[:1]):
                if not isinstance(each, int) and os.path.realpath(each) in taken:
                    raise PermissionError(13, "It is being used by another process", str(each))
            return there(path, *others, **named)

        monkeypatch.setattr(os, name, checked)

    for name in ("replace", "rename", "unlink", "remove"):
        guard(name)


def test_nothing_that_is_open_is_replaced(tmp_path, open_files_stay, embeds):
    path = tmp_path / "m.parquet"
    outcome = Outcome("http://a", 1.0, (("8", "x.png", b"\x89PNG"),))
    for again in (False, True, True):
        with Manifest(path, tmp_path, again) as manifest:
            manifest.write(Task("a" * 16, {}), outcome)
            manifest.write(Task("b" * 16, {}), Outcome("http://a", error="no"))
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"")
    for _ in range(2):
        host.mark_ready(tmp_path, "mark")
        download_folder.write_record(tmp_path, {"files": {}, "precision": "fp16"})
        zero_embeds.keep_zero_embeds(tmp_path, "how", embeds(1, 1, 4))
    assert zero_embeds.read_zero_embeds(tmp_path, "how", 4)
    with pytest.raises(PermissionError), open(tmp_path / "ready"):
        host.mark_ready(tmp_path, "mark")  # so it would be noticed
