"""A loaded MLX model behind the few calls that generation and evaluation need.

Shapes: B batch, T time, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import numpy.typing as npt

from mlx_tinylm.backend.devices import Compute, check_not_forked
from mlx_tinylm.backend.lanes import shards, streams
from mlx_tinylm.model_folder.config import ModelConfig
from mlx_tinylm.model_folder.folder import ModelFolder
from mlx_tinylm.model_folder.quantization import dequantised
from mlx_tinylm.model_folder.tensor_files import Tensors
from mlx_tinylm.models.build import Model, build, load_stored
from mlx_tinylm.models.cache import KVCache


class MLXModel:
    """The MLX twin of `numpy_model.NumpyModel`; `module` is the mlx.nn module inside."""

    backend = "mlx"

    def __init__(self, module: Model, compute: Compute) -> None:
        self.module = module
        self.compute = compute
        self.config: ModelConfig = module.config

    @classmethod
    def load(cls, folder: ModelFolder, compute: Compute) -> MLXModel:
        """Build the model of a folder and fill in its weights; raises TinyLMError as `read_tensors` does."""
        return cls.with_tensors(folder.config, folder.tensors(), compute)

    @classmethod
    def with_tensors(cls, config: ModelConfig, tensors: Tensors, compute: Compute) -> MLXModel:
        """The model that `config` describes, with its stored tensors; on a CPU, quantised ones are unpacked."""
        if config.quantization and compute.device == "cpu":  # MLX multiplies packed matrices fast on a GPU only
            tensors = dequantised(tensors, config.quantization)
            config = replace(config, quantization=None)
        module = build(config)
        load_stored(module, tensors)
        mx.eval(module.parameters())
        return cls(module, compute)

    def new_cache(self, capacity: int) -> list[KVCache]:
        """Room for `capacity` positions. Past them qwen3 drops the oldest; gpt2 raises ValueError."""
        return [KVCache(capacity) for _ in range(self.config.layers)]

    def next_logits(self, ids: Sequence[int], cache: list[KVCache]) -> mx.array:
        """Append ids to the cache -> logits (V,) of the id that follows, dispatched but not waited for."""
        check_not_forked()
        logits: mx.array = self.module(mx.array([list(ids)]), cache)[0, -1].astype(mx.float32)
        mx.async_eval(logits)
        return logits

    def logits(self, ids: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """(B, T) -> (B, T, V) float32"""
        check_not_forked()
        return np.array(self.module(mx.array(ids.astype(np.int32))).astype(mx.float32))

    def losses(self, inputs: npt.NDArray[np.int32], targets: npt.NDArray[np.int32]) -> npt.NDArray[np.float32]:
        """(B, T) twice -> (B, T), the cross-entropy of each target in nats; the logits stay on the device."""
        check_not_forked()
        ids, wanted = mx.array(inputs), mx.array(targets)
        spread = streams(self.compute, len(inputs))
        rows = []
        for stream, shard in zip(spread, shards(len(inputs), len(spread)), strict=True):
            with mx.stream(stream):
                rows.append(nn.losses.cross_entropy(self.module(ids[shard]).astype(mx.float32), wanted[shard]))
        return np.array(mx.concatenate(rows))
