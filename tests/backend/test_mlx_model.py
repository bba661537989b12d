"""A loaded MLX model: on a CPU, packed matrices are unpacked once and for all."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import mlx.nn as nn
import numpy as np
import pytest
from conftest import random_folder
from tiny_models import GPT2, QWEN3

from mlx_tinylm.backend.devices import Compute, prepare
from mlx_tinylm.backend.mlx_model import MLXModel
from mlx_tinylm.model_folder.config import ModelConfig, Quantization
from mlx_tinylm.model_folder.folder import open_folder

CONFIGS = [
    replace(GPT2, width=32, quantization=Quantization(4, 32)),
    replace(QWEN3, width=64, hidden=96, quantization=Quantization(8, 32)),  # attention's inner width is no multiple
]


def packed(model: MLXModel) -> int:
    return sum(isinstance(layer, nn.QuantizedLinear | nn.QuantizedEmbedding) for layer in model.module.modules())


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.family)
def test_packed_matrices(config: ModelConfig, tmp_path: Path) -> None:
    """A GPU multiplies them as they are; for a CPU, to which that takes several times as long, they are plain."""
    folder = open_folder(random_folder(tmp_path / "mine", config))
    blas = prepare().blas
    on_cpu, on_gpu = (MLXModel.load(folder, Compute(device, 1, None, blas)) for device in ("cpu", "gpu"))
    assert packed(on_cpu) == 0 < packed(on_gpu)
    ids = np.random.default_rng(0).integers(0, config.vocab_size, (2, config.context))
    expected = on_gpu.logits(ids)
    assert expected.std() > 0.1
    np.testing.assert_allclose(on_cpu.logits(ids), expected, atol=5e-5)
