"""What scripts/batch.py makes of its arguments, before any server is asked."""

import itertools
import json
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.checkout import PACK, WORKFLOWS

from scripts.batch_runs import stages
from scripts.batch_runs.jobs import Jobs, Task
from scripts.batch_runs.manifest import Manifest
from scripts.batch_runs.session import Todo
from scripts.batch_runs.values import read_values
from scripts.batch_runs.workers import Outcome
from scripts.batch_runs.workflow import (
    content_id,
    fill,
    find_input,
    id_maker,
    read_workflow,
    seeds,
)

API = WORKFLOWS / "api"
NAMES = sorted(path.stem for path in API.glob("*.json"))


@pytest.fixture
def workflow() -> dict:
    return read_workflow(API / "text_to_image.json")


@pytest.mark.parametrize(
    "text, now, values",
    [
        ("1..4", 0, [1, 2, 3, 4]),
        ("5", 0, [5]),
        ("-2..2..2", 0, [-2, 0, 2]),
        ("0.1..0.3..0.1", 4, [0.1, 0.2, 0.3]),
        ("4.5", 4, [4.5]),
        ("18446744073709551615", 0, [2**64 - 1]),
        ("1..4", "a cat", ["1..4"]),
        ('a "red", large = cat', "", ['a "red", large = cat']),
        ("false", True, [False]),
        ('["4", 0]', ["2", 0], [["4", 0]]),
        ("text", ["2", 0], ["text"]),
    ],
)
def test_values(text, now, values):
    found = read_values(text, now, "Node.input")
    assert found == values and [type(v) for v in found] == [type(v) for v in values]


@pytest.mark.parametrize(
    "text, now, message",
    [
        ("4..1", 0, "count upwards"),
        ("1..4..0", 0, "count upwards"),
        ("1..x", 0, "is not a range"),
        ("1..2..3..4", 0, "is not a range"),
        ("red", 0, r"is a number \(now 0\), not 'red'"),
        ("nan", 0.5, "is a number"),
        ("1e999999999", 0, "is a number .now 0., not '1e999999999'"),
        ("1e999999999..1e999999999", 0, "is not a range"),
        ("1" * 5000, 0, "is a number"),
        ("1", True, "true or false"),
    ],
)
def test_values_refused(text, now, message):
    with pytest.raises(ValueError, match=message):
        read_values(text, now, "Node.input")


@pytest.mark.parametrize(
    "name, slot",
    [
        ("Prior.prompt", ("7", "prompt")),
        ("Prior (Kandinsky 2.2).prompt", ("7", "prompt")),
        ("Kandinsky22Prior.prompt", ("7", "prompt")),
        ("7.prompt", ("7", "prompt")),
        ("Load Decoder (Kandinsky 2.2).model_name", ("2", "model_name")),
        ("LoadDecoder.model_name", ("2", "model_name")),
        ("Load Decoder.model_name", ("2", "model_name")),
        ("load decoder.model_name", ("2", "model_name")),
        ("EmptyLatentImage.width", ("8", "width")),
        ("Save Image.filename_prefix", ("5", "filename_prefix")),
    ],
)
def test_a_node_has_several_names(workflow, name, slot):
    assert find_input(workflow, name) == slot


def test_both_halves_of_a_name_may_hold_dots():
    workflow = read_workflow(API / "mix_pictures_and_words.json")
    number, slot = find_input(workflow, "Interpolate (Kandinsky 2.2).count.weight_1")
    assert workflow[number]["class_type"] == "Kandinsky22Interpolate" and slot == "count.weight_1"


@pytest.mark.parametrize(
    "name, message",
    [
        (
            "Decodr.seed",
            "no input 'Decodr.seed'; near it: Decoder.seed.*Its nodes: .*Prior, Empty Latent Image",
        ),
        ("Decoder.sed", "Decoder has no input 'sed'; near it: Decoder.seed.*It has: seed, steps"),
        ("seed", "has no input 'seed'"),
    ],
)
def test_unknown_names_list_the_near_ones(workflow, name, message):
    with pytest.raises(ValueError, match=message):
        find_input(workflow, name)


@pytest.mark.parametrize("title", ["What decodes", "Prior", "デコーダー"])
def test_a_node_with_a_title_of_its_own_keeps_the_name_that_the_docs_have(workflow, title):
    workflow["2"]["_meta"]["title"] = title
    for name in (title, "Load Decoder", "Kandinsky22LoadDecoder", "2"):
        assert find_input(workflow, f"{name}.model_name") == ("2", "model_name")


