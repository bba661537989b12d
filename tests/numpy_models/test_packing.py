"""All parameters in one block of memory."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
from conftest import random_folder

from mlx_tinylm.model_folder.config import GPT2Config, ModelConfig, Qwen3Config
from mlx_tinylm.model_folder.folder import open_folder
from mlx_tinylm.numpy_models.gpt2 import GPT2
from mlx_tinylm.numpy_models.packing import in_one_block
from mlx_tinylm.numpy_models.qwen3 import Qwen3

CONFIGS: list[ModelConfig] = [
    GPT2Config(vocab_size=13, context=8, width=6, layers=2, heads=2),
    Qwen3Config(vocab_size=13, context=8, width=6, layers=2, heads=2, kv_heads=1, head_dim=6, hidden=5),
]


def test_in_one_block(tmp_path: Path) -> None:
    """Every array of a model keeps its values and shape, in one block, and none lies over another."""
    for config in CONFIGS:
        folder = open_folder(random_folder(tmp_path / config.family, config))
        family = GPT2 if isinstance(config, GPT2Config) else Qwen3
        before = family.prepare(config, folder.tensors())  # type: ignore[arg-type]
        after = in_one_block(before)
        one, other = list(arrays(before)), list(arrays(after))
        assert len(one) > 10
        for a, b in zip(one, other, strict=True):
            np.testing.assert_array_equal(a, b)
            assert b.flags.c_contiguous
            assert b.base is not None
        assert len({id(root(b)) for b in other}) == 1
        places = sorted((b.ctypes.data, b.nbytes) for b in other)
        assert all(start + size <= following for (start, size), (following, _) in itertools.pairwise(places))


def arrays(part: object) -> list[np.ndarray]:
    """The arrays of a tree, found on another way than `in_one_block` goes."""
    if isinstance(part, np.ndarray):
        return [part]
    inside = part if isinstance(part, list) else list(getattr(part, "__dict__", {}).values())
    return [array for each in inside for array in arrays(each)]


def root(array: np.ndarray) -> np.ndarray:
    while array.base is not None:
        array = array.base
    return array
