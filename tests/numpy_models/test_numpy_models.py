"""The NumPy twins by themselves: what each function computes, the cache, causality, float32 throughout."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from conftest import random_tensors
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_tinylm.backend.numpy_model import NumpyModel
from mlx_tinylm.model_folder.config import GPT2Config, ModelConfig, Qwen3Config
from mlx_tinylm.numpy_models.cache import KVCache, attend
from mlx_tinylm.numpy_models.gpt2 import layer_norm, twice_gelu
from mlx_tinylm.numpy_models.qwen3 import rms_norm, rope

GPT2_ODD = GPT2Config(vocab_size=13, context=12, width=15, layers=2, heads=3)
QWEN3_ODD = Qwen3Config(vocab_size=13, context=12, width=15, layers=2, heads=6, kv_heads=2, head_dim=10, hidden=23)
BOTH = [GPT2_ODD, QWEN3_ODD]
# Two orders of summing in float32, logits of size 1 to 5.
TOLERANCE = 2e-5


@st.composite
def small_configs(draw: st.DrawFn) -> ModelConfig:
    """Either family in shapes that share no factor on purpose; see test_parity for why none is smaller."""
    size = st.integers(1, 9)
    shared: dict[str, Any] = {
        "vocab_size": draw(size) + 1,
        "context": draw(st.integers(1, 12)),
        "layers": draw(st.integers(1, 3)),
        "tied": draw(st.booleans()),
    }
    heads = draw(st.integers(1, 4))
    if draw(st.booleans()):
        return GPT2Config(width=heads * draw(st.integers(-(-8 // heads), 9)), heads=heads, **shared)
    return Qwen3Config(
        width=draw(st.integers(8, 17)),
        heads=heads * draw(st.integers(1, 3)),
        kv_heads=heads,
        head_dim=2 * draw(st.integers(2, 5)),
        hidden=draw(size),
        **shared,
    )


def some_ids(config: ModelConfig, T: int, seed: int = 0) -> list[int]:
    ids: list[int] = np.random.default_rng(seed).integers(0, config.vocab_size, T).tolist()
    return ids


def full(model: NumpyModel, ids: list[int]) -> npt.NDArray[np.float32]:
    """(T,) -> (T, V)"""
    logits: npt.NDArray[np.float32] = model.logits(np.array([ids]))[0]
    return logits


@settings(max_examples=60, deadline=None)
@given(small_configs(), st.data())
def test_cached_equals_full(config: ModelConfig, data: st.DataObject) -> None:
    """However the ids are cut into calls, the cache gives the logits of the full forward pass."""
    model = NumpyModel(config, random_tensors(config))
    T = data.draw(st.integers(1, config.context))
    ids = some_ids(config, T)
    cuts = sorted(data.draw(st.sets(st.integers(1, T))) | {T})
    cache = model.new_cache(data.draw(st.integers(T, config.context)))
    expected = full(model, ids)
    for start, end in zip([0, *cuts], cuts, strict=False):
        np.testing.assert_allclose(model.next_logits(ids[start:end], cache), expected[end - 1], atol=TOLERANCE, rtol=0)


@settings(max_examples=60, deadline=None)
@given(small_configs(), st.data())
def test_later_ids_leave_earlier_logits_alone(config: ModelConfig, data: st.DataObject) -> None:
    """Ids after a position do not change its logits."""
    model = NumpyModel(config, random_tensors(config))
    ids = some_ids(config, config.context)
    keep = data.draw(st.integers(1, config.context))
    changed = ids[:keep] + [(id + 1) % config.vocab_size for id in ids[keep:]]
    before, after = full(model, ids), full(model, changed)
    np.testing.assert_allclose(before[:keep], after[:keep], atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("config", BOTH, ids=lambda c: c.family)
def test_earlier_ids_do_change_later_logits(config: ModelConfig) -> None:
    """The last position sees the first: causality does not hold because nothing is seen at all."""
    model = NumpyModel(config, random_tensors(config))
    ids = some_ids(config, config.context)
    changed = [(ids[0] + 1) % config.vocab_size, *ids[1:]]
    assert np.abs(full(model, ids)[-1] - full(model, changed)[-1]).max() > 1e-3


@pytest.mark.parametrize("config", BOTH, ids=lambda c: c.family)
def test_rows_of_a_batch_do_not_mix(config: ModelConfig) -> None:
    """A batch gives each row what the row gives alone, in shape (B, T, V)."""
    model = NumpyModel(config, random_tensors(config))
    rows = [some_ids(config, 7, seed) for seed in range(3)]
    together = model.logits(np.array(rows))
    assert together.shape == (3, 7, config.vocab_size)
    np.testing.assert_array_equal(together, [full(model, row) for row in rows])


def arrays_in(record: object) -> list[npt.NDArray[Any]]:
    if isinstance(record, np.ndarray):
        return [record]
    if isinstance(record, list):
        return [array for item in record for array in arrays_in(item)]
    if dataclasses.is_dataclass(record):
        return [a for field in dataclasses.fields(record) for a in arrays_in(getattr(record, field.name))]
    return []


@pytest.mark.parametrize("config", BOTH, ids=lambda c: c.family)
def test_float32_throughout(config: ModelConfig) -> None:
    """No parameter and no result is ever float64, and parameters lie contiguous in memory."""
    model = NumpyModel(config, random_tensors(config))
    parameters = arrays_in(model.network)
    assert len(parameters) > 10
    assert {array.dtype for array in parameters} == {np.dtype(np.float32)}
    assert all(array.flags.c_contiguous for array in parameters)
    cache = model.new_cache(config.context)
    assert model.network.hidden_states(np.array([1, 2]), cache).dtype == np.float32
    assert model.next_logits([3], cache).dtype == np.float32
    assert model.logits(np.array([[1, 2]])).dtype == np.float32


@pytest.mark.parametrize("config", BOTH, ids=lambda c: c.family)
def test_preparing_leaves_the_stored_tensors_alone(config: ModelConfig) -> None:
    """Folding constants into matrices never writes into the caller's arrays, nor does running the model."""
    tensors = random_tensors(config)
    model = NumpyModel(config, tensors)
    model.next_logits([1, 2, 3], model.new_cache(5))
    for name, expected in random_tensors(config).items():
        np.testing.assert_array_equal(tensors[name], expected, err_msg=name)


