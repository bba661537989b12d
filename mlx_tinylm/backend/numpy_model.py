"""A loaded NumPy model behind the few calls that generation and evaluation need.

Shapes: B batch, T time, V vocabulary.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mlx_tinylm.backend.blas import cpus
from mlx_tinylm.backend.numpy_threads import at_most_threads, spread_over_cores
from mlx_tinylm.model_folder.config import GPT2Config, ModelConfig
from mlx_tinylm.model_folder.folder import ModelFolder
from mlx_tinylm.model_folder.quantization import dequantised
from mlx_tinylm.model_folder.tensor_files import Tensors
from mlx_tinylm.numpy_models.cache import KVCache
from mlx_tinylm.numpy_models.gpt2 import GPT2
from mlx_tinylm.numpy_models.packing import in_one_block
from mlx_tinylm.numpy_models.qwen3 import Qwen3

NARROW = 512  # a product of a wider model is worth the threads that the BLAS gives it
SCORES_AT_ONCE = 1 << 26  # numbers; bounds the memory for attention where windows are long


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
        # One new id after the other is as fast with any number of threads: not worth setting it each time.
        threads = at_most_threads(1) if len(ids) > 1 and self.config.width <= NARROW else contextlib.nullcontext()
        with threads, _quiet():
            x = self.network.hidden_states(np.asarray(ids), cache)
            logits: npt.NDArray[np.float32] = self.network.head(x[-1:])[0]
            return logits

    def logits(self, ids: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """(B, T) -> (B, T, V) float32."""
        return self._each_window(self._window_logits, ids)

    def losses(self, inputs: npt.NDArray[np.int32], targets: npt.NDArray[np.int32]) -> npt.NDArray[np.float32]:
        """(B, T) twice -> (B, T), the cross-entropy of each target in nats."""

        def window_losses(ids: npt.NDArray[np.int32], wanted: npt.NDArray[np.int32]) -> npt.NDArray[np.float32]:
            return cross_entropy(self._window_logits(ids), wanted)

        return self._each_window(window_losses, inputs, targets)

    def _window_logits(self, ids: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """(T,) -> (T, V)"""
        with _quiet():
            return self.network.head(self.network.hidden_states(ids))

    def _each_window(
        self, function: Callable[..., npt.NDArray[np.float32]], *batches: npt.NDArray[Any]
    ) -> npt.NDArray[np.float32]:
        """The stacked results of a function of rows (T,), one of each batch (B, T), computed on all cores."""
        B, T = batches[0].shape
        workers = max(1, min(cpus(), B, SCORES_AT_ONCE // (self.config.heads * T * T)))
        threads = 1 if self.config.width <= NARROW else cpus() // workers
        return np.stack(spread_over_cores(function, *batches, workers=workers, threads=threads))


def build(config: ModelConfig, tensors: Tensors) -> GPT2 | Qwen3:
    """The parameters of the stored `tensors`, laid out for fast inference."""
    if config.quantization:
        tensors = dequantised(tensors, config.quantization)
    if not isinstance(config, GPT2Config):
        return in_one_block(Qwen3.prepare(config, tensors))
    return in_one_block(GPT2.prepare(config, tensors))


def cross_entropy(logits: npt.NDArray[np.float32], targets: npt.NDArray[np.int32]) -> npt.NDArray[np.float32]:
    """(..., T, V) and (..., T) -> (..., T) nats"""
    with _quiet():  # minus infinity, whose exponential is the right 0
        shifted = logits - logits.max(axis=-1, keepdims=True)
        chosen = np.take_along_axis(shifted, targets[..., None], axis=-1)[..., 0]
        losses: npt.NDArray[np.float32] = np.log(np.exp(shifted).sum(axis=-1)) - chosen
    return losses


def _quiet() -> np.errstate:
    """Damaged weights overflow here as silently as in MLX: whoever reads the logits checks them."""
    return np.errstate(over="ignore", invalid="ignore")
