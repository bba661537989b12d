"""Attention and activations, each in the form that is fastest on the device at hand.

On a GPU they are MLX's own fused operations. MLX's CPU back end for x86 computes exp, tanh and where one number
at a time (20 ns each here, a multiplication takes 0.5), so on a CPU the same functions are built from its quick
operations. Both forms agree to float32 rounding; a test compares them and their gradients.

Shapes: B batch, H heads, G key-value heads, T time, S stored positions, K head size.
"""

from __future__ import annotations

import functools
import math

import mlx.core as mx
import mlx.nn as nn
import numpy as np

# Adding 1.5 * 2^23 to a small float32 leaves its nearest whole number in the lowest bits of the sum; 127 more
# makes that number the exponent of a float32.
_ROUNDER = 12582912.0 + 127
_LOG2_E = math.log2(math.e)
# 2^(f/2) = (e + f) / (e - f) with e = f coth(f ln(2) / 4), which for f in [-0.5, 0.5] is nearly a parabola: these
# two coefficients have the least relative error, 3e-8 of 2^f.
_CURVE, _TOP = 0.05772615, 5.7707825
_GELU_SLOPE = 2 * math.sqrt(2 / math.pi)
_GELU_CUBE = 0.044715
# Below this many numbers one slow operation beats twenty quick ones.
_FEW = 1 << 14
# Queries in one block of causal attention on a CPU; a block skips the keys that lie behind all its queries.
_BLOCK = 64


def on_cpu() -> bool:
    """Whether MLX computes on a CPU by default."""
    return bool(mx.default_device() == mx.cpu)


def exp2(x: mx.array) -> mx.array:
    """2^x by a few quick operations, for float32 x in [-126, 127]."""
    rounded = x + _ROUNDER
    fraction = x - (rounded - _ROUNDER)
    even = fraction * fraction * _CURVE + _TOP
    root = (even + fraction) / (even - fraction)
    return root * root * (rounded.view(mx.int32) << 23).view(mx.float32)


def gelu(x: mx.array) -> mx.array:
    """GELU in its tanh form (Hendrycks and Gimpel 2016, section 2)."""
    if not on_cpu():
        return nn.gelu_approx(x)
    if x.size < _FEW:
        return x * mx.sigmoid(_gelu_slope(x) * x)  # 0.5 (1 + tanh z) is sigmoid(2 z)
    y: mx.array = _gelu(x)[0]
    return y


def silu(x: mx.array) -> mx.array:
    """SiLU, x sigmoid(x) (Elfwing et al. 2017)."""
    if not on_cpu():
        return nn.silu(x)
    if x.size < _FEW:
        return x * mx.sigmoid(x)
    y: mx.array = _silu(x)[0]
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
    return 1.0 / (1.0 + exp2(mx.clip(power, -126.0, 127.0)))


def normed(x: mx.array, eps: float) -> mx.array:
    """(T, D) -> (T, D), each row with a mean square of 1: RMSNorm (Zhang and Sennrich 2019) without a weight."""
    if not on_cpu():
        return mx.fast.rms_norm(x, None, eps)
    T, D = x.shape  # the fused operation is ten on a CPU
    if T == 1:  # the sum of squares, divided and added to eps by one operation
        return x * mx.rsqrt(mx.addmm(_filled(eps, 1, 1), x, x.T, alpha=1 / D))
    return x * mx.rsqrt((x * x) @ _filled(1 / D, D, 1) + eps)


@functools.lru_cache(maxsize=16)
def _filled(value: float, rows: int, columns: int) -> mx.array:
    filled = mx.full((rows, columns), value)
    mx.eval(filled)
    return filled


def rope(x: mx.array, start: int, theta: float) -> mx.array:
    """(B, H, T, K), of which the first stands at position `start`: pairs i, i + K / 2 turned (RoPE, Su et al. 2021)."""
    if on_cpu() and x.shape[2] == 1:
        return x @ _turn(start, x.shape[3], theta)  # one operation where the fused one is sixteen on a CPU
    return mx.fast.rope(x, x.shape[3], traditional=False, base=theta, scale=1.0, offset=start)