def test_qwen3_slides_past_its_capacity() -> None:
    """Past its capacity the newest position takes the place of the oldest, and positions go on rising.

    With one layer that is the full forward pass over the last ids: RoPE knows distances only.
    """
    config = dataclasses.replace(QWEN3_ODD, layers=1)
    model = NumpyModel(config, random_tensors(config))
    ids = some_ids(config, 40)
    cache = model.new_cache(5)
    for end, id in enumerate(ids, start=1):
        logits = model.next_logits([id], cache)
        expected = full(model, ids[max(0, end - 5) : end])[-1]
        np.testing.assert_allclose(logits, expected, atol=TOLERANCE, rtol=0)
    assert cache[0].position == 40


def test_what_does_not_fit_is_refused() -> None:
    """More ids than a cache or a table has room for are an error that leaves the cache usable."""
    qwen3 = NumpyModel(QWEN3_ODD, random_tensors(QWEN3_ODD))
    cache = qwen3.new_cache(4)
    qwen3.next_logits([1, 2, 3], cache)
    with pytest.raises(ValueError, match="2 positions do not fit at 3 of 4"):
        qwen3.next_logits([4, 5], cache)
    assert cache[0].position == 3
    qwen3.next_logits([4], cache)
    gpt2 = NumpyModel(GPT2_ODD, random_tensors(GPT2_ODD))
    for capacity, end in ((4, 4), (12, 12), (50, 12)):  # learned positions end with the cache or the table
        cache = gpt2.new_cache(capacity)
        gpt2.next_logits(some_ids(GPT2_ODD, end), cache)
        with pytest.raises(ValueError, match=f"1 positions do not fit at {end} of {end}"):
            gpt2.next_logits([1], cache)
    with pytest.raises(ValueError, match="13 positions do not fit at 0 of 12"):
        full(gpt2, some_ids(GPT2_ODD, 13))


