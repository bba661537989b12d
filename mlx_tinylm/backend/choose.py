"""Who computes: MLX where it can be imported, NumPy elsewhere.

Shapes: B batch, T time, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.model_folder.config import ModelConfig
from mlx_tinylm.model_folder.folder import ModelFolder, open_folder
from mlx_tinylm.text.tokenizer import Tokenizer


class LanguageModel(Protocol):
    """What generation and evaluation need of a back end."""

    backend: str
    config: ModelConfig

    def new_cache(self, capacity: int) -> Any:
        """Room for `capacity` positions."""
        ...

    def next_logits(self, ids: Sequence[int], cache: Any) -> Any:
        """Append ids to the cache -> logits (V,) of the next id; reading them as an array waits for them."""
        ...

    def logits(self, ids: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """(B, T) -> (B, T, V)"""
        ...


def load(path: Path | str, backend: str = "auto") -> tuple[LanguageModel, Tokenizer]:
    """Open a model folder on `backend`: "mlx", "numpy", or "auto" for MLX wherever it can be imported.

    Raises TinyLMError for a folder that is not a whole, consistent model.
    """
    folder = open_folder(Path(path))
    return load_model(folder, backend), folder.tokenizer


def load_model(folder: ModelFolder, backend: str = "auto") -> LanguageModel:
    """The model of an opened folder on a back end; see `load`."""
    if backend not in ("auto", "mlx", "numpy"):
        raise TinyLMError(f"no back end {backend!r}; there are auto, mlx and numpy")
    if backend == "mlx" and not has_mlx():
        raise TinyLMError(MLX_MISSING)
    if backend == "numpy" or not has_mlx():
        from mlx_tinylm.backend.numpy_model import NumpyModel

        return NumpyModel.load(folder)
    from mlx_tinylm.backend.mlx_model import MLXModel

    return MLXModel.load(folder)


MLX_MISSING = (
    "MLX is not installed here. On a Mac with Apple silicon: pip install mlx-tinylm; "
    "on Linux: pip install 'mlx-tinylm[cpu]' (or [cuda])"
)


def has_mlx() -> bool:
    """Whether MLX can be imported; on Linux its wheel alone, without the one of a back end, cannot."""
    from mlx_tinylm.backend.blas import use_fast_blas

    use_fast_blas()
    try:
        import mlx.core  # noqa: F401
    except ImportError:
        return False
    return True


def require_mlx(device: str = "auto") -> None:
    """Make sure MLX is there and computes on `device`: "cpu", "gpu" or "auto"; raises TinyLMError if it cannot."""
    if not has_mlx():
        raise TinyLMError(MLX_MISSING)
    from mlx_tinylm.backend.devices import use_device

    use_device(device)
