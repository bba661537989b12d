"""Coverage-guided fuzzing of all that reads files a stranger may have made: nothing but TinyLMError may come out.

    pip install atheris
    python tests/fuzz/fuzz_folder.py -max_total_time=60

Other options are libFuzzer's; a folder given as an argument keeps the inputs that reached new code. An input that
fails is written to `crash-...`, and is run again with that file as the argument. pytest does not collect this file.
"""

from __future__ import annotations

import contextlib
import copy
import json
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

try:
    import atheris
except ImportError:
    sys.exit("atheris is not installed: pip install atheris")

with atheris.instrument_imports(include=["mlx_tinylm"]):
    # `load` imports a back end only when it is asked for it.
    import mlx_tinylm.backend.mlx_model
    import mlx_tinylm.backend.numpy_model  # noqa: F401
    from mlx_tinylm import integrity
    from mlx_tinylm.backend.choose import load
    from mlx_tinylm.errors import TinyLMError
    from mlx_tinylm.generation import generate
    from mlx_tinylm.model_folder import folder as weights
    from mlx_tinylm.model_folder.config import GPT2Config, ModelConfig, Quantization, Qwen3Config
    from mlx_tinylm.run_folder.metrics import truncate
    from mlx_tinylm.run_folder.record import RunRecord
    from mlx_tinylm.text import corpus
    from mlx_tinylm.text.tokenizer import Tokenizer

# Only now: what it imports must have been instrumented.
sys.path.insert(0, str(Path(__file__).parents[1]))
from conftest import random_folder

CONFIGS: list[ModelConfig] = [
    GPT2Config(vocab_size=7, context=5, width=4, layers=1, heads=2, eos_ids=(6,)),
    GPT2Config(vocab_size=7, context=5, width=32, layers=1, heads=1, tied=False, quantization=Quantization(4, 32)),
    Qwen3Config(vocab_size=7, context=5, width=4, layers=1, heads=2, kv_heads=1, head_dim=2, hidden=3, eos_ids=(6,)),
]
PROMPT = ' !"'  # in the alphabet of `random_folder`
FILES = ("config.json", "tokenizer.json", "model.safetensors")
work = Path(tempfile.mkdtemp(prefix="mlx-tinylm-fuzz-"))
folders = [random_folder(work / str(number), config) for number, config in enumerate(CONFIGS)]


def whole_folder(data: bytes, name: str, folder: Path, backend: str) -> None:
    """Put `data` in the place of a file of a whole folder and write two characters with the model."""
    kept = (folder / name).read_bytes()
    (folder / name).write_bytes(data)
    try:
        model, tokenizer = load(folder, backend)
        generate(model, tokenizer, PROMPT, max_tokens=8, seed=1)
    finally:
        (folder / name).write_bytes(kept)


HOSTILE = [
    *(None, True, False, 0, 1, -1, 2, 3, 7, 10**9, 2**63, -(2**63), 10**400),
    *(0.5, -0.0, 1e-12, 1e-300, 1e308, float("nan"), float("inf")),
    *("", "x", "gpt2", "qwen3", "BPE", "F64", "BF16", "U32", "\ud800", "../x", "a" * 70_000),
    *([], {}, [0, 0], [0, 10**18], [-1, 2], [[]], {"x": 1}, {"type": "ByteLevel"}, [2**32, 2**32]),
]


def edited_json(data: bytes, name: str, folder: Path, backend: str) -> None:
    """The same with some values of the JSON in a file replaced, removed or renamed: deeper than bytes get."""
    chance = atheris.FuzzedDataProvider(data)
    content = (folder / name).read_bytes()
    length = int.from_bytes(content[:8], "little") + 8 if name == weights.WEIGHTS else len(content)
    tree = [json.loads(content[8:length] if name == weights.WEIGHTS else content)]
    for _ in range(chance.ConsumeIntInRange(1, 4)):
        edit(tree, chance)
    text = json.dumps(tree[0]).encode("utf-8", "surrogatepass")
    if name == weights.WEIGHTS:
        text = len(text).to_bytes(8, "little") + text + content[length:]
    whole_folder(text, name, folder, backend)