def test_rope_by_hand() -> None:
    """Position p turns a pair by p times its frequency: a quarter turn takes (x, 0) to (0, x)."""
    frequencies = np.array([math.pi / 2, math.pi / 4], np.float32)
    turns = rope(frequencies, start=2, T=2)  # (T, 1, K / 2)
    assert turns.dtype == np.complex64
    np.testing.assert_allclose(turns[:, 0], [[-1, 1j], [-1j, np.exp(0.75j * math.pi)]], atol=1e-6)


def test_cache_keeps_the_newest() -> None:
    """Slots are filled in turn, only what is filled is handed out, then the oldest is overwritten."""
    cache = KVCache(3, kv_heads=1, head_dim=2, slides=True)
    stored: list[Any] = []
    for n in range(5):
        keys, values = cache.append(np.full((1, 1, 2), n, np.float32), np.full((1, 1, 2), -n, np.float32))
        np.testing.assert_array_equal(keys, -values)
        assert keys.dtype == values.dtype == np.float32
        stored.append(keys[0, :, 0].tolist())
    assert stored == [[0], [0, 1], [0, 1, 2], [3, 1, 2], [3, 4, 2]]


def test_attention_by_hand() -> None:
    """Equal scores average the values seen so far; a large score takes its value alone."""
    v = np.array([[[0, 0], [2, 4], [4, 8]]], np.float32)  # (G, S, K)
    k = np.zeros((1, 3, 2), np.float32)
    q = np.ones((3, 1, 2), np.float32)  # (T, H, K)
    np.testing.assert_allclose(attend(q, k, v), [[0, 0], [1, 2], [2, 4]])
    k[0, 1] = 1000
    np.testing.assert_allclose(attend(q, k, v), [[0, 0], [2, 4], [2, 4]])
    np.testing.assert_allclose(attend(q[-1:], k[:, :1], v[:, 2:]), [[4, 8]])


def test_neighbouring_heads_share_keys_and_values() -> None:
    """Of 4 query heads on 2 key-value heads, the first two read the first and the last two the second."""
    v = np.array([[[1], [2]], [[30], [40]]], np.float32)  # (G, S, K)
    k = np.array([[[50], [-50]], [[50], [-50]]], np.float32)
    q = np.array([[[1], [1], [1], [1]], [[1], [-1], [1], [0]]], np.float32)  # (T, H, K)
    np.testing.assert_allclose(attend(q, k, v), [[1, 1, 30, 30], [1, 2, 30, 35]])


def test_norms_have_eps_inside_the_root() -> None:
    """What a norm returns, times sqrt(D), is (x - mean) / sqrt(variance + eps), without the mean for RMS."""
    x = np.array([[1e-3, 3e-3, -1e-3, 5e-3]], np.float32)
    eps = 1e-5
    exact = x.astype(np.float64)
    rms = exact / np.sqrt((exact**2).mean() + eps)
    np.testing.assert_allclose(rms_norm(x, eps) * 2, rms, rtol=1e-6)
    centred = exact - exact.mean()
    np.testing.assert_allclose(layer_norm(x, eps) * 2, centred / np.sqrt(centred.var() + eps), rtol=1e-6)


def test_gelu_is_the_tanh_form() -> None:
    """Twice GELU is x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))), near GELU's exact form."""
    x = np.array([-1000, -3, -1, -0.1, 0, 0.5, 1, 2, 1000], np.float32)
    tanh_form = [v * (1 + math.tanh(math.sqrt(2 / math.pi) * (v + 0.044715 * v**3))) for v in x.tolist()]
    np.testing.assert_allclose(twice_gelu(x), tanh_form, rtol=1e-5, atol=1e-6)
    exact = [v * (1 + math.erf(v / math.sqrt(2))) for v in x.tolist()]
    assert 1e-5 < np.abs(twice_gelu(x) - exact).max() < 2e-3


@pytest.mark.parametrize("config", BOTH, ids=lambda c: c.family)
@pytest.mark.filterwarnings("error")
def test_damaged_weights_overflow_in_silence(config: ModelConfig) -> None:
    """Weights too large for float32 arithmetic give logits that are not finite, and no warning."""
    tensors = {name: tensor * np.float32(1e30) for name, tensor in random_tensors(config).items()}
    model = NumpyModel(config, tensors)
    assert not np.isfinite(model.next_logits([1, 2], model.new_cache(3))).all()
    assert not np.isfinite(model.logits(np.array([[1, 2]]))).all()
