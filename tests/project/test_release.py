"""A release: its metadata by the registry's published rules, and the content of its archive.

The rules are https://docs.comfy.org/registry/specifications and the behaviour of comfy-cli. It
reads pyproject.toml without running anything. It packs what git tracks and .comfyignore does not
name.
"""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from comfy_config.config_parser import extract_node_configuration
from helpers.checkout import PACK

from scripts.host import HOSTS, PYTHONS

PYPROJECT = tomllib.loads((PACK / "pyproject.toml").read_text("utf-8"))
PROJECT, COMFY = PYPROJECT["project"], PYPROJECT["tool"]["comfy"]
GITHUB = sorted((PACK / ".github").rglob("*.yml"))
ACCELERATORS = {
    "GPU :: NVIDIA CUDA",
    "GPU :: AMD ROCm",
    "GPU :: Intel Arc",
    "GPU :: Apple Metal",
    "NPU :: Huawei Ascend",
}
OLDEST, *_, NEWEST = sorted(HOSTS, key=lambda version: [int(n) for n in version.split(".")])


def requirements() -> list[str]:
    lines = (PACK / "requirements.txt").read_text("utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


# --- the metadata ---------------------------------------------------------------------------------


def test_name():
    name = PROJECT["name"]
    assert re.fullmatch(r"[A-Za-z][A-Za-z0-9]*([-_.][A-Za-z0-9]+)*", name) and len(name) < 100
    assert "comfy" not in name.lower()
    assert COMFY["DisplayName"] and re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", COMFY["PublisherId"])


def test_version_is_semantic_and_the_packs_own():
    number = r"(0|[1-9]\d*)"
    assert re.fullmatch(rf"{number}\.{number}\.{number}", PROJECT["version"])
    code = (PACK / "__init__.py").read_text("utf-8")
    assert f'__version__ = "{PROJECT["version"]}"' in code


@pytest.mark.parametrize("folder", ["workflows", "subgraphs"])
def test_shipped_graphs_say_which_pack_their_nodes_are_of(folder):
    """With it, ComfyUI-Manager can install the pack for a user who gets a graph."""
    for path in (PACK / folder).glob("*.json"):
        graph = json.loads(path.read_text("utf-8"))
        parts = [graph, *graph.get("definitions", {}).get("subgraphs", [])]
        nodes = [node for part in parts for node in part["nodes"]]
        ours = [node["properties"] for node in nodes if node["type"].startswith("Kandinsky22")]
        assert ours, path.name
        for properties in ours:
            said = (properties.get("cnr_id"), properties.get("ver"))
            assert said == (PROJECT["name"], PROJECT["version"]), path.name


def test_shipped_graphs_have_no_fields_without_a_value():
    """Wires are excepted.

    A null is against ComfyUI's own schema, and newer versions warn about it.
    """
    pattern = r'"(?!links?")\w+": null'
    for folder in ("workflows", "subgraphs"):
        for path in (PACK / folder).glob("*.json"):
            assert not re.search(pattern, path.read_text("utf-8")), path.name


def test_changelog_says_what_is_in_it():
    changes = (PACK / "CHANGELOG.md").read_text("utf-8")
    newest = re.search(r"^## (\S+)", changes, re.M)
    assert newest and newest[1] in ("Unreleased", PROJECT["version"])


def test_requirements_are_written_out():
    """comfy-cli ignores `dynamic` dependencies, and ComfyUI-Manager reads requirements.txt."""
    assert PROJECT["dependencies"] == requirements()


def test_license_is_a_file():
    assert (PACK / PROJECT["license"]["file"]).is_file()


def test_what_it_runs_on_is_what_is_tested():
    assert COMFY["requires-comfyui"] == f">={OLDEST}"
    assert PROJECT["requires-python"] == f">={'.'.join(map(str, PYTHONS[0]))}"


def test_classifiers_are_those_the_registry_knows():
    assert "Operating System :: OS Independent" in PROJECT["classifiers"]
    others = set(PROJECT["classifiers"]) - {"Operating System :: OS Independent"}
    assert others <= {f"Environment :: {name}" for name in ACCELERATORS}


def test_the_host_reads_it():
    config = extract_node_configuration(str(PACK))
    assert config.project.name == PROJECT["name"]
    assert config.project.dependencies == requirements()
    assert config.project.supported_os == ["OS Independent"]
    assert config.project.supported_comfyui_version == COMFY["requires-comfyui"]
    assert config.tool_comfy.publisher_id == COMFY["PublisherId"]


# --- the archive ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> list[str]:
    """Return the paths of a release, by git's own reading of .comfyignore."""
    empty = tmp_path_factory.mktemp("git") / "empty"
    git = {**os.environ, "GIT_DIR": str(empty), "GIT_WORK_TREE": str(PACK)}
    ignore = ["--exclude-from=.comfyignore", "--exclude-from=.gitignore"]
    subprocess.run(["git", "init", "--quiet"], env=git, check=True)
    listing = ["git", "ls-files", "-z", "--others", *ignore]
    output = subprocess.run(listing, env=git, cwd=PACK, check=True, capture_output=True, text=True)
    return output.stdout.rstrip("\0").split("\0")


@pytest.fixture(scope="module")
def installed(archive, tmp_path_factory) -> Path:
    """The archive as ComfyUI-Manager unpacks it."""
    folder = tmp_path_factory.mktemp("custom_nodes") / "kandinsky22"
    for name in archive:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(PACK / name, folder / name)
    return folder


def test_holds_all_that_runs(archive):
    for folder in ("locales", "models", "nodes", "subgraphs", "utils", "web", "workflows"):
        there = {path for path in (PACK / folder).rglob("*") if path.is_file()}
        needed = {path.relative_to(PACK).as_posix() for path in there if path.suffix != ".pyc"}
        assert needed and needed <= set(archive)
    assert {"__init__.py", "LICENSE", "README.md", "requirements.txt"} <= set(archive)


def test_leaves_out_what_only_a_clone_needs(archive):
    folders = (".ci/", ".github/", "benchmarks/", "docs/pictures/", "tests/", "tools/")
    assert not [name for name in archive if name.startswith(folders)]
    assert "scripts/test.py" not in archive


def test_is_not_too_large(archive):
    assert sum((PACK / name).stat().st_size for name in archive) < 30e6


def test_has_the_scripts_that_users_are_told_of(archive):
    """README and the shown texts name them. Two of these are commands for a clone."""
    pattern = r"scripts/\w+\.py"
    told = set(re.findall(pattern, (PACK / "README.md").read_text("utf-8")))
    for folder in ("docs", "locales", "web", "workflows"):
        for path in (PACK / folder).rglob("*.[mj][ds]*"):  # .md, .json
            told |= set(re.findall(pattern, path.read_text("utf-8")))
    told -= {f"scripts/{name}.py" for name in ("test", "benchmark")}
    assert told <= set(archive)


def test_its_scripts_find_what_they_import(archive):
    for name in (name for name in archive if re.fullmatch(r"scripts/.+\.py", name)):
        for node in ast.walk(ast.parse((PACK / name).read_text("utf-8"))):
            modules = []
            if isinstance(node, ast.ImportFrom):
                package = [*Path(name).parts[: -node.level], ""] if node.level else []
                module = (".".join(package) + str(node.module or "")).strip(".")
                modules = [module, *(f"{module}.{alias.name}" for alias in node.names)]
            elif isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            paths = [module.removeprefix("kandinsky22.").replace(".", "/") for module in modules]
            ours = {file for path in paths for file in (f"{path}.py", f"{path}/__init__.py")}
            assert {file for file in ours if (PACK / file).exists()} <= set(archive), name


def test_its_download_script_runs(installed):
    command = [sys.executable, str(installed / "scripts" / "get_models.py"), "--list"]
    output = subprocess.run(command, capture_output=True, text=True)
    assert "kandinsky-community/kandinsky-2-2-prior" in output.stdout, output.stderr


# --- the repository's page ------------------------------------------------------------------------


@pytest.mark.parametrize("path", GITHUB, ids=lambda path: path.stem)
def test_yaml(path):
    text = path.read_text("utf-8")
    assert isinstance(yaml.safe_load(text), dict)
    for name in re.findall(r"\./[\w./]+|(?<=python )[\w/]+\.py", text):
        assert (PACK / name).exists(), name


def test_the_workflow_tests_the_oldest_and_the_newest_host():
    workflow = yaml.safe_load((PACK / ".github" / "workflows" / "test.yml").read_text("utf-8"))
    assert workflow["jobs"]["test"]["strategy"]["matrix"]["host"] == [
        NEWEST,
        OLDEST,
        f"{OLDEST}+oldest",
    ]


def test_forms_ask_for_something():
    for path in (PACK / ".github" / "ISSUE_TEMPLATE").glob("*_re*.yml"):
        fields = [item for item in yaml.safe_load(path.read_text("utf-8"))["body"] if "id" in item]
        assert len({item["id"] for item in fields}) == len(fields) > 0
        assert all(item["attributes"].get("label") for item in fields)
        assert any(item.get("validations", {}).get("required") for item in fields)
