"""GPT-2 (Radford et al. 2019) in MLX; the attribute names are the names of the stored tensors.

Shapes: B batch, T time, D width, H heads, K head size, V vocabulary, P places of dropout.
Differences: attention weights have no dropout of their own (the fused attention has none).
"""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn

from mlx_tinylm.model_folder.config import GPT2Config
from mlx_tinylm.models.cache import KVCache
from mlx_tinylm.models.ops import attention, dropout, embedding, gelu


class Attention(nn.Module):
    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        self.heads = config.heads
        self.scale = config.head_dim**-0.5
        self.c_attn = nn.Linear(config.width, 3 * config.width)
        self.c_proj = nn.Linear(config.width, config.width)

    def __call__(self, x: mx.array, cache: KVCache | None) -> mx.array:
        B, T, D = x.shape
        qkv = mx.split(self.c_attn(x), 3, axis=-1)
        q, k, v = (part.reshape(B, T, self.heads, -1).transpose(0, 2, 1, 3) for part in qkv)  # (B, H, T, K)
        if cache is not None:
            k, v = cache.append(k, v)
        y = attention(q, k, v, self.scale)
        return self.c_proj(y.transpose(0, 2, 1, 3).reshape(B, T, D))


class MLP(nn.Module):
    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        self.c_fc = nn.Linear(config.width, 4 * config.width)
        self.c_proj = nn.Linear(4 * config.width, config.width)

    def __call__(self, x: mx.array) -> mx.array:
        return self.c_proj(gelu(self.c_fc(x)))


class Block(nn.Module):
    def __init__(self, config: GPT2Config, layer: int, rate: float) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.width, config.norm_eps)
        self.attn = Attention(config)
        self.ln_2 = nn.LayerNorm(config.width, config.norm_eps)
        self.mlp = MLP(config)
        self.place, self.rate = 1 + 2 * layer, rate

    def __call__(self, x: mx.array, cache: KVCache | None, keys: mx.array | None) -> mx.array:
        x = x + dropout(self.attn(self.ln_1(x), cache), keys, self.place, self.rate)
        return x + dropout(self.mlp(self.ln_2(x)), keys, self.place + 1, self.rate)


class GPT2(nn.Module):
    """ids (B, T) -> logits (B, T, V). Ids are the caller's to keep inside the table; positions past it: ValueError.

    With `dropout_keys` (B, P, 2), one for each window and place, activations are dropped at `rate`.
    """

    def __init__(self, config: GPT2Config, rate: float = 0.0) -> None:
        super().__init__()
        self.config = config
        self.wte = nn.Embedding(config.vocab_size, config.width)
        self.wpe = nn.Embedding(config.context, config.width)
        self.h = [Block(config, layer, rate) for layer in range(config.layers)]
        self.ln_f = nn.LayerNorm(config.width, config.norm_eps)
        self.rate = rate
        if not config.tied:
            self.lm_head = nn.Linear(config.width, config.vocab_size, bias=False)

    def __call__(
        self, ids: mx.array, cache: list[KVCache] | None = None, dropout_keys: mx.array | None = None
    ) -> mx.array:
        start = cache[0].position if cache else 0
        if start + ids.shape[1] > self.config.context:
            raise ValueError(f"positions end at {self.config.context}; MLX would read past the table")
        positions = mx.arange(start, start + ids.shape[1])
        x = dropout(embedding(self.wte, ids) + self.wpe(positions), dropout_keys, 0, self.rate)  # (B, T, D)
        for layer, block in enumerate(self.h):
            x = block(x, cache[layer] if cache else None, dropout_keys)
        x = self.ln_f(x)
        return self.wte.as_linear(x) if self.config.tied else self.lm_head(x)
