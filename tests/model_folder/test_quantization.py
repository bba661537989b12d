"""MLX's packed matrices, read bit by bit."""

from __future__ import annotations

import numpy as np

from mlx_tinylm.model_folder.config import Quantization
from mlx_tinylm.model_folder.quantization import dequantise


def test_dequantise_literal_bits() -> None:
    """The first number is in the lowest bits of the first word, and w = scale * q + bias by group."""
    scales = np.array([[2.0, 0.5]], np.float32)
    biases = np.array([[-1.0, 10.0]], np.float32)
    four = np.array([[0x76543210, 0xFEDCBA98, 0, 0, 0x0000000F, 0, 0, 0]], np.uint32)
    w = dequantise(four, scales, biases, Quantization(bits=4, group_size=32))
    assert w.shape == (1, 64)
    assert w.dtype == np.float32
    assert w[0, :16].tolist() == [2 * q - 1 for q in range(16)]
    assert w[0, 32:34].tolist() == [17.5, 10]
    eight = np.array([[0xFF020100, *[0] * 15]], np.uint32)
    w = dequantise(eight, scales, biases, Quantization(bits=8, group_size=32))
    assert w[0, :5].tolist() == [-1, 1, 3, 509, -1]
    assert w[0, 32] == 10
