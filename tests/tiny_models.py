"""The smallest models of both families that have a layer to spare, for tests to take as they are or to change."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from mlx_tinylm.backend.choose import LanguageModel
from mlx_tinylm.integrity import sealed
from mlx_tinylm.model_folder.config import GPT2Config, ModelConfig, Qwen3Config
from mlx_tinylm.run_folder.settings import TrainConfig

GPT2 = GPT2Config(vocab_size=13, context=8, width=16, layers=2, heads=2, eos_ids=(12,))
QWEN3 = Qwen3Config(
    vocab_size=13, context=8, width=16, layers=2, heads=2, kv_heads=1, head_dim=6, hidden=20, eos_ids=(12,)
)
BOTH: list[ModelConfig] = [GPT2, QWEN3]
every_family = pytest.mark.parametrize("config", BOTH, ids=lambda config: config.family)

# What a run recorded: a text whose name could break out of any markup, and its best step, the 20th.
TEXT = 'my "book" | <b>\n---'
METRICS = '{"step": 10, "val_loss": 2.5}\n{"step": 20, "val_loss": 1.25}\n{"step": 21, "loss": 1}\n'
METRICS += '{"step": 30, "val_loss": 1.5}\n'


def with_run(folder: Path) -> Path:
    """Add to a model folder what a training run leaves there."""
    record = {"settings": TrainConfig().to_json(), "init_from": None, "data": ["/somewhere/book.txt"], "files": {}}
    record |= {"corpus": {"name": TEXT, "sha256": "0" * 64, "characters": 12345}, "versions": {}, "device": "cpu"}
    (folder / "train.json").write_text(sealed(record))
    (folder / "metrics.jsonl").write_text(METRICS)
    (folder / "checkpoints" / "00000030").mkdir(parents=True)
    (folder / ".lock").touch()
    return folder


def brute_force(model: LanguageModel, ids: list[int], context: int) -> float:
    """Each target by itself, in float64, from the logits of what precedes it in its window."""
    losses = []
    for target in range(1, len(ids)):
        start = (target - 1) // context * context
        logits = model.logits(np.array([ids[start:target]]))[0, -1].astype(np.float64)
        losses.append(math.log(np.exp(logits - logits.max()).sum()) + logits.max() - logits[ids[target]])
    return math.fsum(losses) / len(losses)
