"""Attention, activations and dropout against float64 NumPy and MLX's own functions, values and gradients."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import numpy.typing as npt
import pytest

from mlx_tinylm.models import cpu_ops, ops

Array = npt.NDArray[Any]
Function = Callable[..., mx.array]
# B, H, G, T, S, K: equal heads and shared ones, one query and many, more keys than queries, more than one block.
SHAPES = [
    (1, 1, 1, 1, 1, 2),
    (2, 3, 3, 5, 5, 8),
    (1, 4, 1, 1, 9, 8),
    (1, 2, 2, 3, 9, 4),
    (1, 2, 1, 64, 64, 4),
    (1, 2, 2, 65, 65, 4),
    (1, 2, 1, 130, 150, 4),
    (2, 4, 2, 128, 128, 6),
]
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)
# `ops` chooses by architecture; `cpu_ops` is right wherever the tests run.
every_attention = pytest.mark.parametrize("attention", [ops.attention, cpu_ops.attention], ids=["ops", "cpu_ops"])


def reference(q: Array, k: Array, v: Array, scale: float) -> tuple[Array, Array]:
    """float64 (B, H, T, K), (B, H, S, K) twice -> attention (B, H, T, K) and its weights (B, H, T, S)."""
    T, S = q.shape[2], k.shape[2]
    scores = scale * q @ k.swapaxes(-1, -2)
    scores = np.where(np.arange(S) <= np.arange(T)[:, None] + S - T, scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    return weights @ v, weights


def reference_gradients(q: Array, k: Array, v: Array, scale: float, upstream: Array) -> tuple[Array, ...]:
    """The gradients of `(attention * upstream).sum()`, by hand, in float64."""
    repeats = q.shape[1] // k.shape[1]
    keys, values = np.repeat(k, repeats, axis=1), np.repeat(v, repeats, axis=1)
    _, weights = reference(q, keys, values, scale)
    of_weights = upstream @ values.swapaxes(-1, -2)
    of_scores = weights * (of_weights - (of_weights * weights).sum(-1, keepdims=True))
    of_k, of_v = scale * of_scores.swapaxes(-1, -2) @ q, weights.swapaxes(-1, -2) @ upstream
    B, H, S, K = of_k.shape
    shared = (B, H // repeats, repeats, S, K)
    return scale * of_scores @ keys, of_k.reshape(shared).sum(2), of_v.reshape(shared).sum(2)


def drawn(shape: tuple[int, ...]) -> list[Array]:
    B, H, G, T, S, K = shape
    random = np.random.default_rng(0)
    return [random.standard_normal(size) * 2 for size in ((B, H, T, K), (B, G, S, K), (B, G, S, K))]


def on_mlx(*arrays: Array) -> list[mx.array]:
    return [mx.array(array.astype(np.float32)) for array in arrays]


@every_shape
@every_attention
def test_attention_and_its_gradients(attention: Function, shape: tuple[int, ...]) -> None:
    """Causal attention, heads shared or not, and its gradients equal float64's formulas."""
    q, k, v = drawn(shape)
    scale = shape[-1] ** -0.5
    upstream = np.random.default_rng(9).standard_normal(q.shape)
    repeats = q.shape[1] // k.shape[1]
    expected, _ = reference(q, np.repeat(k, repeats, axis=1), np.repeat(v, repeats, axis=1), scale)
    (y,), gradients = mx.vjp(lambda *arrays: attention(*arrays, scale), on_mlx(q, k, v), on_mlx(upstream))
    assert y.dtype == mx.float32
    np.testing.assert_allclose(np.array(y), expected, atol=3e-6, rtol=3e-6)
    for ours, wanted in zip(gradients, reference_gradients(q, k, v, scale, upstream), strict=True):
        np.testing.assert_allclose(np.array(ours), wanted, atol=2e-5, rtol=0)


@every_attention
def test_no_query_sees_what_comes_later(attention: Function) -> None:
    """Keys and values after a query do not change its result at all, in any block, however large they are."""
    q, k, v = on_mlx(*drawn((1, 2, 2, 70, 70, 4)))
    before = np.array(attention(q, k, v, 0.5))
    for place in (1, 63, 64, 65, 69):
        later = mx.arange(70)[:, None] >= place
        changed = np.array(attention(q, mx.where(later, 30.0, k), mx.where(later, 1e6, v), 0.5))
        assert (changed[:, :, :place] == before[:, :, :place]).all()
        assert not np.allclose(changed[:, :, place:], before[:, :, place:])


