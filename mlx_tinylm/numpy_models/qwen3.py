"""Qwen3 (Yang et al. 2025) in NumPy: pure functions of prepared parameters, named as in models/qwen3.py.

Shapes: T time, S stored positions, D width, H heads, G key-value heads, K head size, F hidden, V vocabulary.
One sequence at a time: a batch is the caller's loop, and a single new id is a sequence of T = 1.

What is the same at every step is done once, by `prepare`: matrices with the same input are joined and stored
(in, out), and each norm's weight and each constant factor is multiplied into the matrix behind it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mlx_tinylm.model_folder.config import Qwen3Config
from mlx_tinylm.model_folder.tensor_files import Tensors
from mlx_tinylm.numpy_models.cache import Array, KVCache, attend


@dataclass(frozen=True)
class Block:
    """The prepared parameters of one layer."""

    qkv_proj: Array  # (D, (H + 2G) K)
    qk_norm: Array  # (H + G, K)
    o_proj: Array  # (H K, D)
    gate_up_proj: Array  # (D, 2F)
    down_proj: Array  # (F, D)


@dataclass(frozen=True)
class Qwen3:
    """The prepared parameters; `hidden_states`, then `head`, take ids (T,) to logits (T, V)."""

    config: Qwen3Config
    embed_tokens: Array  # (V, D)
    layers: list[Block]
    lm_head: Array  # (D, V)
    frequencies: Array  # (K / 2,)

    @classmethod
    def prepare(cls, config: Qwen3Config, tensors: Tensors) -> Qwen3:
        embed = tensors["model.embed_tokens.weight"]
        lm_head = embed if config.tied else tensors["lm_head.weight"]
        layers = [prepare_block(config, tensors, f"model.layers.{n}.") for n in range(config.layers)]
        head = in_out(tensors["model.norm.weight"], lm_head)
        half = config.head_dim // 2
        frequencies = config.rope_theta ** (-np.arange(half) / half)
        return cls(config, embed, layers, head, frequencies.astype(np.float32))

    def new_cache(self, capacity: int) -> list[KVCache]:
        c = self.config
        return [KVCache(capacity, c.kv_heads, c.head_dim, slides=True) for _ in self.layers]

    def hidden_states(self, ids: npt.NDArray[Any], cache: list[KVCache] | None = None) -> Array:
        """Everything but the head: ids (T,) -> (T, D)."""
        eps = self.config.norm_eps
        turns = rope(self.frequencies, cache[0].position if cache else 0, len(ids))
        x = self.embed_tokens[ids]  # (T, D)
        for layer, block in enumerate(self.layers):
            x += attention(block, rms_norm(x, eps), turns, eps, cache[layer] if cache else None)
            x += mlp(block, rms_norm(x, eps))
        return rms_norm(x, eps)

    def head(self, x: Array) -> Array:
        """(T, D) -> (T, V)."""
        logits: Array = x @ self.lm_head
        return logits


def rms_norm(x: Array, eps: float) -> Array:
    """(..., D) -> (..., D) of length 1; the norm's weight and sqrt(D) are in what comes next."""
    if x.size == x.shape[-1]:  # one row, as for a single new id: plain numbers cost less than arrays of one
        row = x.ravel()
        return x * np.float32(1 / math.sqrt(row.dot(row) + eps * x.size))
    squares = np.einsum("...d,...d->...", x, x)[..., None]  # (..., 1)
    y: Array = x / np.sqrt(squares + np.float32(eps * x.shape[-1]))
    return y


def attention(block: Block, x: Array, turns: npt.NDArray[np.complex64], eps: float, cache: KVCache | None) -> Array:
    """(T, D) -> (T, D)."""
    rotated, K = block.qk_norm.shape  # H + G heads are normed and turned, G are not
    heads = (x @ block.qkv_proj).reshape(len(x), -1, K)  # (T, H + 2G, K)
    kv_heads = heads.shape[1] - rotated
    qk = rms_norm(heads[:, :rotated], eps)
    qk *= block.qk_norm
    pairs = qk.view(np.complex64)
    pairs *= turns
    q = qk[:, :-kv_heads]
    k = qk[:, -kv_heads:].swapaxes(0, 1)  # (G, T, K)
    v = heads[:, rotated:].swapaxes(0, 1)
    if cache is not None:
        k, v = cache.append(k, v)  # (G, S, K)
    y: Array = attend(q, k, v) @ block.o_proj
    return y


def rope(frequencies: Array, start: int, T: int) -> npt.NDArray[np.complex64]:
    """(K / 2,) -> (T, 1, K / 2): how far each pair is turned at each position (RoPE, Su et al. 2021).

    A pair (x, y) read as the complex number x + iy is turned by one product with cos + i sin.
    """
    # In float32 as MLX does it: far along, exact angles would differ from those the model was trained with.
    angles = np.arange(start, start + T, dtype=np.float32)[:, None, None] * frequencies
    turns: npt.NDArray[np.complex64] = np.cos(angles) + 1j * np.sin(angles)
    return turns


def mlp(block: Block, x: Array) -> Array:
    """SwiGLU (Shazeer 2020): (T, D) -> (T, D)."""
    half_gate, up = (x @ block.gate_up_proj).reshape(len(x), 2, -1).swapaxes(0, 1)  # (T, F) each
    # silu(g) = g / (1 + exp(-g)) = g/2 (1 + tanh(g/2)), which cannot overflow
    hidden = np.tanh(half_gate)
    hidden *= half_gate
    hidden += half_gate
    hidden *= up
    y: Array = hidden @ block.down_proj
    return y


def in_out(norm: Array, *matrices: Array) -> Array:
    """Norm weight (D,), matrices (out, D) -> one matrix (D, sum of out) for what `rms_norm` returns."""
    return np.ascontiguousarray(np.concatenate(matrices).T * (norm * len(norm) ** 0.5)[:, None])


def prepare_block(config: Qwen3Config, tensors: Tensors, prefix: str) -> Block:
    """Read the stored tensors whose names begin with `prefix` into the layout of `Block`."""
    H, G, K = config.heads, config.kv_heads, config.head_dim
    weight = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}

    def paired(vectors: Array) -> Array:
        """(H K, ...) -> (H K, ...), element i of each head brought next to its RoPE partner i + K / 2."""
        halves = vectors.reshape(-1, 2, K // 2, *vectors.shape[1:])
        return halves.swapaxes(1, 2).reshape(vectors.shape)

    q_norm = paired(weight["self_attn.q_norm.weight"])  # K**0.5 for its norm, K**-0.5 for attention
    k_norm = paired(weight["self_attn.k_norm.weight"]) * np.float32(K**0.5)
    return Block(
        qkv_proj=in_out(
            weight["input_layernorm.weight"],
            paired(weight["self_attn.q_proj.weight"]),
            paired(weight["self_attn.k_proj.weight"]),
            weight["self_attn.v_proj.weight"],
        ),
        qk_norm=np.stack([q_norm] * H + [k_norm] * G),
        o_proj=np.ascontiguousarray(weight["self_attn.o_proj.weight"].T),
        gate_up_proj=in_out(
            weight["post_attention_layernorm.weight"],
            weight["mlp.gate_proj.weight"] * np.float32(0.5),
            weight["mlp.up_proj.weight"],
        ),
        down_proj=np.ascontiguousarray(weight["mlp.down_proj.weight"].T),
    )
