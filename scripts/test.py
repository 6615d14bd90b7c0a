"""Run the checks of this project in the environment that scripts/host.py makes.

    python scripts/test.py                            ruff, pyright, tests that need no GPU
    python scripts/test.py --quick                    without servers, browsers and long tests
    python scripts/test.py --slow                     also the tests that take minutes
    python scripts/test.py --host 0.18.2              the same on another ComfyUI version
    python scripts/test.py --host 0.18.2+oldest       the tests with the oldest supported libraries
    python scripts/test.py --host 0.30.0+newest       the tests with the newest libraries
    python scripts/test.py --matrix                   the tests on all of these in turn
    python scripts/test.py --coverage                 also report which lines ran
    python scripts/test.py --no-lint tests/stages     all other arguments go to pytest

`--help` lists all options.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)  # see scripts/__init__.py

from scripts.browser import find_browser  # noqa: E402
from scripts.host import HOSTS, LATEST, NEWEST, OLDEST, Host, SetupError, ensure  # noqa: E402

PROCESSES = min(os.cpu_count() or 1, 4)  # of pytest, as a test may need 2 GB


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Run ruff, pyright and pytest in an environment for this project.",
        epilog="Every other argument goes to pytest.",
        allow_abbrev=False,
    )
    choices = [*HOSTS, list(HOSTS)[-1] + OLDEST, NEWEST + LATEST]
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--host", default=NEWEST, metavar="VERSION", help=f"ComfyUI: {', '.join(choices)}"
    )
    which.add_argument(
        "--matrix", action="store_true", help="run pytest with each of these versions"
    )
    extent = parser.add_mutually_exclusive_group()
    extent.add_argument(
        "--quick", action="store_true", help="leave out servers, browsers and long tests"
    )
    extent.add_argument("--slow", action="store_true", help="run the tests marked slow, too")
    parser.add_argument(
        "--coverage", action="store_true", help="report which lines and branches ran"
    )
    parser.add_argument("--no-lint", action="store_true", help="run only pytest")
    options, pytest_arguments = parser.parse_known_args()
    if options.matrix and options.coverage:
        parser.error("--coverage is of one host, not of --matrix")

    marks = "not gpu" if options.slow else "not gpu and not slow"
    quick = ["--ignore=tests/host", "--ignore=tests/browser"] if options.quick else []
    marks += " and not long" if options.quick else ""
    tests = ["pytest", "-m", marks, "--durations=10", *quick, *pytest_arguments]
    if options.coverage:
        tests = ["coverage", "run", "-m", *tests]
    elif not pytest_arguments:  # all tests, in processes that take one file each
        tests += ["-n", str(PROCESSES), "--dist", "loadfile"]
    try:
        hosts = [ensure(version) for version in (choices if options.matrix else [options.host])]
        other_types = options.matrix or options.host.endswith((OLDEST, LATEST))
        no_lint = options.no_lint or other_types
        lint = [] if no_lint else lint_commands(hosts[0])
        checks = lint + [(f"pytest {host.version}", host, tests) for host in hosts]
        if options.coverage:
            checks.append(("coverage", hosts[0], ["coverage", "report"]))
        return run_all(checks)
    except SetupError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr)
        return 130


def lint_commands(host: Host) -> list[tuple[str, Host, list[str]]]:
    return [
        ("ruff check", host, ["ruff", "check", "."]),
        ("ruff format", host, ["ruff", "format", "--check", "."]),
        ("pyright", host, ["pyright", "--pythonpath", str(host.python)]),
    ]


def run_all(checks: list[tuple[str, Host, list[str]]]) -> int:
    """Run every check, even after a failure. Return the first failure's exit code."""
    summary = []
    first_failure = 0
    for name, host, command in checks:
        print(f"\n--- {name}", flush=True)
        start = time.monotonic()
        # torch's threads wait for each other for microseconds. On a busy machine, spinning threads
        # take a hundred times as long. The bits are the same.
        environment = {"OMP_WAIT_POLICY": "PASSIVE", **os.environ}
        environment["KANDINSKY22_HOST"] = host.to_json()  # for tests/conftest.py
        # pyright looks for `comfy` where Python would. The tests set the path themselves.
        extra = {"PYTHONPATH": str(host.comfyui)} if name == "pyright" else {}
        code = run(host, command, {**environment, **extra})
        first_failure = first_failure or code
        verdict = f"FAILED ({code})" if code else "passed"
        summary.append(f"{name:20} {verdict:12} {time.monotonic() - start:6.1f} s")
    print(f"\nPython {sys.version.split()[0]}")
    print("\n".join(summary))
    if not find_browser():
        print("NOT RUN: the tests in tests/browser. No Chromium or Chrome here.")
    sys.stdout.flush()
    return first_failure


def run(host: Host, command: list[str], environment: dict[str, str]) -> int:
    child = subprocess.Popen([str(host.python), "-m", *command], cwd=ROOT, env=environment)
    try:
        return child.wait()
    except KeyboardInterrupt:  # the child got it, too, and needs time to stop its servers
        child.wait()
        raise


if __name__ == "__main__":
    sys.exit(main())
