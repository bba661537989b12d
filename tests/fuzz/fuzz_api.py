"""Coverage-guided fuzzing of what a page may ask: nothing but an answer or a TinyLMError may come out, and soon.

    pip install atheris
    python tests/fuzz/fuzz_api.py -max_total_time=60 -timeout=20

Options are as in fuzz_folder.py. pytest does not collect this file.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Generator
from pathlib import Path

try:
    import atheris
except ImportError:
    sys.exit("atheris is not installed: pip install atheris")

with atheris.instrument_imports(include=["mlx_tinylm"]):
    from mlx_tinylm.errors import TinyLMError
    from mlx_tinylm.inside.api import Api
    from mlx_tinylm.inside.collection import Collection
    from mlx_tinylm.inside.payload import Payload
    from mlx_tinylm.inside.subject import Subject
    from mlx_tinylm.model_folder.config import Qwen3Config
    from mlx_tinylm.model_folder.tensor_files import read_safetensors
    from mlx_tinylm.run_folder.history import keep

# Only now: what it imports must have been instrumented.
sys.path.insert(0, str(Path(__file__).parents[1]))
from conftest import random_folder
from tiny_models import with_run

CONFIG = Qwen3Config(
    vocab_size=7, context=5, width=4, layers=1, heads=2, kv_heads=1, head_dim=2, hidden=3, eos_ids=(6,)
)
# What makes sense of each; chance alone hardly ever does.
SOUND: dict[str, list[object]] = {
    "text": [' !"', "!!", ' !"' * 40],
    "ids": [[0, 1, 2], [6, 5, 4, 3, 2], [0] * 6],
    "run": ["run"],
    "step": [5, 20],
    "heads_off": [[[0, 0]], [[0, 1], [0, 0]], [[1, 0]]],
    "parts": [["logits"], ["surprise", "ids"], ["attention"]],
    "settings": [{"temperature": 0}, {"top_k": 3, "min_p": 0.1}, {"top_p": 0.5, "repetition_penalty": 2}],
    "seed": [0, 7],
    "tokens": [1, 9],
    "from": [0, 20],
}
ENDPOINTS = ["model", "trace", "write", "surprise", "embedding", "metrics", "held_out"]
KEYS = ["text", "ids", "run", "step", "heads_off", "parts", "settings", "seed", "tokens", "from"]
KEYS += ["temperature", "top_k", "top_p", "min_p", "repetition_penalty"]
TEXTS = [' !"', "run", "logits", "surprise", "attention", "", "\ud800", "é", " " * 50]
NUMBERS = [0, 1, -1, 2, 3, 5, 6, 7, 9, 2**53, 2**63, 10**400, 0.5, -0.0, 1e-320, 1e308, float("nan"), float("inf")]
run = with_run(random_folder(Path(tempfile.mkdtemp(prefix="mlx-tinylm-fuzz-")) / "run", CONFIG))
keep(run, 5, read_safetensors(run / "model.safetensors"))
api = Api(Collection(Subject.open(run, "numpy"), [run]))


def value(chance: atheris.FuzzedDataProvider, depth: int) -> object:
    """Something that JSON can say."""
    kind = chance.ConsumeIntInRange(0, 7 if depth else 4)
    if kind == 0:
        return TEXTS[chance.ConsumeIntInRange(0, len(TEXTS) - 1)]
    if kind == 1:
        return NUMBERS[chance.ConsumeIntInRange(0, len(NUMBERS) - 1)]
    if kind == 2:
        return chance.ConsumeUnicode(8)
    if kind == 3:
        return chance.ConsumeIntInRange(-2, 30)
    if kind == 4:
        return [None, True, False][chance.ConsumeIntInRange(0, 2)]
    if kind == 5:
        return request(chance, depth - 1)
    return [value(chance, depth - 1) for _ in range(chance.ConsumeIntInRange(0, 6))]


def request(chance: atheris.FuzzedDataProvider, depth: int) -> dict[str, object]:
    count = chance.ConsumeIntInRange(0, 4)
    found: dict[str, object] = {}
    for _ in range(count):
        key = KEYS[chance.ConsumeIntInRange(0, len(KEYS) - 1)]
        choices = SOUND.get(key)
        sound = choices and chance.ConsumeProbability() < 0.7
        found[key] = (
            choices[chance.ConsumeIntInRange(0, len(choices) - 1)] if choices and sound else value(chance, depth)
        )
    return found


def one_input(data: bytes) -> None:
    chance = atheris.FuzzedDataProvider(data)
    path = f"/api/{ENDPOINTS[chance.ConsumeIntInRange(0, len(ENDPOINTS) - 1)]}"
    raw = chance.ConsumeProbability() < 0.1
    body = chance.ConsumeBytes(1 << 12) if raw else json.dumps(request(chance, 3)).encode()
    try:
        answer = api.answer(path, body)
        if isinstance(answer, Generator):
            for _, line in zip(range(9), answer, strict=False):
                json.dumps(line, allow_nan=False)
        elif isinstance(answer, bytes):
            assert "ids" in Payload.from_bytes(answer).tensors
        else:
            json.dumps(answer, allow_nan=False)
    except TinyLMError as error:
        if "\n" in str(error):
            raise AssertionError(str(error)) from error


if __name__ == "__main__":
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
