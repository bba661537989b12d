"""The steps of an MLX model one by one, by the modules that it computes with; see `trace.Parts`.

Shapes: T time, D width, H heads, G key-value heads, K head size, V vocabulary; a batch of one goes before them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mlx_tinylm.backend.devices import check_not_forked
from mlx_tinylm.inside.trace import Array, Parts


def parts(module: Any) -> Parts:
    check_not_forked()
    return GPT2Parts(module) if module.config.family == "gpt2" else Qwen3Parts(module)


class MLXParts:
    """`module` is a models.gpt2.GPT2 or a models.qwen3.Qwen3."""

    def __init__(self, module: Any) -> None:
        import mlx.core as mx  # not at module level: all but training works where it cannot be imported

        self.mx = mx
        self.module = module

    def attend(self, q: Any, k: Any, v: Any, scale: float) -> tuple[Any, Any]:
        """(1, H, T, K), (1, G, T, K) twice -> weights (1, H, T, T), and what they find (1, H, T, K)."""
        mx, T = self.mx, q.shape[2]
        k, v = (mx.repeat(x, q.shape[1] // k.shape[1], axis=1) for x in (k, v))
        future = mx.array(np.triu(np.full((T, T), -np.inf, np.float32), 1))
        weights = mx.softmax((q * scale) @ k.swapaxes(-1, -2) + future, axis=-1)
        return weights, weights @ v

    def without(self, found: Any, heads: Sequence[int]) -> Any:
        kept = np.ones((found.shape[1], 1, 1), np.float32)
        kept[list(heads)] = 0
        return found * self.mx.array(kept)

    def joined(self, found: Any) -> Any:
        """(1, H, T, K) -> (1, T, H * K)."""
        return found.transpose(0, 2, 1, 3).reshape(1, found.shape[2], -1)

    def array(self, x: Any) -> Array:
        """(1, ...) -> (...); a table (V, D) is no batch."""
        found: Array = np.array(x.astype(self.mx.float32))
        return found[0] if found.ndim > 2 else found

    def from_array(self, x: Array) -> Any:
        return self.mx.array(x)[None]


class GPT2Parts(MLXParts):
    def embed(self, ids: npt.NDArray[np.int32]) -> Any:
        return self.module.wte(self.mx.array(ids)[None]) + self.module.wpe(self.mx.arange(len(ids)))

    def look(self, layer: int, x: Any) -> tuple[Any, Any]:
        block = self.module.h[layer]
        qkv = self.mx.split(block.attn.c_attn(block.ln_1(x)), 3, axis=-1)
        q, k, v = (part.reshape(1, x.shape[1], block.attn.heads, -1).transpose(0, 2, 1, 3) for part in qkv)
        return self.attend(q, k, v, block.attn.scale)

    def bring(self, layer: int, found: Any) -> Any:
        return self.module.h[layer].attn.c_proj(self.joined(found))

    def mlp(self, layer: int, x: Any) -> Any:
        block = self.module.h[layer]
        return block.mlp(block.ln_2(x))

    def head(self, x: Any) -> Any:
        x = self.module.ln_f(x)
        return self.module.wte.as_linear(x) if self.module.config.tied else self.module.lm_head(x)

    def table(self) -> Any:
        return self.module.wte(self.mx.arange(self.module.config.vocab_size))


class Qwen3Parts(MLXParts):
    def embed(self, ids: npt.NDArray[np.int32]) -> Any:
        return self.module.model.embed_tokens(self.mx.array(ids)[None])

    def look(self, layer: int, x: Any) -> tuple[Any, Any]:
        block, T = self.module.model.layers[layer], x.shape[1]
        attn, normed = block.self_attn, block.input_layernorm(x)
        q, k, v = (
            project(normed).reshape(1, T, -1, attn.head_dim) for project in (attn.q_proj, attn.k_proj, attn.v_proj)
        )
        q, k = attn.rotated(attn.q_norm(q), 0), attn.rotated(attn.k_norm(k), 0)
        return self.attend(q, k, v.transpose(0, 2, 1, 3), attn.head_dim**-0.5)

    def bring(self, layer: int, found: Any) -> Any:
        return self.module.model.layers[layer].self_attn.o_proj(self.joined(found))

    def mlp(self, layer: int, x: Any) -> Any:
        block = self.module.model.layers[layer]
        return block.mlp(block.post_attention_layernorm(x))

    def head(self, x: Any) -> Any:
        x = self.module.model.norm(x)
        return self.module.model.embed_tokens.as_linear(x) if self.module.config.tied else self.module.lm_head(x)

    def table(self) -> Any:
        return self.module.model.embed_tokens(self.mx.arange(self.module.config.vocab_size))
