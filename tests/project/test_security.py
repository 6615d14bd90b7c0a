"""The code runs no code of others and uses no network, as SECURITY.md promises."""

import ast
import socket

import pytest
from helpers.checkout import PACK
from kandinsky22.nodes.loaders import LoadDecoder, LoadDepthEstimator, LoadPrior

CODE = [PACK / "__init__.py", *(PACK / "nodes").glob("*.py"), *(PACK / "utils").rglob("*.py")]
CALLS = {"eval", "exec", "compile", "__import__", "import_module"}
CALLS |= {"os.system", "os.popen", "os.startfile", "torch.load"}
PICKLES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
PROCESSES = {"subprocess", "multiprocessing", "pty", "ctypes", "pip", "code", "runpy"}
NETWORK = {"socket", "ssl", "http", "urllib", "ftplib", "requests", "httpx", "aiohttp"}

each_file = pytest.mark.parametrize(
    "path", CODE, ids=lambda path: f"{path.parent.name} {path.stem}"
)


def names_in(path) -> tuple[set[str], set[str]]:
    """Return (packages imported, functions called) of a file. `a.b(…)` counts as a.b and as b."""
    imported, called = set(), set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            imported.add(str(node.module).split(".")[0])
        elif isinstance(node, ast.Call):
            function = node.func
            called.add(ast.unparse(function))
            if isinstance(function, ast.Attribute) and function.attr == "import_module":
                called.add(function.attr)
    return imported, called


@each_file
def test_no_code_of_others_is_run(path):
    imported, called = names_in(path)
    assert not imported & (PICKLES | PROCESSES)
    assert not called & CALLS
    assert not [name for name in called if name.startswith(("os.exec", "os.spawn", "os.fork"))]


def test_only_the_downloads_have_a_network():
    reaching = {path.stem for path in CODE if names_in(path)[0] & (NETWORK | {"huggingface_hub"})}
    assert reaching == {"hub", "model_folders"}  # model_folders only asks where the hub's cache is
    model_folders = (PACK / "utils" / "comfyui" / "model_folders.py").read_text("utf-8")
    assert model_folders.count("huggingface_hub") == 1
    assert "from huggingface_hub import constants\n" in model_folders
    using = [path for path in CODE if "import hub" in path.read_text("utf-8")]
    assert {path.stem for path in using} == {"background", "folder"}
    using = [path for path in CODE if "import download\n" in path.read_text("utf-8")]
    assert [path.stem for path in using] == ["get_models"]


def test_loading_opens_no_connection(models, nothing_shared, monkeypatch):
    def refuse(*arguments):
        pytest.fail(f"a connection was opened: {arguments}")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    LoadPrior.execute("kandinsky-2-2-tiny-prior", "default")
    LoadDecoder.execute("kandinsky-2-2-tiny-decoder", "default")
    for name in ("tiny-dpt", "mini-depth-estimator"):
        LoadDepthEstimator.execute(name)
