"""Attention and activations against MLX's own functions and float64 NumPy, values and gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import numpy.typing as npt
import pytest

from mlx_tinylm.models.ops import attention, exp2, gelu, normed, rope, silu

Array = npt.NDArray[Any]
# B, H, G, T, S, K: equal heads and shared ones, one query and many, more keys than queries, more than one block.
SHAPES = [
    (1, 1, 1, 1, 1, 2),
    (2, 3, 3, 5, 5, 8),
    (2, 4, 2, 7, 7, 6),
    (1, 4, 1, 1, 9, 8),
    (1, 2, 2, 3, 9, 4),
    (1, 2, 1, 64, 64, 4),
    (1, 2, 2, 65, 65, 4),
    (1, 2, 1, 130, 150, 4),
    (2, 4, 2, 128, 128, 6),
]
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)


def reference(q: Array, k: Array, v: Array, scale: float) -> tuple[Array, Array]:
    """float64 (B, H, T, K), (B, G, S, K) twice -> attention (B, H, T, K) and its weights (B, H, T, S)."""
    k, v = (np.repeat(x, q.shape[1] // x.shape[1], axis=1) for x in (k, v))
    T, S = q.shape[2], k.shape[2]
    scores = scale * q @ k.swapaxes(-1, -2)
    scores = np.where(np.arange(S) <= np.arange(T)[:, None] + S - T, scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    return weights @ v, weights


def reference_gradients(q: Array, k: Array, v: Array, scale: float, upstream: Array) -> tuple[Array, ...]:
    """The gradients of `(attention * upstream).sum()`, by hand, in float64."""
    _, weights = reference(q, k, v, scale)
    repeats = q.shape[1] // k.shape[1]
    values, keys = np.repeat(v, repeats, axis=1), np.repeat(k, repeats, axis=1)
    of_weights = upstream @ values.swapaxes(-1, -2)
    of_scores = weights * (of_weights - (of_weights * weights).sum(-1, keepdims=True))
    of_q = scale * of_scores @ keys
    of_k, of_v = scale * of_scores.swapaxes(-1, -2) @ q, weights.swapaxes(-1, -2) @ upstream
    B, H, S, K = of_k.shape
    shared = (B, H // repeats, repeats, S, K)
    return of_q, of_k.reshape(shared).sum(2), of_v.reshape(shared).sum(2)


def drawn(shape: tuple[int, ...], seed: int = 0) -> tuple[Array, Array, Array]:
    B, H, G, T, S, K = shape
    random = np.random.default_rng(seed)
    return tuple(random.standard_normal(size) * 2 for size in ((B, H, T, K), (B, G, S, K), (B, G, S, K)))  # type: ignore[return-value]


def on_mlx(*arrays: Array) -> list[mx.array]:
    return [mx.array(array.astype(np.float32)) for array in arrays]


@every_shape
def test_attention(shape: tuple[int, ...]) -> None:
    """Causal attention, heads shared or not, equals the float64 formula and MLX's fused operation."""
    q, k, v = drawn(shape)
    scale = shape[-1] ** -0.5
    expected, _ = reference(q, k, v, scale)
    ours = np.array(attention(*on_mlx(q, k, v), scale))
    fused = np.array(mx.fast.scaled_dot_product_attention(*on_mlx(q, k, v), scale=scale, mask="causal"))
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, expected, atol=3e-6, rtol=3e-6)
    np.testing.assert_allclose(ours, fused, atol=5e-6, rtol=3e-6)


@every_shape
def test_attention_gradients(shape: tuple[int, ...]) -> None:
    """The gradients of queries, keys and values equal those by hand and those MLX finds for its own operation."""
    q, k, v = drawn(shape)
    scale = shape[-1] ** -0.5
    upstream = np.random.default_rng(9).standard_normal(q.shape)
    expected = reference_gradients(q, k, v, scale, upstream)

    def fused(*arrays: mx.array) -> mx.array:
        return mx.fast.scaled_dot_product_attention(*arrays, scale=scale, mask="causal")

    _, ours = mx.vjp(lambda *arrays: attention(*arrays, scale), on_mlx(q, k, v), on_mlx(upstream))
    _, theirs = mx.vjp(fused, on_mlx(q, k, v), on_mlx(upstream))
    for mine, wanted, other in zip(ours, expected, theirs, strict=True):
        np.testing.assert_allclose(np.array(mine), wanted, atol=2e-5, rtol=0)
        np.testing.assert_allclose(np.array(mine), np.array(other), atol=4e-5, rtol=0)


