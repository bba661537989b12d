"""A loaded NumPy model behind the few calls that generation and evaluation need.

Shapes: B batch, T time, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mlx_tinylm.model_folder.config import GPT2Config, ModelConfig
from mlx_tinylm.model_folder.folder import ModelFolder
from mlx_tinylm.model_folder.quantization import dequantised
from mlx_tinylm.model_folder.tensor_files import Tensors
from mlx_tinylm.numpy_models.cache import KVCache
from mlx_tinylm.numpy_models.gpt2 import GPT2
from mlx_tinylm.numpy_models.packing import packed
from mlx_tinylm.numpy_models.qwen3 import Qwen3


class NumpyModel:
    """The NumPy twin of `mlx_model.MLXModel`; `network` holds the prepared parameters."""

    backend = "numpy"

    def __init__(self, config: ModelConfig, tensors: Tensors) -> None:
        self.config = config
        with _quiet():
            self.network = build(config, tensors)

    @classmethod
    def load(cls, folder: ModelFolder) -> NumpyModel:
        """The model of a folder; raises TinyLMError as `read_tensors` does."""
        return cls(folder.config, folder.tensors())

    def new_cache(self, capacity: int) -> list[KVCache]:
        """Room for `capacity` positions. Past them qwen3 drops the oldest; gpt2 raises ValueError."""
        return self.network.new_cache(capacity)

    def next_logits(self, ids: Sequence[int], cache: list[KVCache]) -> npt.NDArray[np.float32]:
        """Append ids to the cache -> the logits (V,) of the id that follows."""
        with _quiet():
            x = self.network.stack(np.asarray(ids), cache)
            logits: npt.NDArray[np.float32] = self.network.head(x[-1:])[0]
            return logits

    def logits(self, ids: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """(B, T) -> (B, T, V) float32."""
        with _quiet():
            return np.stack([self.network.head(self.network.stack(row)) for row in ids])


def build(config: ModelConfig, tensors: Tensors) -> GPT2 | Qwen3:
    """The parameters of the stored `tensors`, laid out for fast inference."""
    if config.quantization:
        tensors = dequantised(tensors, config.quantization)
    if not isinstance(config, GPT2Config):
        return packed(Qwen3.prepare(config, tensors))
    return packed(GPT2.prepare(config, tensors))


def _quiet() -> np.errstate:
    """Damaged weights overflow here as silently as in MLX: whoever reads the logits checks them."""
    return np.errstate(over="ignore", invalid="ignore")
