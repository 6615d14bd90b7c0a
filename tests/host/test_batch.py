"""scripts/batch.py on two real servers and a real Ray, as a user would start it."""

import hashlib
import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import tempfile
import termios
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pytest
from helpers.checkout import HOST, PACK, WORKFLOWS
from helpers.terminal import as_in_a_terminal
from PIL import Image
from ray.cluster_utils import Cluster

from benchmarks import batch as benchmark
from benchmarks import report
from scripts import host
from scripts.batch_runs import stages
from scripts.batch_runs.jobs import Jobs
from scripts.comfyui import Server

SCRIPT = PACK / "scripts" / "batch.py"
PROMPTS = ("a red circle", "a green square", "a blue triangle", "a white circle")
JOBS = 40
BAD = {"Prior.prompt": "a red circle", "Decoder.sampler_name": "magic"}


@pytest.fixture(scope="module")
def servers(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch, ExitStack() as stack:
        patch.setenv("OMP_NUM_THREADS", "1")
        two = [
            Server(host.ensure(HOST["version"]), tmp_path_factory.mktemp("comfyui"), cpu=True)
            for _ in range(2)
        ]
        with ThreadPoolExecutor() as pool:
            list(pool.map(stack.enter_context, two))
        yield two


@contextmanager
def ray_cluster(num_cpus: int) -> Iterator[Cluster]:
    """Yield a Ray cluster of one machine, with all its files in its own temporary folder.

    Ray's Cluster writes the address into Ray's default folder, whatever `temp_dir` the head has. It
    fails if no earlier Ray has made that folder. So this folder is made the default.
    """
    node = dict(num_cpus=num_cpus, object_store_memory=100_000_000, include_dashboard=False)
    short = dict(prefix="ray", dir="/tmp")  # the paths of sockets have at most 107 bytes
    with (
        tempfile.TemporaryDirectory(**short, ignore_cleanup_errors=True) as folder,
        pytest.MonkeyPatch.context() as environment,
    ):
        environment.setenv("RAY_TMPDIR", folder)
        cluster = Cluster(initialize_head=True, head_node_args=node)
        try:
            yield cluster
        finally:
            cluster.shutdown()


@pytest.fixture(scope="module")
def cluster():
    with ray_cluster(num_cpus=2) as running:
        yield running.address


@pytest.fixture(scope="module")
def workflow(tmp_path_factory):
    """Text-to-image on the miniature, small and in few steps."""
    prompt = json.loads((WORKFLOWS / "api" / "text_to_image.json").read_text())
    for node in prompt.values():
        node["inputs"] |= {"steps": 4} if "steps" in node["inputs"] else {}
        node["inputs"] |= {"width": 64, "height": 64} if "width" in node["inputs"] else {}
    path = tmp_path_factory.mktemp("workflow") / "small.json"
    path.write_text(json.dumps(prompt))
    return path


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    rows = [
        {"Prior.prompt": prompt, "Decoder.seed": seed}
        for prompt in PROMPTS
        for seed in range(JOBS // len(PROMPTS))
    ]
    path = tmp_path_factory.mktemp("table") / "table.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows[:5], BAD, *rows[5:]]))
    return path


@pytest.fixture(scope="module")
def batch(servers, cluster, workflow):
    """Return a function that starts the command on the two servers: arguments → process."""

    def start(output, *arguments, workflow=workflow, **options) -> subprocess.Popen:
        urls = ",".join(server.url for server in servers)
        command = [sys.executable, SCRIPT, workflow, "--output", output, *arguments]
        command += ["--ray", cluster, "--servers", urls]
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True} | options
        options["preexec_fn"] = as_in_a_terminal
        return subprocess.Popen([str(part) for part in command], **options)

    return start


@pytest.fixture(scope="module")
def alone(servers, workflow, table):
    """Return the results of the jobs on a single server: id → pixels."""
    jobs = Jobs(json.loads(workflow.read_text()), [], table)
    made = {}
    for task in map(jobs.task, jobs):
        if task.inputs != BAD:
            file = servers[0].run(task.workflow).images[0]
            made[task.id] = np.asarray(
                Image.open(servers[0].output / file["subfolder"] / file["filename"])
            )
    return made


@pytest.fixture(scope="module")
def finished(batch, servers, table, tmp_path_factory):
    """A whole run in a terminal: (its folder, the terminal's content)."""
    output = tmp_path_factory.mktemp("finished")
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (40, 120))
    shown = []

    def read() -> None:
        try:
            while text := os.read(ours, 4096):
                shown.append(text)
        except OSError:  # the other end was closed
            pass

    reader = threading.Thread(target=read)
    reader.start()
    before = count_finished(servers)
    process = batch(output, "--table", table, stderr=theirs)
    os.close(theirs)
    assert process.wait() == 1  # because of the bad job
    reader.join()
    assert count_finished(servers) - before == JOBS  # none runs twice, and the bad job is refused
    return output, b"".join(shown).decode()