@every_attention
def test_attention_to_one_key_among_many(attention: Function) -> None:
    """Scores hundreds apart neither overflow nor leave anything to the smaller ones."""
    q, k, v = (np.zeros((1, 1, 3, 2)) for _ in range(3))
    q[...] = 100.0
    k[0, 0, 0] = 10.0
    v[0, 0] = [[1, 2], [30, 40], [500, 600]]
    np.testing.assert_allclose(np.array(attention(*on_mlx(q, k, v), 1.0))[0, 0], [[1, 2]] * 3, rtol=1e-6)


@every_attention
@pytest.mark.parametrize("T", [3, 70])
@pytest.mark.parametrize("which", [0, 1, 2])
def test_attention_over_what_is_no_number(attention: Function, T: int, which: int) -> None:
    """NaN in a query, key or value reaches the result, so that a run that goes wrong is noticed."""
    arrays = drawn((1, 1, 1, T, T, 2))
    arrays[which][0, 0, 1] = np.nan
    assert np.isnan(np.array(attention(*on_mlx(*arrays), 1.0))[0, 0, 1]).all()


GRID = np.concatenate([np.linspace(-20, 20, 4001), [-1e4, -100, -88, -50, 50, 88, 100, 1e4]]).astype(np.float32)


def float64_gelu(x: Array) -> Array:
    y: Array = 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    return y


def float64_silu(x: Array) -> Array:
    y: Array = x / (1 + np.exp(np.minimum(-x, 700)))
    return y


every_activation = pytest.mark.parametrize(
    ("ours", "exact"),
    [
        pytest.param(ops.gelu, float64_gelu, id="ops.gelu"),
        pytest.param(cpu_ops.gelu, float64_gelu, id="cpu_ops.gelu"),
        pytest.param(ops.silu, float64_silu, id="ops.silu"),
        pytest.param(cpu_ops.silu, float64_silu, id="cpu_ops.silu"),
    ],
)


@every_activation
# Few numbers and many may be computed in different ways; so may shapes.
@pytest.mark.parametrize(("repeats", "shape"), [(1, (-1,)), (1, (19, 211)), (10, (2, 19, -1))], ids=str)
def test_activations_and_their_slopes(ours: Function, exact: Any, repeats: int, shape: tuple[int, ...]) -> None:
    """Each activation equals its formula in float64, its slope the formula's central differences."""
    x = np.tile(GRID, repeats).reshape(shape)
    upstream = np.linspace(0.5, 2, x.size).reshape(x.shape)
    wide, step = x.astype(np.float64), 1e-5
    slopes = (exact(wide + step) - exact(wide - step)) / (2 * step) * upstream
    (y,), (gradient,) = mx.vjp(ours, on_mlx(x), on_mlx(upstream))
    assert (y.shape, y.dtype) == (x.shape, mx.float32)
    np.testing.assert_allclose(np.array(y), exact(wide), atol=1e-6, rtol=1e-6)
    np.testing.assert_allclose(np.array(gradient), slopes, atol=5e-6, rtol=0)


