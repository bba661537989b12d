"""MLX's packed matrices, read bit by bit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from conftest import random_folder
from tiny_models import GPT2, QWEN3

from mlx_tinylm.backend.choose import load
from mlx_tinylm.model_folder.config import ModelConfig, Quantization
from mlx_tinylm.model_folder.folder import open_folder
from mlx_tinylm.model_folder.quantization import dequantise
from mlx_tinylm.models.build import build, load_stored


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


@pytest.mark.parametrize("bits", [3, 5, 6])
def test_numbers_across_words(bits: int) -> None:
    """Numbers of 3, 5 or 6 bits follow each other bit by bit, from the lowest bit of a word into the next one."""
    numbers = [place * 7 % 2**bits for place in range(64)]
    stream = sum(number << place * bits for place, number in enumerate(numbers))
    packed = np.array([[stream >> 32 * word & 0xFFFFFFFF for word in range(2 * bits)]], np.uint32)
    w = dequantise(packed, np.array([[2, 2]], np.float32), np.array([[-1, 1]], np.float32), Quantization(bits, 32))
    assert w.tolist() == [[2 * q + (-1 if place < 32 else 1) for place, q in enumerate(numbers)]]


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
@pytest.mark.parametrize("group", [32, 64, 128])
def test_every_width_that_mlx_packs(bits: int, group: int) -> None:
    """What MLX packs comes back as MLX itself gives it back, in every affine width and group."""
    matrix = mx.array(np.random.default_rng(bits).standard_normal((5, 384), dtype=np.float32))
    parts = mx.quantize(matrix, group_size=group, bits=bits)
    expected = np.array(mx.dequantize(*parts, group_size=group, bits=bits))
    packed, scales, biases = map(np.array, parts)
    np.testing.assert_allclose(
        dequantise(packed, scales, biases, Quantization(bits, group)), expected, atol=1e-6, rtol=0
    )


@pytest.mark.parametrize("bits", [2, 3, 5, 6])
@pytest.mark.parametrize(
    "config", [replace(GPT2, width=64), replace(QWEN3, width=32, head_dim=32, hidden=96)], ids=lambda c: c.family
)
def test_folders_of_every_width(config: ModelConfig, bits: int, tmp_path: Path) -> None:
    """A folder of any affine width opens on both back ends, with the logits of MLX's own packed matrices."""
    packed = replace(config, quantization=Quantization(bits, 32))
    folder = random_folder(tmp_path, packed)
    module = build(packed)
    load_stored(module, open_folder(folder).tensors())
    ids = np.arange(8)[None]
    expected = np.array(module(mx.array(ids)))
    assert expected.std() > 0.1
    for backend in ("mlx", "numpy"):
        np.testing.assert_allclose(load(folder, backend)[0].logits(ids), expected, atol=1e-4, rtol=0)
