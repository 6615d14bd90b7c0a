"""Any listing and any answer of a hub give the model, or an error that names it.

The next download from a correct hub then works.
"""

import json
import random
import time
from collections import Counter

import pytest
from helpers.odd_values import damaged, mutated
from helpers.published_models import TINY, TINY_FILES, files_in
from kandinsky22.utils.download.background import download

STATUS = [200, 200, 200, 206, 206, 204, 301, 302, 304, 404, 416, 429, 503]
HEADERS = {
    "Content-Range": ["bytes 0-9/10", "bytes 99-", "bytes x", "", "bytes 99999999999999999999-"],
    "Content-Encoding": ["gzip", "identity", "deflate", "x"],
    "Location": ["", "/api/models/a/b/revision/c", "http://[", "//", "file:///etc/passwd", "\x7f"],
    "Content-Length": ["0", "5"],
}


def odd_answer(chance: random.Random, whole: bool):
    """Return an odd answer. `whole`: only the listing is odd, and it is JSON."""

    def answer(content, _):
        if whole:
            listed = mutated(json.loads(content), chance)
            return 200, json.dumps(listed).encode(), {}
        names = chance.sample(sorted(HEADERS), chance.randint(0, 2))
        body = damaged(content, chance) if chance.random() < 0.7 else content
        headers = {name: chance.choice(HEADERS[name]) for name in names}
        return chance.choice(STATUS), body, headers

    return answer


@pytest.mark.long
def test_any_hub(request, tiny_hub, tmp_path):
    outcomes, root = Counter(), tmp_path / "models"

    def get() -> str:
        return download(TINY, root, "fp32", lambda progress: None)

    def check_and_remove():
        found = files_in(root / TINY.name)
        assert found.pop("download.json") and found == TINY_FILES, seed
        (root / TINY.name).rename(tmp_path / f"done-{seed}-{len(outcomes)}")

    for seed in range(request.config.getoption("--fuzz") or 100):
        chance = random.Random(seed)
        place = chance.choice(["", "", *TINY_FILES])
        tiny_hub.answers = {place: odd_answer(chance, not place and chance.random() < 0.8)}
        begin = time.process_time()
        try:
            get()
            outcomes["the model"] += 1
        except (ValueError, OSError) as error:
            said = str(error)
            assert TINY.id in said or str(root) in said, (seed, said)
            assert len(said) < 2000, seed
            outcomes[type(error).__name__] += 1
        assert time.process_time() - begin < 5, seed
        if not (root / TINY.name).exists() and seed % 4 == 0:  # otherwise resume from what is there
            tiny_hub.answers.clear()
            get()
        if (root / TINY.name).exists():
            check_and_remove()
        assert {p.name for p in tmp_path.iterdir() if "done" not in p.name} <= {"models"}, seed
    print(f"\n{outcomes.total()} answers: {dict(outcomes)}")  # noqa: T201 (shown by -s)
    assert outcomes["the model"] and outcomes["ValueError"] and outcomes["ConnectionError"]
