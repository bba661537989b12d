"""Qwen3 in MLX for one new id: the weights of models/qwen3.py, arranged for few and large operations.

A single position is so little work that what counts is how many operations it takes. What is the same at every step
is done once: matrices with the same input are joined, and each norm's weight is multiplied into the matrix behind it.

Shapes: D width, H heads, G key-value heads, K head size, F hidden, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import mlx.core as mx

from mlx_tinylm.models import qwen3
from mlx_tinylm.models.cache import KVCache
from mlx_tinylm.models.ops import attention, normed, rope, silu


@dataclass(frozen=True)
class Block:
    """The arranged weights of one layer."""

    qkv: mx.array  # (D, (H + 2G) K)
    qk_norm: mx.array  # (H + G, K)
    o: mx.array  # (H K, D)
    gate_up: mx.array  # (D, 2F)
    down: mx.array  # (F, D)


class Qwen3Step:
    """id -> logits (V,), for a model whose matrices are not quantised."""

    def __init__(self, model: qwen3.Qwen3) -> None:
        self.config = model.config
        self.embed = model.model.embed_tokens.weight
        self.blocks = [arranged(block) for block in model.model.layers]
        head = self.embed if self.config.tied else model.lm_head.weight
        self.head = joined(model.model.norm.weight, head)
        mx.eval(self.head, [vars(block) for block in self.blocks])

    def __call__(self, id: int, cache: list[KVCache]) -> mx.array:
        eps = self.config.norm_eps
        x = self.embed[id : id + 1]  # (1, D)
        for block, kept in zip(self.blocks, cache, strict=True):
            x = x + self.attention(block, normed(x, eps), kept)
            gate, up = mx.split(normed(x, eps) @ block.gate_up, 2, axis=1)
            x = x + (silu(gate) * up) @ block.down
        return (normed(x, eps) @ self.head)[0]

    def attention(self, block: Block, x: mx.array, cache: KVCache) -> mx.array:
        """(1, D) -> (1, D)."""
        H, G, K = self.config.heads, self.config.kv_heads, self.config.head_dim
        qk, v = mx.split((x @ block.qkv).reshape(-1, K), [H + G])
        qk = normed(qk, self.config.norm_eps) * block.qk_norm
        qk = rope(qk.reshape(1, H + G, 1, K), cache.position, self.config.rope_theta)
        k, v = cache.append(qk[:, H:], v.reshape(1, G, 1, K))
        y = attention(qk[:, :H], k, v, K**-0.5)
        return y.reshape(1, -1) @ block.o


def arranged(block: qwen3.Block) -> Block:
    heads, mlp = block.self_attn, block.mlp
    q, k, v = heads.q_proj.weight, heads.k_proj.weight, heads.v_proj.weight
    H, G = (matrix.shape[0] // heads.head_dim for matrix in (q, k))
    return Block(
        qkv=joined(block.input_layernorm.weight, q, k, v),
        qk_norm=mx.stack([heads.q_norm.weight] * H + [heads.k_norm.weight] * G),
        o=mx.contiguous(heads.o_proj.weight.T),
        gate_up=joined(block.post_attention_layernorm.weight, mlp.gate_proj.weight, mlp.up_proj.weight),
        down=mx.contiguous(mlp.down_proj.weight.T),
    )


def joined(norm: mx.array, *matrices: mx.array) -> mx.array:
    """Norm weight (D,), matrices (out, D) -> one matrix (D, sum of out) behind a norm without a weight."""
    return mx.contiguous((mx.concatenate(matrices) * norm).T)