@functools.lru_cache(maxsize=2)
def _turn(position: int, head_dim: int, theta: float) -> mx.array:
    """(K, K): the rotation at one position."""
    half = np.arange(head_dim // 2)
    # In float32 as in mx.fast.rope: far along, exact angles would differ from those the model was trained with.
    angles = np.float32(position) * (theta ** (-half / len(half))).astype(np.float32)
    turn = np.zeros((head_dim, head_dim), np.float32)
    turn[half, half] = turn[half + len(half), half + len(half)] = np.cos(angles)
    turn[half, half + len(half)], turn[half + len(half), half] = np.sin(angles), -np.sin(angles)
    return mx.array(turn)


def attention(q: mx.array, k: mx.array, v: mx.array, scale: float) -> mx.array:
    """(B, H, T, K), (B, G, S, K), (B, G, S, K) -> (B, H, T, K), causal: the last query sees all S keys."""
    T = q.shape[2]
    if not on_cpu() or T == 1:
        return mx.fast.scaled_dot_product_attention(q, k, v, scale=scale, mask="causal" if T > 1 else None)
    if q.shape[1] != k.shape[1]:
        k, v = (mx.repeat(x, q.shape[1] // k.shape[1], axis=1) for x in (k, v))
    # Keys times log2(e), so that the softmax's powers are powers of 2; a product would copy v for each block.
    y: mx.array = _causal(q, (scale * _LOG2_E) * k, mx.contiguous(v))[0]
    return y


@mx.custom_function
def _causal(q: mx.array, keys: mx.array, v: mx.array) -> tuple[mx.array, ...]:
    """(B, H, T, K), (B, H, S, K) twice -> softmax(q keys^T, in powers of 2) v, and what its gradient needs.

    That is, for each block of queries, the weights before they are divided by their sum, and 1 / sum. Queries are the
    last axis of weights: MLX reduces over rows four times as fast as along them.
    """
    y, kept = [], []
    for queries, seen in _blocks(q, keys.shape[2]):
        scores = keys[:, :, :seen] @ queries.swapaxes(-1, -2) + _mask(seen, queries.shape[2])
        weights = exp2(mx.maximum(scores - mx.max(scores, axis=-2, keepdims=True), -126.0))  # (B, H, seen, block)
        share = (1.0 / mx.sum(weights, axis=-2, keepdims=True)).swapaxes(-1, -2)  # (B, H, block, 1)
        y.append(weights.swapaxes(-1, -2) @ v[:, :, :seen] * share)
        kept += [weights, share]
    return mx.concatenate(y, axis=2), *kept


@_causal.vjp
def _causal_vjp(inputs: list[mx.array], gradients: list[mx.array], outputs: list[mx.array]) -> tuple[mx.array, ...]:
    """By hand (Dao et al. 2022, appendix B.2): half the passes over the weights that automatic ones would take.

    ln 2 is the slope of 2^x at 0; 1 / sum, which turns the kept weights into probabilities, multiplies the gradient.
    """
    q, keys, v = inputs
    values = math.log(2) * v
    blocks = _blocks(q, keys.shape[2])
    of_q, of_keys, of_v = [], [], []
    each = zip(blocks, *(_split(x) for x in (outputs[0], gradients[0])), outputs[1::2], outputs[2::2], strict=True)
    for (queries, seen), y, gradient, weights, share in each:
        shared = gradient * share
        mean = math.log(2) * mx.sum(shared * y, axis=-1, keepdims=True)
        of_scores = weights * (values[:, :, :seen] @ shared.swapaxes(-1, -2) - mean.swapaxes(-1, -2))
        of_q.append(of_scores.swapaxes(-1, -2) @ keys[:, :, :seen])
        of_keys.append(of_scores @ queries)
        of_v.append(weights @ shared)
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
def _mask(keys: int, queries: int) -> mx.array:
    """(keys, queries), to be added to scores: very negative where a key lies behind its query."""
    allowed = mx.arange(keys)[:, None] <= mx.arange(queries) + (keys - queries)
    mask = mx.where(allowed, 0.0, -1e9)
    mx.eval(mask)
    return mask