def test_no_query_sees_what_comes_later() -> None:
    """Keys and values after a query do not change its result at all, in any block, however large they are."""
    q, k, v = on_mlx(*drawn((1, 2, 2, 70, 70, 4)))
    before = np.array(attention(q, k, v, 0.5))
    for place in (1, 63, 64, 65, 69):
        later = mx.arange(70)[:, None] >= place
        changed = np.array(attention(q, mx.where(later, 30.0, k), mx.where(later, 1e6, v), 0.5))
        assert (changed[:, :, :place] == before[:, :, :place]).all()
        assert not np.allclose(changed[:, :, place:], before[:, :, place:])


def test_attention_to_one_key_among_many() -> None:
    """Scores hundreds apart neither overflow nor leave anything to the smaller ones."""
    q, k, v = (np.zeros((1, 1, 3, 2)) for _ in range(3))
    q[...] = 100.0
    k[0, 0, 0] = 10.0
    v[0, 0] = [[1, 2], [30, 40], [500, 600]]
    np.testing.assert_allclose(np.array(attention(*on_mlx(q, k, v), 1.0))[0, 0], [[1, 2]] * 3, rtol=1e-6)


GRID = np.concatenate([np.linspace(-20, 20, 4001), [-1e4, -100, -88, -50, 50, 88, 100, 1e4]]).astype(np.float32)


def float64_gelu(x: Array) -> Array:
    y: Array = 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    return y


def float64_silu(x: Array) -> Array:
    y: Array = x / (1 + np.exp(np.minimum(-x, 700)))
    return y


ACTIVATIONS: list[Any] = [(gelu, nn.gelu_approx, float64_gelu), (silu, nn.silu, float64_silu)]
every_activation = pytest.mark.parametrize(("ours", "theirs", "exact"), ACTIVATIONS, ids=["gelu", "silu"])
Function = Callable[[mx.array], mx.array]
# Few numbers and many may take different roads; so may shapes.
every_size = pytest.mark.parametrize(
    ("repeats", "shape"), [(1, (-1,)), (1, (19, 211)), (10, (2, 19, -1)), (10, (-1,))], ids=str
)


@every_activation
@every_size
def test_activations(ours: Function, theirs: Function, exact: Any, repeats: int, shape: tuple[int, ...]) -> None:
    """Each activation equals its formula in float64 and MLX's own function, from far left to far right."""
    x = np.tile(GRID, repeats).reshape(shape)
    y = np.array(ours(mx.array(x)))
    assert y.shape == x.shape
    assert y.dtype == np.float32
    np.testing.assert_allclose(y, exact(x.astype(np.float64)), atol=1e-6, rtol=1e-6)
    np.testing.assert_allclose(y, np.array(theirs(mx.array(x))), atol=2e-6, rtol=2e-6)


@every_activation
@pytest.mark.parametrize("repeats", [1, 10])
def test_activation_gradients(ours: Function, theirs: Function, exact: Any, repeats: int) -> None:
    """Their slopes equal central differences of the formula, and those MLX finds for its own function."""
    x = np.tile(GRID, repeats)
    upstream = np.linspace(0.5, 2, x.size)
    step = 1e-5
    wide = x.astype(np.float64)
    slopes = (exact(wide + step) - exact(wide - step)) / (2 * step) * upstream
    (mine,), (other,) = (mx.vjp(f, on_mlx(x), on_mlx(upstream))[1] for f in (ours, theirs))
    np.testing.assert_allclose(np.array(mine), slopes, atol=5e-6, rtol=0)
    np.testing.assert_allclose(np.array(mine), np.array(other), atol=5e-6, rtol=0)


