"""The MLX models: what a later id changes, where dropout acts, and the cache by itself."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from conftest import random_tensors

from mlx_tinylm.model_folder.config import GPT2Config, ModelConfig, Qwen3Config, dropout_places
from mlx_tinylm.models.build import build, load_stored
from mlx_tinylm.models.cache import KVCache

CONFIGS: list[ModelConfig] = [
    GPT2Config(vocab_size=13, context=12, width=15, layers=2, heads=3),
    Qwen3Config(vocab_size=13, context=12, width=15, layers=2, heads=6, kv_heads=2, head_dim=10, hidden=23),
]
every_family = pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.family)


def model_of(config: ModelConfig, rate: float = 0.0) -> Any:
    model = build(config, rate)
    load_stored(model, random_tensors(config))
    return model


@every_family
def test_later_ids_leave_earlier_logits_alone(config: ModelConfig) -> None:
    """Ids after a position do not change its logits, and the first id does change the last ones."""
    model = model_of(config)
    ids = np.random.default_rng(0).integers(0, 13, (1, 12))
    before = np.array(model(mx.array(ids)))
    for place in (1, 5, 11):
        changed = ids.copy()
        changed[:, place:] = (changed[:, place:] + 1) % 13
        after = np.array(model(mx.array(changed)))
        np.testing.assert_allclose(after[:, :place], before[:, :place], atol=2e-5, rtol=0)
    ids[0, 0] = (ids[0, 0] + 1) % 13
    assert np.abs(np.array(model(mx.array(ids)))[0, -1] - before[0, -1]).max() > 1e-3


@every_family
def test_dropout_acts_in_every_place(config: ModelConfig) -> None:
    """Each of the 2 x layers + 1 places uses its own key; without keys nothing is dropped."""
    model, plain = model_of(config, 0.5), model_of(config)
    ids = mx.array([[1, 2, 3, 4], [5, 6, 7, 8]])
    keys = np.random.default_rng(0).integers(0, 2**32, (2, dropout_places(config.layers), 2), dtype=np.uint32)
    assert keys.shape[1] == 5
    dropped = np.array(model(ids, None, mx.array(keys)))
    np.testing.assert_array_equal(dropped, np.array(model(ids, None, mx.array(keys))))
    np.testing.assert_array_equal(np.array(model(ids)), np.array(plain(ids)))
    for place in range(5):
        other = keys.copy()
        other[:, place] += 1
        assert not np.allclose(np.array(model(ids, None, mx.array(other))), dropped), place


@every_family
def test_the_window_beside_it_does_not_matter(config: ModelConfig) -> None:
    """A window gives the same logits alone and in a batch, dropout included."""
    model = model_of(config, 0.3)
    ids = mx.array([[1, 2, 3, 4], [5, 6, 7, 8], [2, 2, 2, 2]])
    keys = mx.array(np.random.default_rng(0).integers(0, 2**32, (3, 5, 2), dtype=np.uint32))
    together = np.array(model(ids, None, keys))
    for row in range(3):
        alone = np.array(model(ids[row : row + 1], None, keys[row : row + 1]))
        np.testing.assert_allclose(alone[0], together[row], atol=2e-5, rtol=0)


def test_the_cache_keeps_the_newest() -> None:
    """Slots are filled in turn, only what is filled is handed out, then the oldest is overwritten."""
    cache = KVCache(3)
    stored: list[Any] = []
    for n in range(5):
        keys, values = cache.append(mx.full((1, 1, 1, 2), n), mx.full((1, 1, 1, 2), -n))
        assert mx.array_equal(keys, -values)
        stored.append(keys[0, 0, :, 0].tolist())
    assert stored == [[0], [0, 1], [0, 1, 2], [3, 1, 2], [3, 4, 2]]
    assert cache.position == 5


def test_the_cache_refuses_what_does_not_fit() -> None:
    """Several positions must fit behind those already there; a refused call leaves the cache as it was."""
    cache = KVCache(4)
    cache.append(mx.zeros((1, 1, 3, 2)), mx.zeros((1, 1, 3, 2)))
    with pytest.raises(ValueError, match="2 positions do not fit at 3 of 4"):
        cache.append(mx.zeros((1, 1, 2, 2)), mx.zeros((1, 1, 2, 2)))
    keys, _ = cache.append(mx.ones((1, 1, 1, 2)), mx.ones((1, 1, 1, 2)))
    assert keys[0, 0, :, 0].tolist() == [0, 0, 0, 1]