def test_every_name_in_the_docs_is_found():
    """The names are those in README's table and in the locales, whatever the title is now."""
    names = json.loads((PACK / "locales" / "en" / "nodeDefs.json").read_text("utf-8"))
    for kind, node in names.items():
        name = node["display_name"].removesuffix(" (Kandinsky 2.2)")
        workflow = {"1": {"class_type": kind, "inputs": {"x": 1}, "_meta": {"title": "Other"}}}
        assert find_input(workflow, f"{name}.x") == ("1", "x")


def test_what_is_near_has_that_input(workflow):
    with pytest.raises(ValueError, match="near it: Load Decoder.model_name, Load Prior.model_name"):
        find_input(workflow, "Lode Decoder.model_name")
    with pytest.raises(ValueError, match="Result has no input 'seed'; near it: .*Decoder.seed"):
        find_input(workflow, "Result.seed")


def test_a_name_that_two_nodes_have_is_not_guessed():
    with pytest.raises(ValueError, match="say From.prompt or To.prompt"):
        find_input(read_workflow(API / "morph_as_a_video.json"), "Kandinsky22Prior.prompt")


@pytest.mark.parametrize(
    "content, message",
    [
        (next(WORKFLOWS.glob("*.json")).read_text(), r"choose Export \(API\)"),
        ("Prior.prompt,Decoder.seed\n", "is not a JSON file"),
        ("[]", "no nodes"),
        ('{"prompt": {"4": {}}}', "'prompt' in it has no class_type"),
        ('{"4": {"class_type": "PreviewImage", "inputs": []}}', "'4' in it has no class_type"),
        (
            '{"4": {"class_type": "PreviewImage", "inputs": {"images": ["3", 0]}}}',
            "4.images comes from node '3', which is not in it",
        ),
    ],
)
def test_what_is_not_in_api_form(tmp_path, content, message):
    path = tmp_path / "workflow.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        read_workflow(path)


def test_ranges_make_every_combination(workflow):
    settings = ["Prior.prompt=a", "Decoder.seed=1..3", "Prior.prompt=b, c"]
    jobs = list(Jobs(workflow, settings))
    assert [tuple(job.inputs.values()) for job in jobs] == [
        (prompt, seed) for prompt in ("a", "b, c") for seed in (1, 2, 3)
    ]
    assert len({job.id for job in jobs}) == 6


def test_an_id_is_that_of_what_is_computed(workflow):
    (default,) = Jobs(workflow, [])
    (same,) = Jobs(workflow, ["7.seed=0"])
    (other,) = Jobs(workflow, ["Prior.seed=1"])
    assert same.id == default.id != other.id
    workflow["7"]["_meta"]["title"] = "Another title"
    assert content_id(workflow) == default.id


def test_ids_are_the_same_however_they_are_made(workflow):
    """A run computes ids without making the workflow, because a table may have a million rows."""
    values = [
        "",
        'a "b" \\ \n',
        "müde 🦊",
        "\ud83d",
        0,
        -1,
        2**64,
        0.1,
        1e-7,
        True,
        ["2", 0],
        [1.5],
    ]
    slots = {
        name: find_input(workflow, name) for name in ("Prior.prompt", "Decoder.cfg", "8.width")
    }
    make = id_maker(workflow, slots)
    for first, second in itertools.product(values, values):
        chosen = {"Prior.prompt": first, "Decoder.cfg": second}
        filled = fill(workflow, {slots[name]: value for name, value in chosen.items()})
        assert make(chosen) == content_id(filled)
    assert id_maker(workflow, {})({}) == make({}) == content_id(workflow)


def test_rows_that_are_the_same_are_one_job(workflow, tmp_path):
    (tmp_path / "t.csv").write_text("Prior.prompt\na\nb\na\n")
    jobs = Jobs(workflow, ["Decoder.seed=1..2"], tmp_path / "t.csv")
    assert jobs.count() == 6
    with Manifest(tmp_path / "m.jsonl", tmp_path) as manifest:
        todo = Todo(jobs, manifest)
        left = iter(todo)
        manifest.write(Task(next(left).id, {}), FAILED)
        assert len(list(left)) == 3 and todo.count_passed() == 2
        assert len(todo.ids) == 4 and todo.failed() == 1
        assert len(list(todo)) == 3