@every_activation
@pytest.mark.parametrize("count", [5, 30_000])
def test_activations_at_their_ends(ours: Function, exact: Any, count: int) -> None:
    """NaN stays NaN and infinity infinity, so that a run that goes wrong is noticed; far left is as good as 0."""
    y = np.array(ours(mx.array(np.tile(np.array([np.nan, np.inf, 1.0, -200.0, 1e30], np.float32), count // 5))))
    assert np.isnan(y[0::5]).all()
    assert (y[1::5] == np.inf).all()
    assert np.isfinite(y[2::5]).all()
    assert (np.abs(y[3::5]) < 1e-16).all()
    np.testing.assert_allclose(y[4::5], 1e30, rtol=1e-6)


def test_exp2() -> None:
    """2^x is right to 4 parts in 10 million, exact at whole x, and does not step down between powers of 2."""
    x = np.linspace(-126, 127, 20_001).astype(np.float32)
    y = np.array(cpu_ops.exp2(mx.array(x))).astype(np.float64)
    assert np.abs(y / np.exp2(x.astype(np.float64)) - 1).max() < 4e-7
    whole = np.arange(-126, 128)
    np.testing.assert_array_equal(np.array(cpu_ops.exp2(mx.array(whole, mx.float32))), np.ldexp(1.0, whole))
    near = np.array(cpu_ops.exp2(mx.array(np.linspace(-3, 3, 100_001).astype(np.float32))))
    assert (np.diff(near) >= -2e-7 * near[1:]).all()
    with pytest.raises(TypeError, match="float32"):
        cpu_ops.exp2(mx.array([1.0], mx.float16))


def test_the_handmade_functions_are_for_float32_on_listed_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another type, a GPU, or an architecture that is not in the table gets MLX's own functions."""
    x = mx.array([1.0])
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    assert cpu_ops.preferred(x)
    assert not cpu_ops.preferred(x.astype(mx.float16))
    monkeypatch.setattr(mx, "default_device", lambda: mx.Device(mx.gpu, 0))
    assert not cpu_ops.preferred(x)
    monkeypatch.undo()
    monkeypatch.setattr("platform.machine", lambda: "arm64")
    assert not cpu_ops.preferred(x)
    q = mx.random.normal((1, 2, 70, 8))
    np.testing.assert_array_equal(
        np.array(ops.attention(q, q, q, 0.3)),
        np.array(mx.fast.scaled_dot_product_attention(q, q, q, scale=0.3, mask="causal")),
    )
    np.testing.assert_array_equal(np.array(ops.gelu(q)), np.array(nn.gelu_approx(q)))
    np.testing.assert_array_equal(np.array(ops.silu(q)), np.array(nn.silu(q)))


@pytest.mark.parametrize("position", [0, 1, 255, 30_000])
def test_rope(position: int) -> None:
    """Pairs half a head apart are turned by position times theta^(-2i / K)."""
    x = np.random.default_rng(0).normal(size=(2, 3, 2, 8)).astype(np.float32)
    angles = (position + np.arange(2))[:, None] * 1e4 ** (-np.arange(4) / 4)
    first, second = x[..., :4], x[..., 4:]
    turned = [first * np.cos(angles) - second * np.sin(angles), second * np.cos(angles) + first * np.sin(angles)]
    tolerance = 1e-6 + 3e-7 * position  # an angle in float32 is that far from the true one
    np.testing.assert_allclose(
        np.array(ops.rope(mx.array(x), position, 1e4)), np.concatenate(turned, -1), atol=tolerance
    )


KEYS = mx.array(np.random.default_rng(3).integers(0, 2**32, (4, 3, 2), dtype=np.uint32))


def test_dropout() -> None:
    """About `rate` of the numbers become 0, the others grow so that the mean stays; without keys nothing changes."""
    x = mx.ones((4, 50, 60))
    y = np.array(ops.dropout(x, KEYS, 1, 0.25))
    assert set(np.unique(y)) == {np.float32(0), np.float32(1) * (1 / 0.75)}
    assert abs((y == 0).mean() - 0.25) < 0.02
    assert ops.dropout(x, None, 1, 0.25) is x


def test_a_window_has_a_mask_of_its_own() -> None:
    """A window's mask depends on its own key at a place: not on its place in a batch, nor on the other windows."""
    x = mx.ones((4, 8, 16))
    whole = np.array(ops.dropout(x, KEYS, 0, 0.5))
    parts = [np.array(ops.dropout(x[part], KEYS[part], 0, 0.5)) for part in (slice(0, 1), slice(1, 4))]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    other = np.array(ops.dropout(x, KEYS, 1, 0.5))
    assert not any(np.array_equal(a, b) for a in whole for b in other)
    assert not np.array_equal(whole[0], whole[1])


@pytest.mark.parametrize("V", [3, 66, 1024, 1025])
def test_the_gradient_of_an_embedding(V: int, tmp_path: Path) -> None:
    """It equals MLX's, and for a small vocabulary nothing is scattered, which no GPU does twice alike."""
    random = np.random.default_rng(0)
    layer = nn.Embedding(V, 8)
    ids = mx.array(random.integers(0, V, (4, 50)))
    upstream = mx.array(random.standard_normal((4, 50, 8)).astype(np.float32))

    def gradient(embed: Callable[[mx.array], mx.array]) -> mx.array:
        def loss(parameters: Any) -> mx.array:
            layer.update(parameters)
            return (embed(ids) * upstream).sum()

        before = layer.parameters()
        found = mx.grad(loss)(before)["weight"]
        layer.update(before)
        return found

    ours, theirs = gradient(lambda ids: ops.embedding(layer, ids)), gradient(layer)
    mx.export_to_dot(str(tmp_path / "graph.dot"), ours)
    assert ("Scatter" in (tmp_path / "graph.dot").read_text()) == (V > ops.SMALL_VOCABULARY)
    np.testing.assert_allclose(np.array(ours), np.array(theirs), atol=1e-5, rtol=1e-5)
    np.testing.assert_array_equal(np.array(ops.embedding(layer, ids)), np.array(layer(ids)))