def count_finished(servers) -> int:
    return sum(len(server.get("/history")) for server in servers)


def records(output: Path) -> list[dict]:
    path = output / "manifest.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def wait_for(condition, process=None) -> None:
    while not condition():
        assert process is None or process.poll() is None, process.communicate()[1]
        time.sleep(0.05)


def assert_each_once(output: Path, alone: dict) -> None:
    """Check that each job is in the manifest once, with the files of a single server."""
    made = {record["job"]: record for record in records(output) if not record["error"]}
    assert len(records(output)) == len(alone) + 1 == len({r["job"] for r in records(output)})
    assert made.keys() == alone.keys()
    for job, record in made.items():
        (file,) = record["files"]
        content = (output / file["name"]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == file["sha256"]
        assert np.array_equal(np.asarray(Image.open(output / file["name"])), alone[job])


def test_the_published_weights_are_asked_for(batch, tmp_path):
    """They are not on this computer, so the server refuses the job by their names."""
    process = batch(tmp_path, "--published", workflow=WORKFLOWS / "api" / "text_to_image.json")
    assert process.wait() == 1
    (record,) = records(tmp_path)
    assert "No model named 'kandinsky-2-2-prior'" in record["error"]


def test_every_job_once_and_as_a_single_server_makes_it(finished, alone, servers):
    output, _ = finished
    assert_each_once(output, alone)
    assert {r["server"] for r in records(output) if not r["error"]} == {s.url for s in servers}
    record = next(r for r in records(output) if r["inputs"].get("Decoder.seed") == 7)
    assert record["seed"] == {"Prior.seed": 0, "Decoder.seed": 7} and record["seconds"] > 0


def test_a_job_that_fails_has_the_servers_message(finished):
    output, shown = finished
    (record,) = (record for record in records(output) if record["error"])
    assert record["inputs"] == BAD and record["files"] == []
    assert "sampler_name" in record["error"] and "not in list" in record["error"]
    assert "Value not in list" in shown and "41 jobs were run; 1 of the 41 failed" in shown


def test_bars_for_the_jobs_and_for_each_server(finished, servers):
    _, shown = finished
    assert "/41" in shown and "Decoder" in shown and "4/4" in shown
    assert all(server.url in shown for server in servers)


def test_run_again_only_what_is_missing_runs(batch, finished, table, tmp_path):
    output = shutil.copytree(finished[0], tmp_path / "again")
    process = batch(output, "--table", table)
    assert "0 jobs were run; 1 of the 41 failed" in process.communicate()[1]
    lost = next(record for record in records(output) if not record["error"])
    (output / lost["files"][0]["name"]).unlink()
    process = batch(output, "--table", table, "--retry")
    assert "2 jobs were run; 1 of the 41 failed" in process.communicate()[1]
    assert {record["job"] for record in records(output)[-2:]} == {
        lost["job"],
        next(record["job"] for record in records(output) if record["error"]),
    }


def test_stages_apart_make_the_same_pictures(batch, alone, tmp_path):
    settings = [f"--set=Prior.prompt={prompt}" for prompt in PROMPTS[:2]]
    process = batch(tmp_path, *settings, "--set", "Decoder.seed=0..3", "--stages-apart")
    assert "8 jobs were run; 0 of the 8 failed" in process.communicate()[1]
    assert len(records(tmp_path)) == 8 and len(records(tmp_path / "embeds")) == 2
    for record in records(tmp_path):
        (file,) = record["files"]
        assert np.array_equal(np.asarray(Image.open(tmp_path / file["name"])), alone[record["job"]])
        assert record["seed"].keys() == {"Prior.seed", "Decoder.seed"}


def test_what_the_split_takes_for_embeddings(servers):
    nodes = {name: node for name, node in servers[0].object_info().items() if "22" in name}
    makers = {n for n, node in nodes.items() if "KANDINSKY22_EMBEDS" in node["output"]}
    assert makers == stages.MAKE_EMBEDS
    assert all(set(nodes[name]["output"]) == {"KANDINSKY22_EMBEDS"} for name in makers)


def test_a_server_without_the_nodes_gets_nothing(batch, workflow, servers, tmp_path):
    prompt = json.loads(workflow.read_text())
    prompt["9"] = {"class_type": "Kandinsky22Nothing", "inputs": {}}
    (tmp_path / "other.json").write_text(json.dumps(prompt))
    before = len(servers[0].get("/history"))
    process = batch(tmp_path, workflow=tmp_path / "other.json")
    shown = process.communicate()[1]
    assert process.returncode == 1 and "No server is left" in shown
    for server in servers:
        assert f"{server.url} has no Kandinsky22Nothing: install this pack there" in shown
    assert len(servers[0].get("/history")) == before and not records(tmp_path)


def test_a_client_that_is_killed_and_one_that_is_interrupted(
    batch, table, alone, servers, tmp_path
):
    for server in servers:  # otherwise results of other tests make the run too short
        server.post("/free", {"unload_models": True, "free_memory": True})
    # Then this part is done.
    batch(tmp_path / "first", "--set", "Decoder.seed=100..103").communicate()
    first = batch(tmp_path, "--table", table)
    wait_for(lambda: len(records(tmp_path)) >= 3, first)
    first.kill()
    first.communicate()
    kept = records(tmp_path)
    second = batch(tmp_path, "--table", table)
    wait_for(lambda: len(records(tmp_path)) >= len(kept) + 3, second)
    second.send_signal(signal.SIGINT)
    shown = second.communicate()[1]
    assert second.returncode == 130 and "goes on from here" in shown
    assert f"41 jobs, {len(kept)} of them in" in shown
    wait_for(lambda: not any(any(server.get("/queue").values()) for server in servers))
    third = batch(tmp_path, "--table", table)
    assert f"{41 - len(records(tmp_path))} jobs were run" in third.communicate()[1]
    assert records(tmp_path)[: len(kept)] == kept
    assert_each_once(tmp_path, alone)


def test_a_server_that_stops_answering_is_given_up(batch, servers, tmp_path):
    """It is stopped and not ended, so its connections stay open, and nothing comes over them."""
    process = batch(tmp_path, "--set", "Decoder.seed=1..60", "--patience", "6")
    try:
        wait_for(lambda: servers[1].url in {r["server"] for r in records(tmp_path)}, process)
        servers[1].process.send_signal(signal.SIGSTOP)
        shown = process.communicate()[1]
    finally:
        servers[1].process.send_signal(signal.SIGCONT)
    assert process.returncode == 0 and "60 jobs were run; 0 of the 60 failed" in shown
    assert "goes to the next free server" in shown


def test_a_job_that_somebody_takes_out_of_the_queue(batch, servers, tmp_path):
    server = servers[0]

    def take_one_out() -> bool:
        """Remove the waiting workflow, unless it begins at that moment."""
        waiting = [job[1] for job in server.get("/queue")["queue_pending"]]
        server.post("/queue", {"delete": waiting})
        running = [job[1] for job in server.get("/queue")["queue_running"]]
        return bool(waiting) and waiting[0] not in running + [*server.get("/history")]

    process = batch(tmp_path, "--set", "Decoder.seed=1..20", "--set", "Decoder.steps=100")
    wait_for(take_one_out, process)
    shown = process.communicate()[1]
    assert process.returncode == 1 and "1 of the 20 failed" in shown
    (failed,) = (record for record in records(tmp_path) if record["error"])
    assert failed["error"] == "Somebody took it out of the server's queue."


def test_previews_are_nothing_saved(batch, tmp_path):
    same = {"width": 8, "height": 8, "batch_size": 1, "color": 0}
    prompt = {
        "1": {"class_type": "EmptyImage", "inputs": same},
        "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
    }
    path = tmp_path / "preview.json"
    path.write_text(json.dumps(prompt))
    assert batch(tmp_path, "--set", "1.color=1..2", workflow=path).wait() == 1
    assert {record["error"] for record in records(tmp_path)} == {
        "It only shows previews, which are not kept: save it."
    }


def test_a_started_server_and_ray_embedded(workflow, tmp_path):
    """Without a server or a cluster, both are started, and removed afterwards.

    One of the two pictures is the same in all jobs, and is saved once.
    """
    prompt = json.loads(workflow.read_text())
    prompt["same"] = {
        "class_type": "EmptyImage",
        "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 0},
    }
    prompt["save"] = {
        "class_type": "SaveImage",
        "inputs": {"images": ["same", 0], "filename_prefix": "same"},
    }
    path = tmp_path / "two.json"
    path.write_text(json.dumps(prompt))
    command = [sys.executable, SCRIPT, path, "--set", "Decoder.seed=1..8", "--output", tmp_path]
    command += ["--host", HOST["version"], "--manifest", tmp_path / "manifest.parquet"]
    bases = set(host.cache_folder().glob("batch-*"))
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert "8 jobs were run; 0 of the 8 failed" in done.stderr, done.stderr
    assert (tmp_path / "manifest.parquet").is_file() and len(list(tmp_path.rglob("*.png"))) == 16
    assert set(host.cache_folder().glob("batch-*")) == bases


def test_the_python_of_the_docs(servers, workflow, tmp_path):
    text = (PACK / "docs" / "batch.md").read_text("utf-8")
    program = text.split("```python\n")[1].split("```")[0]
    program = program.replace("http://127.0.0.1:8188", servers[0].url)
    program = program.replace("workflows/api/text_to_image.json", str(workflow))
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True)
    assert Image.open(*tmp_path.glob("*.png")).size == (64, 64)