def edit(tree: Any, chance: Any) -> None:
    """Change one place of a tree of lists and objects."""
    while True:
        keys = list(tree) if isinstance(tree, dict) else list(range(len(tree)))
        if not keys:
            return
        key = keys[chance.ConsumeIntInRange(0, len(keys) - 1)]
        if not isinstance(tree[key], (dict, list)) or chance.ConsumeProbability() < 0.15:
            break
        tree = tree[key]
    what = chance.ConsumeIntInRange(0, 9)
    if what == 0 and isinstance(tree, dict):
        del tree[key]
    elif what == 1 and isinstance(tree, dict):
        tree[str(HOSTILE[chance.ConsumeIntInRange(0, len(HOSTILE) - 1)])[:99]] = tree.pop(key)
    elif what == 2:
        tree[key] = copy.deepcopy(tree[keys[chance.ConsumeIntInRange(0, len(keys) - 1)]])
    elif what == 3 and isinstance(tree[key], int):
        tree[key] += chance.ConsumeIntInRange(-3, 3)
    else:
        tree[key] = copy.deepcopy(HOSTILE)[chance.ConsumeIntInRange(0, len(HOSTILE) - 1)]


def tokenizer_alone(data: bytes) -> None:
    """A tokenizer that loads reads and writes text."""
    (work / "tokenizer.json").write_bytes(data)
    tokenizer = Tokenizer.load(work)
    detokenizer = tokenizer.detokenizer()
    for id in tokenizer.encode(PROMPT):
        detokenizer.add(id)
    tokenizer.decode(range(min(tokenizer.vocab_size, 9)))


def index(data: bytes) -> None:
    """An index of shards; the only shard there is has another name than the single file would have."""
    folder = work / "sharded"
    if not folder.exists():
        shutil.copytree(folders[0], folder)
        (folder / weights.WEIGHTS).rename(folder / "a.safetensors")
    (folder / weights.INDEX).write_bytes(data)
    weights.open_folder(folder).tensors()


def text(data: bytes, name: str) -> None:
    """A corpus that opens has the characters it says."""
    (work / name).write_bytes(data)
    found = corpus.open_corpus([str(work / name)])
    assert len(found.text()) == found.characters
    assert found.alphabet == "".join(sorted(set(found.text())))


def settings(data: bytes) -> None:
    """The settings of a run, as they are and with a seal that fits."""
    with contextlib.suppress(ValueError, RecursionError):
        content = json.loads(data)
        if isinstance(content, dict):
            content.pop("sha256", None)
            data = integrity.sealed(content).encode("utf-8", "surrogatepass")
    (work / "train.json").write_bytes(data)
    RunRecord.read(work)


def metrics(data: bytes) -> None:
    """Metrics are made whole, whatever they were."""
    (work / "metrics.jsonl").write_bytes(data)
    truncate(work, 5)


TARGETS: list[Callable[[bytes], None]] = [
    *(
        lambda data, act=act, name=name, folder=folder, backend=backend: act(data, name, folder, backend)
        for act in (whole_folder, edited_json)
        for backend in ("numpy", "mlx")
        for folder in folders
        for name in FILES
    ),
    tokenizer_alone,
    index,
    lambda data: text(data, "text.txt"),
    lambda data: text(data, "text.gz"),
    settings,
    metrics,
]


def test_one_input(data: bytes) -> None:
    """The first byte chooses the target, the others are the file."""
    if data:
        with contextlib.suppress(TinyLMError):
            TARGETS[data[0] % len(TARGETS)](data[1:])


def seeds(folder: Path) -> Path:
    """Whole files to begin with; pure chance hardly ever makes JSON."""
    folder.mkdir()
    first = len(TARGETS) - 6
    for number in range(first):
        source = folders[number // len(FILES) % len(folders)] / FILES[number % len(FILES)]
        (folder / str(number)).write_bytes(bytes([number]) + source.read_bytes())
    (folder / "tokenizer").write_bytes(bytes([first]) + (folders[0] / "tokenizer.json").read_bytes())
    (folder / "index").write_bytes(bytes([first + 1]) + b'{"weight_map": {"wte.weight": "a.safetensors"}}')
    (folder / "metrics").write_bytes(bytes([first + 5]) + b'{"step": 1}\n{"step": 6}\n')
    return folder


if __name__ == "__main__":
    one_input = any(Path(argument).is_file() for argument in sys.argv[1:])
    atheris.Setup(sys.argv if one_input else [*sys.argv, str(seeds(work / "seeds"))], test_one_input)
    atheris.Fuzz()
