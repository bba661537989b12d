"""Whether a model answers exactly as is wanted."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from conftest import random_folder
from pair_files import opened, pair, write
from tiny_models import every_family

from mlx_tinylm.answers import exact_answers
from mlx_tinylm.backend.choose import load
from mlx_tinylm.generation import generate
from mlx_tinylm.mean_loss import evaluate
from mlx_tinylm.model_folder.config import ModelConfig
from mlx_tinylm.text.pair_ids import encode_part_of_pairs


@every_family
@pytest.mark.parametrize("backend", ["numpy", "mlx"])
def test_exact_is_what_would_be_written(config: ModelConfig, backend: str, tmp_path: Path, own_cache: Path) -> None:
    """A pair is answered exactly if generating at temperature 0 writes its completion and then ends, and only then.

    Of each prompt there are pairs with what the model writes, with more, with less and with another last character.
    """
    config = dataclasses.replace(config, suppressed=(3,), vocab_size=6, eos_ids=(5,), context=12)
    asked = exact = 0
    for seed in range(8):
        model, tokenizer = load(random_folder(tmp_path / str(seed), config, seed), backend)
        assert tokenizer.alphabet is not None
        records = []
        for prompt in map("".join, np.random.default_rng(seed).choice(list(tokenizer.alphabet), (20, 3))):
            full = generate(model, tokenizer, prompt, temperature=0, max_tokens=9)
            ended = len(full) < 9
            written = full[:8]
            other = written[:-1] + (" " if written[-1:] != " " else "!")
            records += [pair(prompt, text) for text in {written, written[:-1], f"{written[:7]}!", other}]
            exact += ended and len(full) <= 8
        pairs = encode_part_of_pairs(opened(write(tmp_path / "a.jsonl", *records)), tokenizer, "all")
        asked += exact_answers(model, pairs)
    assert asked == exact > 0


@every_family
def test_the_loss_of_completions(config: ModelConfig, tmp_path: Path, own_cache: Path) -> None:
    """Each completion counts as it does alone, whatever pads it and whatever pairs stand beside it."""
    model, tokenizer = load(random_folder(tmp_path / "model", config), "numpy")
    records = [pair(" " * (1 + number % 3), "!#+"[: number % 4]) for number in range(40)]
    pairs = encode_part_of_pairs(opened(write(tmp_path / "a.jsonl", *records)), tokenizer, "all")
    losses: list[float] = []
    for record in records:
        prompt, completion = tokenizer.encode(record["prompt"]), tokenizer.encode(record["completion"])
        ids = [*prompt, *completion, config.eos_ids[0]]
        found = model.losses(np.array([ids[:-1]], np.int32), np.array([ids[1:]], np.int32))[0]
        losses += found[len(prompt) - 1 :].tolist()
    result = evaluate(model, pairs)
    assert result.targets == len(losses) == pairs.targets
    assert result.loss == pytest.approx(np.mean(losses), rel=1e-5)
    assert result.characters == sum(len(record["completion"]) for record in records)
