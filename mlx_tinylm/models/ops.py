"""Embeddings, attention, rotary positions, activations and dropout: what the families compute beside mlx.nn's layers.

They are MLX's own operations, except on a CPU where MLX is slow at some of them: there `cpu_ops` has the same
functions. Both agree to float32 rounding; a model file never asks where it runs.

Shapes: B batch, H heads, G key-value heads, T time, S stored positions, K head size, D width, V vocabulary,
P places of dropout.
"""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn

from mlx_tinylm.models import cpu_ops

# Up to this vocabulary an embedding's gradient costs a fraction of the logits, as a product.
SMALL_VOCABULARY = 1024


def embedding(layer: nn.Module, ids: mx.array) -> mx.array:
    """A layer (V, D), quantised or not, and ids (B, T) -> (B, T, D)."""
    if isinstance(layer, nn.Embedding) and layer.weight.shape[0] <= SMALL_VOCABULARY:
        return cpu_ops.first(_rows(layer.weight, ids))
    rows: mx.array = layer(ids)
    return rows


@mx.custom_function
def _rows(table: mx.array, ids: mx.array) -> tuple[mx.array]:
    return (table[ids],)


@_rows.vjp
def _rows_vjp(inputs: list[mx.array], gradients: list[mx.array], outputs: list[mx.array]) -> tuple[mx.array, ...]:
    """One-hot rows (B x T, V), transposed, times the gradient: sums in one order.

    MLX scatters, and a GPU adds what meets in one place in the order in which it comes: no run would repeat itself.
    """
    table, ids = inputs
    one_hot = (ids.reshape(-1, 1) == mx.arange(table.shape[0])).astype(table.dtype)
    return one_hot.T @ gradients[0].reshape(-1, table.shape[1]), mx.zeros_like(ids)


def attention(q: mx.array, k: mx.array, v: mx.array, scale: float) -> mx.array:
    """(B, H, T, K), (B, G, S, K), (B, G, S, K) -> (B, H, T, K), causal: the last query sees all S keys."""
    T = q.shape[2]
    if T > 1 and cpu_ops.preferred(q):
        return cpu_ops.attention(q, k, v, scale)
    return mx.fast.scaled_dot_product_attention(q, k, v, scale=scale, mask="causal" if T > 1 else None)


def rope(x: mx.array, start: int, theta: float) -> mx.array:
    """(B, H, T, K), of which the first stands at position `start`: pairs i, i + K / 2 turned (RoPE, Su et al. 2021)."""
    return mx.fast.rope(x, x.shape[3], traditional=False, base=theta, scale=1.0, offset=start)


def gelu(x: mx.array) -> mx.array:
    """GELU in its tanh form (Hendrycks and Gimpel 2016, section 2)."""
    return cpu_ops.gelu(x) if cpu_ops.preferred(x) else nn.gelu_approx(x)


def silu(x: mx.array) -> mx.array:
    """SiLU, x sigmoid(x) (Elfwing et al. 2017)."""
    return cpu_ops.silu(x) if cpu_ops.preferred(x) else nn.silu(x)


def dropout(x: mx.array, keys: mx.array | None, place: int, rate: float) -> mx.array:
    """(B, T, D), keys (B, P, 2) -> (B, T, D), a part `rate` of each window set to 0 (Srivastava et al. 2014).

    Each window of a batch has a key of its own at each place, so its mask does not depend on what it is computed
    beside. Without keys nothing is dropped.
    """
    if keys is None or rate == 0:
        return x
    kept = mx.vmap(lambda key: mx.random.bernoulli(1 - rate, x.shape[1:], key))(keys[:, place])
    return x * kept * (1 / (1 - rate))
