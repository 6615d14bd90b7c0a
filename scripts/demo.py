"""Make a picture from a prompt with this pack in a real ComfyUI server.

    python scripts/demo.py                                 the first run sets everything up
    python scripts/demo.py --prompt "a red fox" --seed 7
    python scripts/demo.py --serve                         keep the server running
    python scripts/demo.py --comfyui ~/ComfyUI             use your own ComfyUI, without changing it

Pictures go to output/. This needs only Python. It makes an environment outside the checkout
(scripts/host.py), and then runs itself again with the Python of that environment.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)  # see scripts/__init__.py

from scripts.host import (  # noqa: E402
    HOSTS,
    NEWEST,
    Host,
    SetupError,
    cache_folder,
    check_machine,
    ensure,
)

STAGE_TWO = "KANDINSKY22_DEMO"  # set for the second run: the ComfyUI, and the seconds of the set-up


class DemoError(RuntimeError):
    """The demo cannot continue. The message says why and what to do."""


def main() -> int:
    options = parse_arguments()
    try:
        if STAGE_TWO in os.environ:
            stage = json.loads(os.environ[STAGE_TWO])
            return make_picture(options, Host.from_json(stage["host"]), stage["seconds"])
        if not options.comfyui:
            check_machine(options.host)
        load_workflow(options)  # wrong options are reported before a long set-up
        if options.comfyui:
            return make_picture(options, host_of_ones_own(options.comfyui), 0.0)
        start = time.monotonic()
        host = ensure(options.host)
        return run_again(host, time.monotonic() - start)
    except (SetupError, DemoError) as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr)
        return 130


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Make a picture from a prompt with this pack in a real ComfyUI server."
    )
    parser.add_argument(
        "--workflow", default="text_to_image", metavar="NAME", help="a file of workflows/api"
    )
    parser.add_argument("--prompt", metavar="TEXT", help="replaces the prompt of the workflow")
    parser.add_argument("--seed", type=int, metavar="N", help="replaces every seed in the workflow")
    parser.add_argument("--serve", action="store_true", help="keep the server running afterwards")
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--host", default=NEWEST, metavar="VERSION", help=f"version of ComfyUI: {', '.join(HOSTS)}"
    )
    which.add_argument(
        "--comfyui", type=Path, metavar="PATH", help="use your own ComfyUI, with this Python"
    )
    return parser.parse_args()


def run_again(host: Host, seconds: float) -> int:
    command = [str(host.python), str(Path(__file__).resolve()), *sys.argv[1:]]
    stage = json.dumps({"host": host.to_json(), "seconds": seconds})
    environment = {**os.environ, STAGE_TWO: stage}
    if os.name == "nt":  # on Windows, execve would return to the prompt at once
        return subprocess.call(command, env=environment)
    os.execve(command[0], command, environment)


# --- the workflow ---------------------------------------------------------------------------------


def load_workflow(options: argparse.Namespace) -> dict:
    """Return the API form of a workflow, with the chosen prompt and seed."""
    folder = ROOT / "workflows" / "api"
    path = folder / f"{Path(options.workflow).stem}.json"
    if not path.is_file():
        names = ", ".join(sorted(file.stem for file in folder.glob("*.json"))) or "none"
        raise DemoError(
            f"There is no workflow {options.workflow!r} in workflows/api. It has: {names}."
        )
    workflow = json.loads(path.read_text("utf-8"))
    if options.prompt is not None:
        prompted = with_prompts(workflow)
        if not prompted:
            nodes = ", ".join(sorted({node["class_type"] for node in workflow.values()}))
            raise DemoError(f"{path.name} has no prompt to set. Its nodes: {nodes}.")
        prompted[0]["prompt"] = options.prompt
    if options.seed is not None:
        for node in workflow.values():
            if isinstance(node["inputs"].get("seed"), int):
                node["inputs"]["seed"] = options.seed
    return workflow


def with_prompts(workflow: dict) -> list[dict]:
    """Return the inputs of the nodes that take a prompt."""
    return [node["inputs"] for node in workflow.values() if "prompt" in node["inputs"]]


# --- where it runs --------------------------------------------------------------------------------


def host_of_ones_own(folder: Path) -> Host:
    folder = folder.expanduser().resolve()
    version_file = folder / "comfyui_version.py"
    if not (folder / "main.py").is_file() or not version_file.is_file():
        raise DemoError(f"{folder} is not a ComfyUI: it has no main.py and comfyui_version.py.")
    missing = [name for name in ("aiohttp", "torch", "diffusers", "tqdm") if not find_spec(name)]
    if missing:
        raise DemoError(
            f"{sys.executable} has no {', '.join(missing)}. Start this demo with the Python that "
            "runs your ComfyUI,\nafter installing the pack's requirements there: "
            "python -m pip install -r requirements.txt"
        )
    version = version_file.read_text("utf-8").split("__version__")[1].strip(" =\n\"'")
    return Host(Path(sys.executable), folder, version)


# --- the picture ----------------------------------------------------------------------------------


def make_picture(options: argparse.Namespace, host: Host, set_up: float) -> int:
    from scripts.comfyui import Server, ServerError, WorkflowError

    workflow = load_workflow(options)
    others = ", ".join(repr(inputs["prompt"]) for inputs in with_prompts(workflow)[1:])
    if options.prompt is not None and others:
        print(f"--prompt is the first of this workflow's. It has {others}, too.")
    base = base_folder()
    base.mkdir(parents=True, exist_ok=True)
    print(f"Starting ComfyUI {host.version} (about 15 seconds) ...", flush=True)
    start = time.monotonic()
    try:
        with Server(host, base, output=ROOT / "output") as server:
            server_start = time.monotonic() - start
            with Progress(workflow) as progress:
                result = server.run(workflow, progress, timeout=None)
            for image in result.images:
                if image["type"] == "output":
                    print("Saved", Path("output", image["subfolder"], image["filename"]))
            print(
                f"Set-up {set_up:.1f} s, server start {server_start:.1f} s, "
                f"picture {result.seconds:.1f} s"
            )
            if options.serve:
                serve(server)
    except (ServerError, WorkflowError) as error:
        raise DemoError(str(error)) from error
    return 0


def base_folder() -> Path:
    """Return the folder in which this checkout's server keeps its files, except the pictures."""
    checkout = hashlib.sha256(str(ROOT).encode()).hexdigest()[:10]
    return cache_folder() / f"demo-{checkout}"


def serve(server) -> None:
    print(f"\nComfyUI is at {server.url} until you press Ctrl-C.", flush=True)
    try:
        server.wait()
    except KeyboardInterrupt:
        print("\nStopped.")


class Progress:
    """Progress bars of a run: one for every node that counts its steps."""

    def __init__(self, workflow: dict):
        self.workflow = workflow
        self.node = None
        self.bar = None

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_) -> None:
        if self.bar is not None:
            self.bar.close()

    def __call__(self, name: str, fields) -> None:
        from tqdm import tqdm

        if name != "progress":
            return
        if fields["node"] != self.node:
            self.__exit__()
            self.node = fields["node"]
            title = self.workflow.get(self.node, {}).get("class_type", "")
            form = "{desc} {bar:30} {n_fmt}/{total_fmt} steps, {elapsed}"
            # disable=None shows no bar without a terminal.
            self.bar = tqdm(total=fields["max"], desc=f"{title:20}", bar_format=form, disable=None)
        assert self.bar is not None
        self.bar.update(fields["value"] - self.bar.n)


if __name__ == "__main__":
    sys.exit(main())
