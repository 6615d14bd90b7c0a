"""Every check of this project, in the environment that scripts/host.py makes.

python scripts/test.py                            ruff, pyright, and all tests that need no GPU
python scripts/test.py --host 0.18.2              the same on another ComfyUI version
python scripts/test.py --no-lint tests/test_x.py  what is not an option here goes to pytest
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)  # in place of scripts/, where this file would hide Python's own `test`

from scripts.host import HOSTS, NEWEST, Host, SetupError, ensure  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(
        description="ruff, pyright and pytest, in an environment of their own.",
        epilog="Every other argument goes to pytest.",
        allow_abbrev=False,
    )
    choices = ", ".join(HOSTS)
    parser.add_argument("--host", default=NEWEST, metavar="VERSION", help=f"ComfyUI: {choices}")
    parser.add_argument("--slow", action="store_true", help="the tests marked slow, too")
    parser.add_argument("--no-lint", action="store_true", help="pytest only")
    options, pytest_arguments = parser.parse_known_args()

    try:
        host = ensure(options.host)
        checks = [] if options.no_lint else lint_commands(host)
        marks = "not gpu" if options.slow else "not gpu and not slow"
        checks.append(("pytest", ["pytest", "-m", marks, "--durations=10", *pytest_arguments]))
        return run_all(host, checks)
    except SetupError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr)
        return 130


def lint_commands(host: Host) -> list[tuple[str, list[str]]]:
    return [
        ("ruff check", ["ruff", "check", "."]),
        ("ruff format", ["ruff", "format", "--check", "."]),
        ("pyright", ["pyright", "--pythonpath", str(host.python)]),
    ]


def run_all(host: Host, checks: list[tuple[str, list[str]]]) -> int:
    """Run every check, also after one has failed; returns the first failure's exit code."""
    environment = {**os.environ, "KANDINSKY22_HOST": host.to_json()}  # for tests/conftest.py
    summary = []
    first_failure = 0
    for name, command in checks:
        print(f"\n--- {name}", flush=True)
        start = time.monotonic()
        # pyright looks for `comfy` where Python would; the tests put it on the path themselves.
        extra = {"PYTHONPATH": str(host.comfyui)} if name == "pyright" else {}
        code = run(host, command, {**environment, **extra})
        first_failure = first_failure or code
        verdict = f"FAILED ({code})" if code else "passed"
        summary.append(f"{name:12} {verdict:12} {time.monotonic() - start:6.1f} s")
    print(f"\nComfyUI {host.version}, Python {sys.version.split()[0]}")
    print("\n".join(summary), flush=True)
    return first_failure


def run(host: Host, command: list[str], environment: dict[str, str]) -> int:
    child = subprocess.Popen([str(host.python), "-m", *command], cwd=ROOT, env=environment)
    try:
        return child.wait()
    except KeyboardInterrupt:  # the child got it, too: let it stop its servers before we go
        child.wait()
        raise


if __name__ == "__main__":
    sys.exit(main())
