"""Any file in place of embeddings gives embeddings, or an error that names it."""

import json
import math
import random
import time
from collections import Counter

import pytest
import torch
from helpers.odd_values import damaged, mutated
from kandinsky22.utils.files.embeds import FILE_FORMAT, load_embeds
from kandinsky22.utils.kandinsky.image_embeds import ImageEmbeds
from safetensors.torch import save

pytestmark = pytest.mark.long

HEADER = {
    "__metadata__": {"format": FILE_FORMAT},
    "image_embeds": {"dtype": "F32", "shape": [2, 24], "data_offsets": [0, 192]},
}
NUMBERS = torch.ones(2, 24).numpy().tobytes()


def odd_file(chance: random.Random) -> bytes:
    """Return a file with any header, or with a valid header for other numbers."""
    if chance.random() < 0.3:
        shape = chance.choice([(2, 24), (24,), (0, 24), (2, 0), (2, 3, 4), ()])
        dtype = chance.choice([torch.float32, torch.float16, torch.int8, torch.bool, torch.float64])
        number = chance.choice([1.0, math.nan, math.inf, 1e300])
        tensor = torch.tensor(number, dtype=torch.float64).to(dtype).expand(shape).contiguous()
        return save({"image_embeds": tensor}, {"format": FILE_FORMAT})
    header = mutated(HEADER, chance) if chance.random() < 0.8 else HEADER
    text = json.dumps(header).encode()
    content = len(text).to_bytes(8, "little") + text + NUMBERS
    return damaged(content, chance) if chance.random() < 0.4 or header is HEADER else content


@pytest.mark.long
def test_any_file(request, tmp_path):
    path = tmp_path / "it.safetensors"
    outcomes = Counter()
    for seed in range(request.config.getoption("--fuzz") or 1500):
        path.write_bytes(odd_file(random.Random(seed)))
        begin = time.process_time()
        try:
            embeds = load_embeds(path)
            assert isinstance(embeds, ImageEmbeds) and embeds.tensor.isfinite().all(), seed
            outcomes["embeddings"] += 1
        except (ValueError, OSError) as error:
            said = str(error)
            assert said.startswith("it.safetensors ") and len(said) < 1000, (seed, said)
            outcomes[" ".join(said.split()[1:4])] += 1
        assert time.process_time() - begin < 5, seed
    print(f"\n{outcomes.total()} files: {dict(outcomes)}")  # noqa: T201 (shown by -s)
    assert {"embeddings", "is damaged or", "does not hold", "cannot be used:"} <= set(outcomes)
