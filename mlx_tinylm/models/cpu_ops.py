"""Attention and activations built of what MLX's CPU back end does quickly, with gradients by hand.

Without Accelerate, MLX computes exp, tanh and where one number at a time, and each of its functions is a pass over
memory. Where that is slow, these take the place of MLX's operations: fewer passes, all of them vectorised.

Shapes: B batch, H heads, G key-value heads, T time, S stored positions, K head size.
"""

from __future__ import annotations

import functools
import math
import platform
from typing import Any

import mlx.core as mx
import numpy as np
import numpy.typing as npt

# Adding 1.5 * 2^23 to a small float32 leaves its nearest whole number in the lowest bits of the sum; 127 more
# makes that number the exponent of a float32.
_ROUNDER = 12582912.0 + 127
_LOG2_E = math.log2(math.e)
# 2^(f/2) = (e + f) / (e - f) with e = f coth(f ln(2) / 4), which for f in [-0.5, 0.5] is nearly a parabola: these
# two coefficients have the least relative error, 3e-8 of 2^f.
_CURVE, _TOP = 0.05772615, 5.7707825
_GELU_SLOPE = 2 * math.sqrt(2 / math.pi)
_GELU_CUBE = 0.044715
# Below this many numbers a few slow operations beat twenty quick ones.
_FEW = 1 << 14
# Queries in one block of causal attention on a CPU; a block skips the keys that lie behind all its queries.
_BLOCK = 64
# Where these functions are quicker than MLX's own, by `tests/benchmarks/cpu_arithmetic.py`. Macs with Apple silicon
# have Accelerate instead; Linux on Arm has not been measured.
ARCHITECTURES = ("x86_64", "amd64")


def preferred(x: mx.array) -> bool:
    """Whether the functions here take the place of MLX's own for `x`: float32, on a CPU of a listed architecture."""
    listed = platform.machine().lower() in ARCHITECTURES
    return listed and x.dtype == mx.float32 and bool(mx.default_device() == mx.cpu)


def exp2(x: mx.array) -> mx.array:
    """2^x by a few quick operations, for float32 x in [-126, 127]; raises TypeError for another type."""
    if x.dtype != mx.float32:
        raise TypeError(f"exp2 works on the bits of float32, not of {x.dtype}")
    rounded = x + _ROUNDER
    fraction = x - (rounded - _ROUNDER)
    even = fraction * fraction * _CURVE + _TOP
    root = (even + fraction) / (even - fraction)
    return root * root * (rounded.view(mx.int32) << 23).view(mx.float32)


def gelu(x: mx.array) -> mx.array:
    """GELU in its tanh form (Hendrycks and Gimpel 2016, section 2)."""
    if x.size < _FEW:
        return x * mx.sigmoid(_gelu_slope(x) * x)  # 0.5 (1 + tanh z) is sigmoid(2 z)
    return first(_gelu(x))


def silu(x: mx.array) -> mx.array:
    """SiLU, x sigmoid(x) (Elfwing et al. 2017)."""
    if x.size < _FEW:
        return x * mx.sigmoid(x)
    return first(_silu(x))


def first(outputs: Any) -> mx.array:
    """What a custom function returns, without what it keeps for its gradient."""
    y: mx.array = outputs[0]
    return y


@mx.custom_function
def _gelu(x: mx.array) -> tuple[mx.array, mx.array]:
    gate = _sigmoid(_gelu_slope(x, -_LOG2_E) * x)
    return x * gate, gate


@_gelu.vjp
def _gelu_vjp(x: mx.array, gradients: list[mx.array], outputs: list[mx.array]) -> mx.array:
    y, gate = outputs
    return gradients[0] * (gate + y * (1.0 - gate) * _gelu_slope(x, cubes=3))


def _gelu_slope(x: mx.array, scale: float = 1.0, cubes: int = 1) -> mx.array:
    """Where GELU's gate is sigmoid(z): z / x, times `scale`; with three cubes, dz/dx."""
    return scale * _GELU_SLOPE + (cubes * scale * _GELU_SLOPE * _GELU_CUBE) * (x * x)


@mx.custom_function
def _silu(x: mx.array) -> tuple[mx.array, mx.array]:
    gate = _sigmoid(-_LOG2_E * x)
    return x * gate, gate


@_silu.vjp
def _silu_vjp(x: mx.array, gradients: list[mx.array], outputs: list[mx.array]) -> mx.array:
    y, gate = outputs
    return gradients[0] * (gate + y * (1.0 - gate))


