"""What several test files share: model folders with random weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mlx_tinylm.config import ModelConfig
from mlx_tinylm.tokenizer import Tokenizer
from mlx_tinylm.weights import Tensors, tensor_shapes, write_folder, write_tensors


def random_tensors(config: ModelConfig, seed: int = 0) -> Tensors:
    """Stored tensors of about the size a trained model has, and no symmetry that could hide a mistake."""
    random = np.random.default_rng(seed)
    tensors: Tensors = {}
    for name, shape in tensor_shapes(config).items():
        values = random.standard_normal(shape, dtype=np.float32)
        if len(shape) == 2:  # as large as keeps products near 1
            tensors[name] = values * np.float32(shape[1] ** -0.5)
        else:  # a norm's weight is near 1, a bias near 0
            tensors[name] = values * np.float32(0.1) + np.float32(name.endswith(".weight"))
    if config.quantization:
        for name in [name.removesuffix(".scales") for name in tensors if name.endswith(".scales")]:
            packed, scales = tensors[f"{name}.weight"], tensors[f"{name}.scales"]
            columns, levels = scales.shape[1] * config.quantization.group_size, 2**config.quantization.bits
            scales[:] = (4 + scales) * columns**-0.5 / levels
            tensors[f"{name}.biases"] = scales * np.float32(-levels / 2)
            tensors[f"{name}.weight"] = random.integers(0, 2**32, packed.shape, dtype=np.uint32)
    return tensors


def random_folder(folder: Path, config: ModelConfig, seed: int = 0) -> Path:
    """Write a whole model folder with random weights and `vocab_size - 1` printable characters."""
    folder.mkdir(parents=True, exist_ok=True)
    alphabet = "".join(chr(ord(" ") + place) for place in range(config.vocab_size - 1))
    write_folder(folder, config, Tokenizer.from_alphabet(alphabet))
    write_tensors(folder / "model.safetensors", random_tensors(config, seed))
    return folder
