"""The steps of a NumPy model one by one, of the parameters that it computes with; see `trace.Parts`.

Shapes: T time, D width, H heads, G key-value heads, K head size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mlx_tinylm.inside.trace import Parts
from mlx_tinylm.numpy_models import gpt2, qwen3
from mlx_tinylm.numpy_models.cache import Array


def parts(network: gpt2.GPT2 | qwen3.Qwen3) -> Parts:
    return GPT2Parts(network) if isinstance(network, gpt2.GPT2) else Qwen3Parts(network)


class NumpyParts:
    def without(self, found: Array, heads: Sequence[int]) -> Array:
        found = found.copy()
        found[list(heads)] = 0
        return found

    def array(self, x: Array) -> Array:
        return x

    def from_array(self, x: Array) -> Array:
        return x


class GPT2Parts(NumpyParts):
    def __init__(self, network: gpt2.GPT2) -> None:
        self.network = network

    def embed(self, ids: npt.NDArray[np.int32]) -> Array:
        x: Array = self.network.wte[ids] + self.network.wpe[: len(ids)]
        return x

    def look(self, layer: int, x: Array) -> tuple[Array, Array]:
        qkv = self.network.h[layer].c_attn(self.normed(x))
        q, k, v = qkv.reshape(len(x), 3, self.network.config.heads, -1).transpose(1, 2, 0, 3)  # (H, T, K) each
        return attend(q, k, v)

    def bring(self, layer: int, found: Array) -> Array:
        return self.network.h[layer].attn_c_proj(joined(found))

    def mlp(self, layer: int, x: Array) -> Array:
        return gpt2.mlp(self.network.h[layer], self.normed(x))

    def head(self, x: Array) -> Array:
        return self.network.head(self.normed(x))

    def table(self) -> Array:
        return self.network.wte

    def normed(self, x: Array) -> Array:
        return gpt2.layer_norm(x, self.network.config.norm_eps)


class Qwen3Parts(NumpyParts):
    def __init__(self, network: qwen3.Qwen3) -> None:
        self.network = network

    def embed(self, ids: npt.NDArray[np.int32]) -> Array:
        x: Array = self.network.embed_tokens[ids]
        return x

    def look(self, layer: int, x: Array) -> tuple[Array, Array]:
        config, block = self.network.config, self.network.layers[layer]
        heads = (self.normed(x) @ block.qkv_proj).reshape(len(x), -1, config.head_dim)  # (T, H + 2G, K)
        rotated = config.heads + config.kv_heads
        qk = qwen3.rms_norm(heads[:, :rotated], config.norm_eps) * block.qk_norm
        pairs = qk.view(np.complex64)
        pairs *= qwen3.rope(self.network.frequencies, 0, len(x))
        parted = (qk[:, : config.heads], qk[:, config.heads :], heads[:, rotated:])
        q, k, v = (part.swapaxes(0, 1) for part in parted)  # (H, T, K), (G, T, K) twice
        shared = config.heads // config.kv_heads
        return attend(q, np.repeat(k, shared, axis=0), np.repeat(v, shared, axis=0))

    def bring(self, layer: int, found: Array) -> Array:
        y: Array = joined(found) @ self.network.layers[layer].o_proj
        return y

    def mlp(self, layer: int, x: Array) -> Array:
        return qwen3.mlp(self.network.layers[layer], self.normed(x))

    def head(self, x: Array) -> Array:
        return self.network.head(self.normed(x))

    def table(self) -> Array:
        return self.network.embed_tokens

    def normed(self, x: Array) -> Array:
        return qwen3.rms_norm(x, self.network.config.norm_eps)


def attend(q: Array, k: Array, v: Array) -> tuple[Array, Array]:
    """(H, T, K) three times, the queries being scaled already -> weights (H, T, T), and what they find (H, T, K)."""
    T = q.shape[1]
    weights = q @ k.swapaxes(1, 2)
    weights += np.triu(np.full((T, T), -np.inf, np.float32), 1)
    weights -= weights.max(-1, keepdims=True)
    np.exp(weights, out=weights)
    weights /= weights.sum(-1, keepdims=True)
    found: Any = weights @ v
    return weights, found


def joined(found: Array) -> Array:
    """(H, T, K) -> (T, H * K)."""
    return found.swapaxes(0, 1).reshape(found.shape[1], -1)