def _sigmoid(power: mx.array) -> mx.array:
    """1 / (1 + 2^power)"""
    return 1.0 / (1.0 + exp2(mx.clip(power, -64.0, 64.0)))


def attention(q: mx.array, k: mx.array, v: mx.array, scale: float) -> mx.array:
    """(B, H, T, K), (B, G, S, K), (B, G, S, K) -> (B, H, T, K), causal; see `ops.attention`."""
    if q.shape[1] != k.shape[1]:
        k, v = (mx.repeat(x, q.shape[1] // k.shape[1], axis=1) for x in (k, v))
    # Keys times log2(e), so that the softmax's powers are powers of 2; a product would copy v for each block.
    return first(_causal(q, (scale * _LOG2_E) * k, mx.contiguous(v)))


@mx.custom_function
def _causal(q: mx.array, keys: mx.array, v: mx.array) -> tuple[mx.array, ...]:
    """(B, H, T, K), (B, H, S, K) twice -> softmax(q keys^T, in powers of 2) v, and what its gradient needs.

    That is, for each block of queries, the weights before they are divided by their sum, and the normaliser, 1 / sum.
    Queries are the last axis of weights: MLX reduces over rows faster than along them.
    """
    y, kept = [], []
    for queries, seen in _blocks(q, keys.shape[2]):
        scores = keys[:, :, :seen] @ queries.swapaxes(-1, -2) + mx.array(_hidden(seen, queries.shape[2]))
        weights = exp2(mx.maximum(scores - mx.max(scores, axis=-2, keepdims=True), -64.0))  # (B, H, seen, block)
        normaliser = (1.0 / mx.sum(weights, axis=-2, keepdims=True)).swapaxes(-1, -2)  # (B, H, block, 1)
        y.append(weights.swapaxes(-1, -2) @ v[:, :, :seen] * normaliser)
        kept += [weights, normaliser]
    return mx.concatenate(y, axis=2), *kept


@_causal.vjp
def _causal_vjp(inputs: list[mx.array], gradients: list[mx.array], outputs: list[mx.array]) -> tuple[mx.array, ...]:
    """By hand (Dao et al. 2022, appendix B.2), in fewer passes over the weights than automatic ones would take.

    ln 2 is the slope of 2^x at 0; the normaliser, which makes the kept weights probabilities, multiplies the gradient.
    """
    q, keys, v = inputs
    values = math.log(2) * v
    blocks = _blocks(q, keys.shape[2])
    of_q, of_keys, of_v = [], [], []
    each = zip(blocks, *(_split(x) for x in (outputs[0], gradients[0])), outputs[1::2], outputs[2::2], strict=True)
    for (queries, seen), y, gradient, weights, normaliser in each:
        scaled = gradient * normaliser
        mean = math.log(2) * mx.sum(scaled * y, axis=-1, keepdims=True)
        of_scores = weights * (values[:, :, :seen] @ scaled.swapaxes(-1, -2) - mean.swapaxes(-1, -2))
        of_q.append(of_scores.swapaxes(-1, -2) @ keys[:, :, :seen])
        of_keys.append(of_scores @ queries)
        of_v.append(weights @ scaled)
    return mx.concatenate(of_q, axis=2), _summed(of_keys), _summed(of_v)


def _split(x: mx.array) -> list[mx.array]:
    """(B, H, T, K) -> (B, H, block, K) each"""
    return list(mx.split(x, range(_BLOCK, x.shape[2], _BLOCK), axis=2))


def _blocks(q: mx.array, stored: int) -> list[tuple[mx.array, int]]:
    """The blocks of queries, and how many of the stored keys each one sees."""
    T = q.shape[2]
    ends = [*range(_BLOCK, T, _BLOCK), T]
    return [(queries, stored - T + end) for queries, end in zip(_split(q), ends, strict=True)]


def _summed(parts: list[mx.array]) -> mx.array:
    """(B, H, seen, K) of each block -> their sum (B, H, S, K); a block adds nothing to keys it does not see."""
    sums, start = [], 0
    for first, part in enumerate(parts):
        end = part.shape[2]
        sums.append(functools.reduce(mx.add, [later[:, :, start:end] for later in parts[first:]]))
        start = end
    return mx.concatenate(sums, axis=2)


@functools.lru_cache(maxsize=64)
def _hidden(keys: int, queries: int) -> npt.NDArray[np.float32]:
    """(keys, queries): 0, or very negative where a key lies behind its query. NumPy's, so that no device keeps it."""
    allowed = np.arange(keys)[:, None] <= np.arange(queries) + (keys - queries)
    return np.where(allowed, 0.0, -1e9).astype(np.float32)
