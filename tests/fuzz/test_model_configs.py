"""With any JSON files in a model folder, the model runs, or an error names the folder.

Every key of every JSON file of every component gets invalid values. A few cases run with the other
tests. `pytest tests/fuzz/test_model_configs.py --fuzz 5000` runs all of them.
"""

import json
import random
import resource
import shutil
import time

import psutil
import pytest
import torch
from helpers.decoding_stages import decode
from helpers.tiny_models import PRIOR, TEXT_TO_IMAGE
from kandinsky22.nodes.depth_hint import DepthHint
from kandinsky22.nodes.loaders import LoadDecoder, LoadDepthEstimator, LoadPrior

pytestmark = pytest.mark.long

SECONDS, BYTES = 5, 2**30  # for each case
RAW = "raw:"  # a text that is written as it is, whether it is JSON or not
VALUES = (
    *(None, "x", "", -1, 0, 3, 10**9, 10**400, 0.5, True, [], {}, [None], [10**9], {"a": {"a": 5}}),
    *(RAW + text for text in ("NaN", "-Infinity", "1e999", "[" * 5000, '{"a":' * 5000)),
)
# These are tables of words, or files that this pack keeps itself.
TABLES = ("vocab.json", "tokenizer.json", "special_tokens_map.json", "zero_image_embeds.json")
PICTURE = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(0))


def run_prior(name, embeds):
    prior = LoadPrior.execute(name, "default").args[0]
    prior.sample("a red cat", "", 7, 2, 4.0)
    prior.encode_image(PICTURE)


def run_decoder(name, embeds):
    model, vae = LoadDecoder.execute(name, "default").args
    vae.decode(decode(model, embeds(1, 1), embeds(1, 2), steps=2))


def run_depth(name, embeds):
    DepthHint.execute(LoadDepthEstimator.execute(name).args[0], PICTURE)


MODELS = {
    PRIOR: run_prior,
    TEXT_TO_IMAGE: run_decoder,
    "tiny-glpn": run_depth,
    "tiny-dpt": run_depth,
    "tiny-depth-anything": run_depth,
}


def keys_of(value, path=()):
    """Yield the path of every key and item in a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, part in items if isinstance(value, dict | list) else ():
        yield (*path, key)
        if isinstance(part, dict | list):
            yield from keys_of(part, (*path, key))


def with_value(content, path, value):
    content = json.loads(json.dumps(content))
    place = content
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    text = json.dumps(content)
    raw = isinstance(value, str) and value.startswith(RAW)
    return text.replace(json.dumps(value), value.removeprefix(RAW)) if raw else text


def all_cases(folder):
    for name in MODELS:
        for file in sorted((folder / name).rglob("*.json")):
            if file.name not in TABLES:
                for path in keys_of(json.loads(file.read_text())):
                    for value in VALUES:
                        yield name, file.relative_to(folder / name), path, value


@pytest.fixture
def within_bounds():
    """Limit the process's memory to what a case may add, and restore the limit."""
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + BYTES, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, limits)


def test_odd_configs(models, embeds, request, nothing_shared, within_bounds, capsys):
    broken = {name: shutil.copytree(models / name, models / f"odd-{name}") for name in MODELS}
    cases = list(all_cases(models))
    count = request.config.getoption("fuzz") or 60
    chosen = random.Random(0 if count == 60 else None).sample(cases, min(count, len(cases)))
    outcomes, faults = {"runs": 0, "refused": 0}, []
    try:
        for name, file, path, value in chosen:
            place = broken[name] / file
            before = place.read_text()
            place.write_text(with_value(json.loads(before), path, value))
            start = time.process_time()
            try:
                MODELS[name](f"odd-{name}", embeds)
                outcomes["runs"] += 1
            except Exception as error:
                outcomes["refused"] += 1
                # A factor of 0 is a valid number, and divides by zero only where it is used.
                named = f"odd-{name}" in str(error) or "came out with NaN" in str(error)
                in_words = isinstance(error, ValueError | OSError) and named
                if not in_words or "allocate" in str(error):
                    faults.append(f"{name} {file} {path} {value!r:.60}: {error!r:.500}")
            finally:
                place.write_text(before)
            if time.process_time() - start > SECONDS:
                faults.append(
                    f"{name} {file} {path} {value!r:.60}: {time.process_time() - start} s"
                )
    finally:
        for folder in broken.values():
            shutil.rmtree(folder)
    with capsys.disabled():
        print(f"\n{len(chosen)} of {len(cases)} odd configs: {outcomes}")
    assert not faults, "\n".join(faults)
    assert all(outcomes.values())
