"""Which back end a model is loaded on: MLX, or NumPy.

Shapes: B batch, T time, V vocabulary.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from mlx_tinylm.backend import BACKENDS
from mlx_tinylm.backend.devices import mlx_has_only_a_cpu, prepare, prepare_if_possible
from mlx_tinylm.checks import brief, check
from mlx_tinylm.model_folder.config import ModelConfig
from mlx_tinylm.model_folder.folder import ModelFolder, open_folder
from mlx_tinylm.model_folder.layout import count_parameters
from mlx_tinylm.text.tokenizer import Tokenizer

# Parameters: up to here NumPy writes on a CPU. At every size measured, on two busy cores, its best run beat MLX's: gpt2
# from 2.5 to 355 million, qwen3 from 2.4 to 201 million. So no crossing is known; this is where measuring ended.
SMALL = 355_000_000


class Cache(Protocol):
    """The keys and values of one layer, for the positions read so far."""

    capacity: int
    position: int


C = TypeVar("C", bound=Cache)


class Model(Protocol[C]):
    """What generation, evaluation and export need of a back end, whose caches are of its own kind."""

    backend: str
    config: ModelConfig

    def new_cache(self, capacity: int) -> list[C]:
        """Room for `capacity` positions in each layer."""
        ...

    def next_logits(self, ids: Sequence[int], cache: list[C]) -> Any:
        """Append ids to the cache -> logits (V,) of the next id; reading them as an array waits for them."""
        ...

    def logits(self, ids: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """(B, T) -> (B, T, V)"""
        ...

    def losses(self, inputs: npt.NDArray[np.int32], targets: npt.NDArray[np.int32]) -> npt.NDArray[np.float32]:
        """(B, T) twice -> (B, T), the cross-entropy of each target in nats."""
        ...


LanguageModel: TypeAlias = Model[Any]


def load(path: Path | str, backend: str = "auto") -> tuple[LanguageModel, Tokenizer]:
    """Open a model folder to generate from, on `backend`: "mlx", "numpy", or "auto" for what is faster here.

    Raises TinyLMError for a folder that is not a whole, consistent model, and for MLX in a process forked from one that
    had set it up.
    """
    check(isinstance(path, (str, os.PathLike)), f"the path of a model folder must be text or a Path, not {brief(path)}")
    folder = open_folder(Path(path))
    return load_model(folder, backend), folder.tokenizer


def load_model(folder: ModelFolder, backend: str = "auto", *, spread: bool = False) -> LanguageModel:
    """The model of an opened folder on a back end; `spread` for evaluation, as in `devices.prepare`.

    "auto" takes MLX wherever it can be imported, but NumPy to generate from a small model where MLX has only a CPU.
    """
    check(backend in BACKENDS, f"no back end {brief(backend)}; there are auto, mlx and numpy")
    small = backend == "auto" and not spread and count_parameters(folder.config) <= SMALL
    if backend == "numpy" or (small and mlx_has_only_a_cpu()):  # known before MLX takes its time to be imported
        compute = None
    else:
        compute = prepare(spread=spread) if backend == "mlx" else prepare_if_possible(spread=spread)
    if compute is None or (small and compute.device == "cpu"):
        from mlx_tinylm.backend.numpy_model import NumpyModel

        return NumpyModel.load(folder)
    from mlx_tinylm.backend.mlx_model import MLXModel

    return MLXModel.load(folder, compute)