@every_activation
@pytest.mark.parametrize("count", [3, 30_000])
def test_activations_of_what_is_no_number(ours: Function, theirs: Function, exact: Any, count: int) -> None:
    """NaN stays NaN and infinity infinity, so that a run that goes wrong is noticed."""
    y = np.array(ours(mx.array(np.tile(np.array([np.nan, np.inf, 1.0], np.float32), count // 3))))
    assert np.isnan(y[0::3]).all()
    assert (y[1::3] == np.inf).all()
    assert np.isfinite(y[2::3]).all()


@pytest.mark.parametrize("shape", [(1, 1, 1, 3, 3, 2), (1, 1, 1, 70, 70, 2)], ids=str)
@pytest.mark.parametrize("which", [0, 1, 2])
def test_attention_over_what_is_no_number(shape: tuple[int, ...], which: int) -> None:
    """NaN in a query, key or value reaches the result, so that a run that goes wrong is noticed."""
    arrays = drawn(shape)
    arrays[which][0, 0, 1] = np.nan
    assert np.isnan(np.array(attention(*on_mlx(*arrays), 1.0))[0, 0, 1]).all()


def test_exp2() -> None:
    """2^x is right to 4 parts in 10 million wherever float32 has normal numbers for it, and exact at whole x."""
    x = np.linspace(-126, 127, 20_001).astype(np.float32)
    y = np.array(exp2(mx.array(x))).astype(np.float64)
    assert np.abs(y / np.exp2(x.astype(np.float64)) - 1).max() < 4e-7
    whole = np.arange(-126, 128).astype(np.float32)
    np.testing.assert_array_equal(np.array(exp2(mx.array(whole))), np.exp2(whole))


def test_exp2_never_falls() -> None:
    """2^x does not step down at the border between two powers of 2."""
    x = np.linspace(-3, 3, 100_001).astype(np.float32)
    y = np.array(exp2(mx.array(x)))
    assert (np.diff(y) >= -2e-7 * y[1:]).all()


@pytest.mark.parametrize("shape", [(4,), (5000, 4)])
def test_silu_at_its_ends(shape: tuple[int, ...]) -> None:
    """Far left SiLU is as good as 0 and far right as good as x, never NaN."""
    ends = np.broadcast_to(np.array([-1e30, -200, 200, 1e30], np.float32), shape)
    y = np.array(silu(mx.array(ends)))
    assert (np.abs(y[..., 1]) < 1e-30).all()
    assert (np.abs(y[..., 0]) < 1).all()
    np.testing.assert_allclose(y[..., 2:], ends[..., 2:])


@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize("eps", [1e-6, 0.3])
def test_normed(rows: int, eps: float) -> None:
    """Rows large, small, zero and no number are normed as the formula says, and as MLX's fused operation norms them."""
    drawn = np.random.default_rng(0).normal(size=(rows, 24)).astype(np.float32)
    for size in (1.0, 1e-3, 1e3, 0.0, np.nan):
        x = drawn * np.float32(size)
        y = np.array(normed(mx.array(x), eps))
        expected = x / np.sqrt((x.astype(np.float64) ** 2).mean(-1, keepdims=True) + eps)
        np.testing.assert_allclose(y, expected, rtol=2e-6)
        np.testing.assert_allclose(y, np.array(mx.fast.rms_norm(mx.array(x), None, eps)), rtol=2e-6)


@pytest.mark.parametrize("position", [0, 1, 255, 30_000])
@pytest.mark.parametrize("theta", [10_000.0, 1e6])
def test_rope_of_one_position(position: int, theta: float) -> None:
    """A single position is turned as the formula says, and as MLX's fused operation turns it."""
    x = np.random.default_rng(0).normal(size=(2, 3, 1, 8)).astype(np.float32)
    angles = position * theta ** (-np.arange(4) / 4)
    first, second = x[..., :4], x[..., 4:]
    turned = [first * np.cos(angles) - second * np.sin(angles), second * np.cos(angles) + first * np.sin(angles)]
    ours = np.array(rope(mx.array(x), position, theta))
    tolerance = 1e-6 + 3e-7 * position  # an angle in float32 is that far from the true one
    np.testing.assert_allclose(ours, np.concatenate(turned, -1), atol=tolerance)
    fused = mx.fast.rope(mx.array(x), 8, traditional=False, base=theta, scale=1.0, offset=position)
    np.testing.assert_allclose(ours, np.array(fused), atol=tolerance)