@pytest.mark.slow
def test_the_benchmark_runs():
    rows = benchmark.run(prompts=1, seeds=3, steps=4, rounds=1)
    assert len(report.table(rows, benchmark.COLUMNS).splitlines()) == 2 + len(rows) == 6
    assert all(row["ratio"] > 0 for row in rows)


@pytest.mark.slow
def test_a_machine_that_fails(workflow, tmp_path):
    """There are two machines with a started server on each. One of them fails."""
    bases = set(host.cache_folder().glob("batch-*"))
    try:
        with ray_cluster(num_cpus=1) as cluster:
            second = cluster.add_node(num_cpus=1, object_store_memory=100_000_000)
            command = [sys.executable, SCRIPT, workflow, "--ray", cluster.address, "--cpus", "1"]
            command += ["--set", "Decoder.seed=1..150", "--output", tmp_path]
            command += ["--host", HOST["version"]]
            process = subprocess.Popen(list(map(str, command)), stderr=subprocess.PIPE, text=True)
            wait_for(lambda: len({record["server"] for record in records(tmp_path)}) == 2, process)
            cluster.remove_node(second, allow_graceful=False)
            assert "150 jobs were run; 0 of the 150 failed" in process.communicate()[1]
    finally:
        for left in set(host.cache_folder().glob("batch-*")) - bases:
            shutil.rmtree(left, ignore_errors=True)  # the machine could not do it
    assert len(records(tmp_path)) == 150 == len({record["job"] for record in records(tmp_path)})


def test_a_server_that_is_killed(batch, servers, table, alone, tmp_path):
    """This test is the last one here, because it ends a server."""
    process = batch(tmp_path, "--table", table, "--patience", "20")
    wait_for(lambda: servers[1].url in {r["server"] for r in records(tmp_path)}, process)
    servers[1].process.kill()
    shown = process.communicate()[1]
    assert "goes to the next free server" in shown and "41 jobs were run; 1 of the 41" in shown
    assert_each_once(tmp_path, alone)