def test_no_id_is_made_before_it_is_needed(workflow, tmp_path):
    """No row is kept either, as a table may have more rows than fit into memory."""
    with (tmp_path / "t.csv").open("w") as table:
        table.write("Decoder.seed\n")
        table.writelines(f"{seed}\n" for seed in range(200_000))
    jobs = Jobs(workflow, [], tmp_path / "t.csv")
    tracemalloc.start()
    assert jobs.count() == 200_000 and next(iter(jobs)).inputs == {"Decoder.seed": 0}
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 2_000_000


TABLES = {
    "csv": '\ufeffPrior.prompt,Decoder.seed,Decoder.cfg\n"a red cat, asleep",7,\nb,,2.5\n',
    "jsonl": '{"Prior.prompt": "a red cat, asleep", "Decoder.seed": 7, "Decoder.cfg": null}\n\n'
    '{"Prior.prompt": "b", "Decoder.cfg": 2.5}\n',
}
ROWS = [
    {"Prior.prompt": "a red cat, asleep", "Decoder.seed": 7},
    {"Prior.prompt": "b", "Decoder.cfg": 2.5},
]


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_tables(workflow, tmp_path, kind):
    path = tmp_path / f"table.{kind}"
    if kind == "parquet":  # pandas writes a column of numbers with a gap as floats
        columns = {"Prior.prompt": ["a red cat, asleep", "b"], "Decoder.seed": [7.0, None]}
        pq.write_table(pa.table({**columns, "Decoder.cfg": [None, 2.5]}), path)
    else:
        path.write_text(TABLES[kind], encoding="utf-8")
    assert [job.inputs for job in Jobs(workflow, [], path)] == ROWS
    assert type(next(iter(Jobs(workflow, [], path))).inputs["Decoder.seed"]) is int
    assert len(list(Jobs(workflow, ["Prior.seed=1..3"], path))) == 6


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("t.csv", "Prior.prompt,Colour\na,red\n", "The column 'Colour' of .*t.csv matches nothing"),
        ("t.csv", "Prior.prompt,Decoder.seed\na cat, red,1\n", "line 2: 3 cells under 2 columns"),
        ("t.csv", "4.seed,4.seed\n1,2\n", "has the column '4.seed' twice"),
        ("t.csv", "7.seed,Prior.seed\n1,2\n", "7.seed and Prior.seed are the same input"),
        ("t.csv", "Decoder.seed\nred\n", "Decoder.seed is a number"),
        ("t.csv", "7.seed\n1\n1e999999999\n", "row 2: 7.seed is a number .*'1e999999999'"),
        ("t.jsonl", '{"7.seed": 1e999999999}\n', "row 1: 7.seed is a number .*'inf'"),
        ("t.jsonl", '{"4.seed": ' + "1" * 5000 + "}\n", "line 1: Exceeds the limit"),
        ("t.jsonl", '{"4.seed": ' + "[" * 100_000 + "\n", "line 1: maximum recursion depth"),
        ("t.jsonl", '{"Decoder.sed": 1}\n', "near it: Decoder.seed"),
        ("t.jsonl", '{"Decoder.seed": 1}\n{"Dec', "line 2: "),
        ("t.jsonl", "[1]\n", "line 1 is not an object"),
        ("t.jsonl", '{"Decoder.seed": {"a": 1}}\n', "no text, number or truth value"),
        ("t.xlsx", "", "a table is a .csv, .jsonl or .parquet file"),
    ],
)
def test_tables_refused(workflow, tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        list(Jobs(workflow, [], tmp_path / name))


def test_a_column_that_is_set_too(workflow, tmp_path):
    (tmp_path / "t.csv").write_text("Prior.prompt\na\n")
    with pytest.raises(ValueError, match="are the same input"):
        Jobs(workflow, ["7.prompt=b"], tmp_path / "t.csv")


# --- the manifest ---------------------------------------------------------------------------------

TASK = Task(
    "0123456789abcdef", {}, {"Prior.prompt": "ein Fuchs, müde"}, {"Decoder.seed": 2**64 - 1}
)
MADE = Outcome("http://a", 1.5, (("8", "x_00001_.png", b"picture"), ("9", "y.webp", b"film")))
FAILED = Outcome("http://a", error="Node 8 failed")


def lines(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_manifest_and_files(tmp_path):
    path = tmp_path / "manifest.jsonl"
    with Manifest(path, tmp_path) as manifest:
        manifest.write(TASK, MADE)
        (record,) = lines(path)  # written at once
    assert record["inputs"] == TASK.inputs and record["seed"] == TASK.seed
    assert [file["name"] for file in record["files"]] == [
        "01/0123456789abcdef-0.png",
        "01/0123456789abcdef-1.webp",
    ]
    assert (tmp_path / record["files"][1]["name"]).read_bytes() == b"film"
    assert not list(tmp_path.rglob("*.part"))


def test_a_line_that_was_cut_off_and_a_file_that_is_gone_are_not_done(tmp_path):
    path = tmp_path / "manifest.jsonl"
    names = [f"{i:016x}" for i in range(4)]
    with Manifest(path, tmp_path) as manifest:
        for name in names:
            manifest.write(Task(name, {}), MADE)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 20)
    (tmp_path / "00" / f"{names[1]}-1.webp").unlink()
    with Manifest(path, tmp_path) as manifest:
        assert list(manifest.done) == [names[0], names[2]]
        manifest.write(Task(names[1], {}), MADE)
    assert [record["job"] for record in lines(path)] == [names[0], names[2], names[1]]
    with Manifest(path, tmp_path) as manifest:
        assert list(manifest.done) == [names[0], names[2], names[1]]


def test_cut_off_within_a_letter(tmp_path):
    path = tmp_path / "manifest.jsonl"
    with Manifest(path, tmp_path) as manifest:
        manifest.write(TASK, MADE)
    with path.open("ab") as file:
        file.write('{"job": "1", "inputs": {"Prior.prompt": "ё'.encode()[:-1])
    with Manifest(path, tmp_path) as manifest:
        assert list(manifest.done) == [TASK.id]


def test_what_other_runs_have_written_stays(tmp_path):
    """Other runs may have another output folder, or failed jobs that this run does not repeat."""
    path = tmp_path / "all.jsonl"
    with Manifest(path, tmp_path / "a") as manifest:
        manifest.write(TASK, MADE)
        manifest.write(Task("f" * 16, {}), FAILED)
    before = lines(path)
    with Manifest(path, tmp_path / "b", again=True) as manifest:
        assert not manifest.done
    assert lines(path) == before


def test_half_a_character_and_a_seed_that_is_none(tmp_path):
    """A truncated text has half a character, and some nodes take -1 for any seed."""
    path, task = tmp_path / "m.parquet", Task("f" * 16, {}, {"Prior.prompt": "\ud83d"}, {"a": -1})
    with Manifest(path, tmp_path) as manifest:
        manifest.write(task, Outcome("http://a", error="Not this: \ud83d"))
    (record,) = pq.read_table(path).to_pylist()
    assert json.loads(record["inputs"]) == task.inputs
    assert record["seed"] == [("a", None)] and record["error"] == "Not this: ?"


def test_another_file_is_not_taken_for_a_manifest(tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"Prior.prompt": "a"}\n')
    with pytest.raises(ValueError, match="prompts.jsonl is no manifest: {.Prior.prompt"):
        Manifest(path, tmp_path).__enter__()
    assert path.read_text() == '{"Prior.prompt": "a"}\n'


GOOD_LINE = {
    "job": "a" * 16,
    "inputs": {},
    "seed": {"Decoder.seed": 1},
    "server": "http://a",
    "seconds": None,
    "finished": "2026-01-01T00:00:00.000+00:00",
    "files": [],
    "error": None,
}


@pytest.mark.parametrize(
    "key, value",
    [
        ("job", ["a"]),
        ("job", 7),
        ("inputs", None),
        ("seed", {"Decoder.seed": "one"}),
        ("server", 5),
        ("seconds", "1"),
        ("finished", "soon"),
        ("finished", 5),
        ("files", "x"),
        ("files", [7]),
        ("files", [{"name": 1, "node": "5", "bytes": 1, "sha256": ""}]),
        ("files", [{"name": "x\0", "node": "5", "bytes": 1, "sha256": ""}]),
        ("files", [{"name": "x", "node": "5", "bytes": "1", "sha256": ""}]),
        ("error", {"a": 1}),
    ],
)
def test_a_line_of_wrong_types_is_left_out(tmp_path, key, value):
    path = tmp_path / "m.parquet"
    odd = {**GOOD_LINE, "job": "b" * 16, key: value}
    Path(f"{path}.jsonl").write_text(f"{json.dumps(GOOD_LINE)}\n{json.dumps(odd)}\n")
    with Manifest(path, tmp_path) as manifest:
        assert manifest.odd == [1] and manifest.done == {"a" * 16: None}
    assert lines(Path(f"{path}.jsonl")) == [GOOD_LINE]
    assert len(pq.read_table(path)) == 1


def test_a_manifest_is_read_once_and_written_anew_only_where_a_job_has_two_lines(tmp_path):
    path = tmp_path / "m.jsonl"
    with Manifest(path, tmp_path) as manifest:
        manifest.write(TASK, FAILED)
    number = path.stat().st_ino
    with Manifest(path, tmp_path, again=True) as manifest:
        manifest.write(Task("f" * 16, {}), FAILED)
    assert path.stat().st_ino == number
    with Manifest(path, tmp_path, again=True) as manifest:
        manifest.write(TASK, MADE)
    assert [record["error"] for record in lines(path)] == ["Node 8 failed", None]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a disk that is full")
@pytest.mark.parametrize("what", ["file", "line"])
def test_a_full_disk(tmp_path, what):
    """The error names the disk, what is kept and what to do. Earlier lines stay as they are."""
    path = tmp_path / "m.jsonl"
    with Manifest(path, tmp_path) as manifest:
        manifest.write(TASK, MADE)
    with pytest.raises(OSError, match=f"{tmp_path} is full: .*1 jobs are kept.*Make room"):
        with Manifest(path, tmp_path) as manifest:
            if what == "line":
                manifest.lines.close()
                manifest.lines = open("/dev/full", "w")
            else:
                (tmp_path / "ff").mkdir()
                (tmp_path / "ff" / f"{'f' * 16}-0.png.part").symlink_to("/dev/full")
            manifest.write(Task("f" * 16, {}), MADE)
    assert [record["job"] for record in lines(path)] == [TASK.id]
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.parametrize("again", [False, True])
def test_a_failed_job_is_done_unless_it_is_tried_again(tmp_path, again):
    path = tmp_path / "manifest.jsonl"
    with Manifest(path, tmp_path) as manifest:
        manifest.write(TASK, FAILED)
    with Manifest(path, tmp_path, again) as manifest:
        assert manifest.done == ({} if again else {TASK.id: "Node 8 failed"})


def test_two_runs_cannot_write_one_manifest(tmp_path):
    with Manifest(tmp_path / "m.jsonl", tmp_path):
        with pytest.raises(ValueError, match="Another run writes"):
            with Manifest(tmp_path / "m.jsonl", tmp_path):
                pass


def test_parquet(tmp_path):
    path = tmp_path / "m.parquet"
    with Manifest(path, tmp_path) as manifest:
        manifest.write(TASK, MADE)
        manifest.write(Task("f" * 16, {}), FAILED)
    made, failed = pq.read_table(path).to_pylist()
    assert json.loads(made["inputs"]) == TASK.inputs and made["seed"] == [
        ("Decoder.seed", 2**64 - 1)
    ]
    assert made["files"][0]["bytes"] == len(b"picture") and made["error"] is None
    assert failed["error"] == "Node 8 failed" and failed["seconds"] is None
    with Manifest(path, tmp_path) as manifest:
        assert len(manifest.done) == 2


# --- stages apart ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_split(name):
    """The second part makes no embeddings, the first has no decoder, and all wires have ends."""
    workflow = read_workflow(API / f"{name}.json")
    halves = stages.split(workflow)
    decode = halves.decode_from(dict.fromkeys(halves.wires, "batch/x.safetensors"))
    kinds = [{node["class_type"] for node in half.values()} for half in (halves.prior, decode)]
    assert stages.SAVE in kinds[0] and not {"VAEDecode", "VAEDecodeTiled", "SaveImage"} & kinds[0]
    assert kinds[1] & stages.MAKE_EMBEDS == {stages.LOAD} and "Kandinsky22LoadPrior" not in kinds[1]
    for half in (halves.prior, decode):
        assert stages.sources(half.values()) <= set(half)
    outputs = {n for n in workflow if n not in stages.sources(workflow.values())}
    assert outputs <= set(decode)
    assert seeds(workflow).keys() == seeds({**decode, **halves.prior}).keys()


def test_a_workflow_without_embeddings_is_not_split():
    workflow = {"1": {"class_type": "EmptyImage", "inputs": {}}}
    with pytest.raises(ValueError, match="Nothing in this workflow decodes"):
        stages.split(workflow)
