"""The names and shapes of stored tensors, and the two layouts of GPT-2's matrices."""

from __future__ import annotations

from dataclasses import replace

import pytest
from conftest import random_tensors
from tiny_models import GPT2, QWEN3

from mlx_tinylm.model_folder.config import ModelConfig, Quantization
from mlx_tinylm.model_folder.layout import count_parameters, tensor_shapes, transposed

BLOCK = 12 * 16**2 + 13 * 16  # GPT-2's parameters a block: four matrices, their biases, two norms


@pytest.mark.parametrize(
    ("config", "parameters"),
    [
        (GPT2, (13 + 8) * 16 + 2 * BLOCK + 2 * 16),
        (replace(GPT2, tied=False), (13 + 8 + 13) * 16 + 2 * BLOCK + 2 * 16),
        (QWEN3, 13 * 16 + 2 * ((12 + 6 + 6 + 12) * 16 + 3 * 20 * 16 + 2 * 16 + 2 * 6) + 16),
    ],
    ids=["gpt2", "untied", "qwen3"],
)
def test_parameters(config: ModelConfig, parameters: int) -> None:
    """A model has as many parameters as one counts by hand, however they are stored."""
    assert count_parameters(config) == parameters
    assert count_parameters(replace(config, quantization=Quantization(4, 32))) == parameters


def test_quantised_matrices() -> None:
    """A matrix is packed along its inputs, GPT-2's lying down; one that groups do not fill stays as it is."""
    shapes = tensor_shapes(replace(GPT2, width=32, quantization=Quantization(8, 64)))
    assert "wte.scales" not in shapes
    assert shapes["h.0.attn.c_attn.weight"] == (32, 96)
    names = ("h.0.mlp.c_proj.weight", "h.0.mlp.c_proj.scales", "h.0.mlp.c_proj.biases", "h.0.mlp.c_proj.bias")
    assert [shapes[name] for name in names] == [(32, 128 * 8 // 32), (32, 2), (32, 2), (32,)]


def test_transposition_is_its_own_inverse() -> None:
    """GPT-2's four matrices a block change between (in, out) and (out, in), and nothing else does."""
    tensors = random_tensors(GPT2)
    turned = transposed(tensors)
    changed = {name for name in tensors if turned[name].shape != tensors[name].shape}
    assert changed == {f"h.{n}.{m}.weight" for n in (0, 1) for m in ("attn.c_attn", "mlp.c_fc", "mlp.c_proj")}
    assert (turned["h.0.attn.c_proj.weight"] == tensors["h.0.attn.c_proj.weight"].T).all()
    assert (turned["wte.weight"] == tensors["wte.weight"]).all()
    assert all((again == tensors[name]).all() for name, again in transposed(turned).items())
