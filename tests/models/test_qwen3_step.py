"""One position computed by `qwen3_step` against the module it was arranged from."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from conftest import random_tensors

from mlx_tinylm.backend import mlx_model as inference
from mlx_tinylm.backend.mlx_model import MLXModel
from mlx_tinylm.model_folder.config import GPT2Config, ModelConfig, Quantization, Qwen3Config
from mlx_tinylm.models.qwen3_step import Qwen3Step

GROUPED = Qwen3Config(vocab_size=31, context=8, width=24, layers=2, heads=6, kv_heads=2, head_dim=10, hidden=50)


@pytest.mark.parametrize("config", [GROUPED, replace(GROUPED, tied=False, kv_heads=6, norm_eps=1e-2, rope_theta=1e6)])
def test_the_step_equals_the_module(config: Qwen3Config) -> None:
    """From an empty cache to three times past the context, both give the same logits."""
    model = MLXModel.with_tensors(config, random_tensors(config))
    step, cache, other = Qwen3Step(model.module), model.new_cache(8), model.new_cache(8)
    for id in np.random.default_rng(1).integers(0, 31, 24).tolist():
        expected = model.module(mx.array([[id]]), other)[0, -1]
        assert mx.std(expected).item() > 0.1
        np.testing.assert_allclose(np.array(step(id, cache)), np.array(expected), atol=5e-5, rtol=0)


@pytest.mark.parametrize(
    "config",
    [
        replace(GROUPED, width=64, head_dim=32, quantization=Quantization(4, 32)),
        GPT2Config(vocab_size=31, context=8, width=24, layers=2, heads=6),
    ],
    ids=["quantised", "gpt2"],
)
def test_others_go_through_the_module(config: ModelConfig) -> None:
    """Quantised matrices cannot be joined, and gpt2 has no step of its own."""
    tensors = random_tensors(replace(config, quantization=None))
    plain = MLXModel.with_tensors(replace(config, quantization=None), tensors)
    assert (plain.step is None) == (config.family == "gpt2")
    assert MLXModel(inference.build(config)).step is None


def test_single_ids_take_the_step() -> None:
    """One id goes through the step, several go through the module."""
    model = MLXModel.with_tensors(GROUPED, random_tensors(GROUPED))
    asked: list[int] = []

    def step(id: int, cache: Any) -> mx.array:
        asked.append(id)
        return mx.zeros((31,))

    vars(model)["step"] = step
    cache = model.new_cache(8)
    assert mx.any(model.next_logits([5, 6], cache)).item()
    assert not mx.any(model.next_logits([7], cache)).item()
    assert asked == [7]


def test_a_large_model_is_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    """Past a size the module itself computes single positions, with the same result."""
    small, large = (MLXModel.with_tensors(GROUPED, random_tensors(GROUPED)) for _ in range(2))
    assert small.step is not None
    monkeypatch.setattr(inference, "SMALL", 100)
    assert large.step is None
    logits = [np.array(model.next_logits([5], model.new_cache(8))) for model in (large, small)]
    np.testing.assert_allclose(logits[0], logits[1], atol=5e-5, rtol=0)
