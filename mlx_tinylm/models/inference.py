"""A loaded MLX model behind the few calls that generation and evaluation need.

Shapes: B batch, T time, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import numpy.typing as npt

from mlx_tinylm.config import ModelConfig
from mlx_tinylm.models import build, load_stored
from mlx_tinylm.models.cache import KVCache
from mlx_tinylm.tensor_files import Tensors
from mlx_tinylm.weights import ModelFolder


class MLXModel:
    """The MLX twin of `numpy_models.NumpyModel`; `module` is the mlx.nn module inside."""

    backend = "mlx"

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.config: ModelConfig = module.config

    @classmethod
    def load(cls, folder: ModelFolder) -> MLXModel:
        """Build the model of a folder and fill in its weights; raises TinyLMError as `read_tensors` does."""
        return cls.with_tensors(folder.config, folder.tensors())

    @classmethod
    def with_tensors(cls, config: ModelConfig, tensors: Tensors) -> MLXModel:
        """The model that `config` describes, with its stored tensors."""
        module = build(config)
        load_stored(module, tensors)
        mx.eval(module.parameters())
        return cls(module)

    def new_cache(self, capacity: int) -> list[KVCache]:
        return [KVCache(capacity) for _ in range(self.config.layers)]

    def next_logits(self, ids: Sequence[int], cache: list[KVCache]) -> mx.array:
        """Append ids to the cache; the logits (V,) of the id that follows, on their way but not waited for."""
        logits = self.module(mx.array([list(ids)]), cache)[0, -1].astype(mx.float32)
        mx.async_eval(logits)
        return logits

    def logits(self, ids: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """(B, T) -> (B, T, V) float32"""
        return np.array(self.module(mx.array(ids.astype(np.int32))).astype(mx.float32))
