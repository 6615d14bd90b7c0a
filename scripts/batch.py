"""Run one workflow for many values, from a table or from ranges, on one server or on a cluster.

    python scripts/batch.py workflows/api/text_to_image.json --set Decoder.seed=1..100
    python scripts/batch.py my_api.json --table prompts.csv --servers http://gpu1:8188,http://gpu2:8188

Pictures and a manifest go to output/batch/. A second run makes only what is missing. See
docs/batch.md.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import ExitStack
from importlib.util import find_spec
from itertools import chain
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)  # see scripts/__init__.py

from scripts.host import HOSTS, NEWEST, SetupError, ensure  # noqa: E402


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        epilog="Without --servers, this starts a ComfyUI for each GPU, or one on the CPU.",
    )
    parser.add_argument("workflow", type=Path, help="a workflow file in API form")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NODE.INPUT=VALUE",
        help="a value, or a range first..last[..step]; several options make all combinations",
    )
    parser.add_argument(
        "--table",
        type=Path,
        metavar="FILE",
        help="a CSV, JSONL or Parquet file with one job in each row",
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help="folder for results; default: output/batch/WORKFLOW",
    )
    parser.add_argument(
        "--manifest",
        type=Path,
        metavar="FILE",
        help="the record of the jobs, .jsonl or .parquet; default: in --output",
    )
    parser.add_argument(
        "--published",
        action="store_true",
        help="use the published weights and their sizes: for the files in workflows/api/, whose "
        "titles name them",
    )
    parser.add_argument("--retry", action="store_true", help="run failed jobs again")
    parser.add_argument(
        "--stages-apart",
        action="store_true",
        help="make all embeddings first, and then the pictures",
    )
    where = parser.add_argument_group("where it runs")
    where.add_argument("--servers", metavar="URL,URL", help="URLs of running ComfyUI servers")
    where.add_argument("--ray", metavar="ADDRESS", help="a Ray cluster; default: a local Ray")
    where.add_argument(
        "--cpus",
        type=int,
        metavar="N",
        help="start a server for every N CPUs, and not for every GPU",
    )
    where.add_argument(
        "--models-dir", type=Path, metavar="DIR", help="models folder for servers that are started"
    )
    where.add_argument(
        "--host",
        default=NEWEST,
        metavar="VERSION",
        help=f"ComfyUI version of servers that are started: {', '.join(HOSTS)}",
    )
    where.add_argument(
        "--patience",
        type=float,
        default=60,
        metavar="S",
        help="give up a server after this many seconds without an answer; default: 60",
    )
    where.add_argument(
        "--job-timeout",
        type=float,
        default=3600,
        metavar="S",
        help="give up a job after this many seconds without progress; default: 3600",
    )
    options = parser.parse_args()
    if options.servers is not None and not options.servers.strip(", "):
        parser.error("--servers names none: http://one:8188,http://two:8188")
    if options.servers and (options.cpus or options.models_dir):
        parser.error("--cpus and --models-dir are for servers that are started, not for --servers")
    if options.manifest and options.manifest.suffix not in (".jsonl", ".parquet"):
        parser.error(f"--manifest {options.manifest}: a .jsonl or a .parquet file")
    return options


def main() -> int:
    options = parse_arguments()
    needed = {"ray", "aiohttp", "tqdm"}
    tables = [path for path in (options.table, options.manifest) if path]
    needed |= {"pyarrow"} if any(path.suffix == ".parquet" for path in tables) else set()
    if missing := sorted(name for name in needed if not find_spec(name)):
        print(
            f"{sys.executable} has no {', '.join(missing)}: "
            "python -m pip install -r requirements-batch.txt",
            file=sys.stderr,
        )
        return 1
    try:
        return run(options)
    except KeyboardInterrupt:
        print("\nStopped. The same command goes on from here.", file=sys.stderr)
        return 130


def run(options: argparse.Namespace) -> int:
    from scripts.batch_runs import session
    from scripts.batch_runs.dispatch import NoServer
    from scripts.batch_runs.jobs import Jobs
    from scripts.batch_runs.manifest import Manifest
    from scripts.batch_runs.workflow import for_published_weights, read_workflow

    output = options.output or ROOT / "output" / "batch" / options.workflow.stem
    path = options.manifest or output / "manifest.jsonl"
    try:
        with ExitStack() as stack:
            workflow = read_workflow(options.workflow)
            workflow = for_published_weights(workflow) if options.published else workflow
            jobs = Jobs(workflow, options.set, options.table)
            total = jobs.count()
            manifest = stack.enter_context(Manifest(path, output, options.retry))
            if manifest.odd:
                numbers = ", ".join(str(number + 1) for number in manifest.odd[:10])
                say(f"{path} had lines that no run writes ({numbers}). They are left out.")
            session.announce(jobs, total, manifest, say)
            todo = session.Todo(jobs, manifest)
            left = iter(todo)
            if first := next(left, None):
                needed = session.node_types(jobs.workflow, options.stages_apart)
                workers = open_workers(stack, options, needed)
                if options.stages_apart:
                    folder = output / "embeds"
                    embeds = Manifest(folder / "manifest.jsonl", folder, options.retry)
                    stack.enter_context(embeds)
                    session.run_apart(jobs, todo, total, manifest, embeds, workers, say)
                else:
                    tasks = map(jobs.task, chain([first], left))
                    session.run(tasks, total, manifest, workers, say, passed=todo.count_passed)
    except (ValueError, OSError, NoServer, SetupError) as error:
        say(str(error))
        return 1
    failed = todo.failed()
    outcome = f"{failed} of the {len(todo.ids)} failed. See {path}."
    say(f"{manifest.written} jobs were run; {outcome}")
    return 1 if failed else 0


def open_workers(stack: ExitStack, options: argparse.Namespace, needed: list[str]) -> list:
    from scripts.batch_runs import cluster

    urls = list(
        dict.fromkeys(tidy(url) for url in (options.servers or "").split(",") if url.strip())
    )
    if urls:
        stack.enter_context(cluster.connect(options.ray, cluster.SCRIPTS, cpus=1))
        return stack.enter_context(
            cluster.reach_servers(urls, needed, options.patience, options.job_timeout)
        )
    if not options.ray:
        ensure(options.host)  # The workers would do this, too, but without visible progress.
    stack.enter_context(cluster.connect(options.ray, cluster.PACK, cpus=None))
    models = str(options.models_dir.resolve()) if options.models_dir else ""
    times = options.patience, options.job_timeout
    workers = stack.enter_context(
        cluster.start_servers(needed, *times, options.host, models, options.cpus)
    )
    say(f"Starting ComfyUI {options.host}, {len(workers)} of it (about 15 seconds) ...")
    return workers


def tidy(url: str) -> str:
    url = url.strip().rstrip("/")
    return url if "://" in url else f"http://{url}"


def say(text: str) -> None:
    from tqdm import tqdm

    tqdm.write(text, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
