"""GPT-2 (Radford et al. 2019) in NumPy: pure functions of prepared parameters, named as in models/gpt2.py.

Shapes: T time, S stored positions, D width, H heads, K head size, V vocabulary.
One sequence at a time: a batch is the caller's loop, and a single new id is a sequence of T = 1.

What is the same at every step is done once, by `prepare`: each norm's weight and bias, and each constant
factor, is multiplied into the matrix behind it. The matrices are (in, out), as GPT-2 stores them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mlx_tinylm.model_folder.config import GPT2Config
from mlx_tinylm.model_folder.tensor_files import Tensors
from mlx_tinylm.numpy_models.cache import Array, KVCache, attend


@dataclass(frozen=True)
class Linear:
    weight: Array  # (in, out)
    bias: Array  # (out,)

    def __call__(self, x: Array) -> Array:
        """(T, in) -> (T, out)."""
        y: Array = x @ self.weight
        y += self.bias
        return y


@dataclass(frozen=True)
class Block:
    """The prepared parameters of one layer; `c_proj` of attention and MLP are told apart by their prefix."""

    c_attn: Linear
    attn_c_proj: Linear
    c_fc: Linear
    mlp_c_proj: Linear


@dataclass(frozen=True)
class GPT2:
    """The prepared parameters; `hidden_states`, then `head`, take ids (T,) to logits (T, V)."""

    config: GPT2Config
    wte: Array  # (V, D)
    wpe: Array  # (C, D)
    h: list[Block]
    head: Linear

    @classmethod
    def prepare(cls, config: GPT2Config, tensors: Tensors) -> GPT2:
        wte, wpe = tensors["wte.weight"], tensors["wpe.weight"]
        lm_head = wte if config.tied else tensors["lm_head.weight"]
        h = [prepare_block(config, tensors, f"h.{n}.") for n in range(config.layers)]
        head = folded(tensors["ln_f.weight"], tensors["ln_f.bias"], lm_head.T, np.zeros(len(lm_head), np.float32))
        return cls(config, wte, wpe, h, head)

    def new_cache(self, capacity: int) -> list[KVCache]:
        c = self.config
        return [KVCache(capacity, c.heads, c.head_dim, slides=False) for _ in self.h]

    def hidden_states(self, ids: npt.NDArray[Any], cache: list[KVCache] | None = None) -> Array:
        """Everything but the head: ids (T,) -> (T, D). Raises ValueError past the last learned position."""
        eps = self.config.norm_eps
        start = cache[0].position if cache else 0
        if start + len(ids) > len(self.wpe):
            raise ValueError(f"{len(ids)} positions do not fit at {start} of {len(self.wpe)}")
        x = self.wte[ids] + self.wpe[start : start + len(ids)]  # (T, D)
        for layer, block in enumerate(self.h):
            x += attention(block, layer_norm(x, eps), self.config.heads, cache[layer] if cache else None)
            x += mlp(block, layer_norm(x, eps))
        return layer_norm(x, eps)


def layer_norm(x: Array, eps: float) -> Array:
    """(T, D) -> (T, D) of mean 0, length 1; the norm's weight, bias and sqrt(D) are in what comes next."""
    D = x.shape[-1]
    x = x - x.sum(-1, keepdims=True) / D
    squares = (x[:, None] @ x[:, :, None])[:, 0]  # (T, 1)
    y: Array = x / np.sqrt(squares + eps * D)
    return y


def attention(block: Block, x: Array, heads: int, cache: KVCache | None) -> Array:
    """(T, D) -> (T, D)."""
    qkv = block.c_attn(x).reshape(len(x), 3, heads, -1)  # (T, 3, H, K)
    k, v = qkv[:, 1:].transpose(1, 2, 0, 3)  # (H, T, K) each
    if cache is not None:
        k, v = cache.append(k, v)  # (H, S, K)
    return block.attn_c_proj(attend(qkv[:, 0], k, v))


def mlp(block: Block, x: Array) -> Array:
    """(T, D) -> (T, D), 4D between."""
    return block.mlp_c_proj(twice_gelu(block.c_fc(x)))


def twice_gelu(x: Array) -> Array:
    """GELU in its tanh form (Hendrycks & Gimpel 2016), times 2: the half is in the matrix that comes next."""
    inner = x * ((2 / np.pi) ** 0.5 * (1 + 0.044715 * x * x))
    y: Array = x * (1 + np.tanh(inner))
    return y


def folded(norm_weight: Array, norm_bias: Array, weight: Array, bias: Array) -> Linear:
    """Norm (D,) twice, weight (D, out), bias (out,) -> the Linear for what `layer_norm` returns."""
    scale = norm_weight * len(norm_weight) ** 0.5
    return Linear(np.ascontiguousarray(scale[:, None] * weight), norm_bias @ weight + bias)


def prepare_block(config: GPT2Config, tensors: Tensors, prefix: str) -> Block:
    """Read the stored tensors whose names begin with `prefix` into the layout of `Block`."""
    t = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    scale = np.repeat([config.head_dim**-0.5, 1, 1], config.width).astype(np.float32)  # of q, k and v
    return Block(
        c_attn=folded(t["ln_1.weight"], t["ln_1.bias"], t["attn.c_attn.weight"] * scale, t["attn.c_attn.bias"] * scale),
        attn_c_proj=Linear(np.ascontiguousarray(t["attn.c_proj.weight"]), t["attn.c_proj.bias"]),
        c_fc=folded(t["ln_2.weight"], t["ln_2.bias"], t["mlp.c_fc.weight"], t["mlp.c_fc.bias"]),
        mlp_c_proj=Linear(np.ascontiguousarray(t["mlp.c_proj.weight"] / 2), t["mlp.c_proj.bias"]),
    )
