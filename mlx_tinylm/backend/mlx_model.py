"""A loaded MLX model behind the few calls that generation and evaluation need.

Shapes: B batch, T time, V vocabulary.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import numpy.typing as npt

from mlx_tinylm.model_folder.config import ModelConfig, Qwen3Config
from mlx_tinylm.model_folder.folder import ModelFolder
from mlx_tinylm.model_folder.layout import count_parameters
from mlx_tinylm.model_folder.tensor_files import Tensors
from mlx_tinylm.models.build import build, load_stored
from mlx_tinylm.models.cache import KVCache
from mlx_tinylm.models.qwen3_step import Qwen3Step

SMALL = 1 << 24  # parameters; larger models spend their time on their matrices, not on the number of operations


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

    @functools.cached_property
    def step(self) -> Qwen3Step | None:
        """A quicker way to compute a single position, or None; it copies the weights, so only for small models."""
        fits = isinstance(self.config, Qwen3Config) and not self.config.quantization
        return Qwen3Step(self.module) if fits and count_parameters(self.config) <= SMALL else None

    def new_cache(self, capacity: int) -> list[KVCache]:
        return [KVCache(capacity) for _ in range(self.config.layers)]

    def next_logits(self, ids: Sequence[int], cache: list[KVCache]) -> mx.array:
        """Append ids to the cache; the logits (V,) of the id that follows, on their way but not waited for."""
        if len(ids) == 1 and self.step:
            logits = self.step(ids[0], cache)
        else:
            logits = self.module(mx.array([list(ids)]), cache)[0, -1].astype(mx.float32)
        mx.async_eval(logits)
        return logits

    def logits(self, ids: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """(B, T) -> (B, T, V) float32"""
        return np.array(self.module(mx.array(ids.astype(np.int32))).astype(mx.float32))
