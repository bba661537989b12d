"""Qwen3 (Yang et al. 2025) in MLX; the attribute names are the names of the stored tensors.

Shapes: B batch, T time, D width, H heads, G key-value heads, K head size, V vocabulary, P places of
dropout.
"""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn

from mlx_tinylm.model_folder.config import Qwen3Config
from mlx_tinylm.models.cache import KVCache
from mlx_tinylm.models.ops import attention, dropout, embedding, rope, silu


class Attention(nn.Module):
    def __init__(self, config: Qwen3Config) -> None:
        super().__init__()
        D, H, G, K = config.width, config.heads, config.kv_heads, config.head_dim
        self.head_dim = K
        self.theta = config.rope_theta
        self.q_proj = nn.Linear(D, H * K, bias=False)
        self.k_proj = nn.Linear(D, G * K, bias=False)
        self.v_proj = nn.Linear(D, G * K, bias=False)
        self.o_proj = nn.Linear(H * K, D, bias=False)
        self.q_norm = nn.RMSNorm(K, config.norm_eps)
        self.k_norm = nn.RMSNorm(K, config.norm_eps)

    def __call__(self, x: mx.array, cache: KVCache | None) -> mx.array:
        B, T, _ = x.shape
        start = cache.position if cache is not None else 0
        q = self.rotated(self.q_norm(self.q_proj(x).reshape(B, T, -1, self.head_dim)), start)  # (B, H, T, K)
        k = self.rotated(self.k_norm(self.k_proj(x).reshape(B, T, -1, self.head_dim)), start)  # (B, G, T, K)
        v = self.v_proj(x).reshape(B, T, -1, self.head_dim).transpose(0, 2, 1, 3)
        if cache is not None:
            k, v = cache.append(k, v)
        y = attention(q, k, v, self.head_dim**-0.5)
        return self.o_proj(y.transpose(0, 2, 1, 3).reshape(B, T, -1))

    def rotated(self, x: mx.array, start: int) -> mx.array:
        """(B, T, H, K) -> (B, H, T, K), pairs turned by their position."""
        return rope(x.transpose(0, 2, 1, 3), start, self.theta)


class MLP(nn.Module):
    """SwiGLU (Shazeer 2020)."""

    def __init__(self, config: Qwen3Config) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.width, config.hidden, bias=False)
        self.up_proj = nn.Linear(config.width, config.hidden, bias=False)
        self.down_proj = nn.Linear(config.hidden, config.width, bias=False)

    def __call__(self, x: mx.array) -> mx.array:
        return self.down_proj(silu(self.gate_proj(x)) * self.up_proj(x))


class Block(nn.Module):
    def __init__(self, config: Qwen3Config, layer: int, rate: float) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(config.width, config.norm_eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = nn.RMSNorm(config.width, config.norm_eps)
        self.mlp = MLP(config)
        self.place, self.rate = 1 + 2 * layer, rate

    def __call__(self, x: mx.array, cache: KVCache | None, keys: mx.array | None) -> mx.array:
        x = x + dropout(self.self_attn(self.input_layernorm(x), cache), keys, self.place, self.rate)
        return x + dropout(self.mlp(self.post_attention_layernorm(x)), keys, self.place + 1, self.rate)


class Transformer(nn.Module):
    """Everything but the head: ids (B, T) -> (B, T, D)."""

    def __init__(self, config: Qwen3Config, rate: float) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.width)
        self.layers = [Block(config, layer, rate) for layer in range(config.layers)]
        self.norm = nn.RMSNorm(config.width, config.norm_eps)
        self.rate = rate

    def __call__(self, ids: mx.array, cache: list[KVCache] | None, dropout_keys: mx.array | None) -> mx.array:
        x = dropout(embedding(self.embed_tokens, ids), dropout_keys, 0, self.rate)
        for layer, block in enumerate(self.layers):
            x = block(x, cache[layer] if cache else None, dropout_keys)
        y: mx.array = self.norm(x)
        return y


class Qwen3(nn.Module):
    """ids (B, T) -> logits (B, T, V). Ids are the caller's to keep inside the table.

    With `dropout_keys` (B, P, 2), one for each window and place, activations are dropped at `rate`.
    """

    def __init__(self, config: Qwen3Config, rate: float = 0.0) -> None:
        super().__init__()
        self.config = config
        self.model = Transformer(config, rate)
        if not config.tied:
            self.lm_head = nn.Linear(config.width, config.vocab_size, bias=False)

    def __call__(
        self, ids: mx.array, cache: list[KVCache] | None = None, dropout_keys: mx.array | None = None
    ) -> mx.array:
        x = self.model(ids, cache, dropout_keys)
        return self.model.embed_tokens.as_linear(x) if self.config.tied else self.lm_head(x)
