"""What an installation is made of, and what a model folder holds."""

from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from conftest import random_folder

from mlx_tinylm import info
from mlx_tinylm.backend.blas import use_fast_blas
from mlx_tinylm.cli.terminal import facts
from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.model_folder.config import GPT2Config, ModelConfig, Quantization, Qwen3Config

GPT2 = GPT2Config(vocab_size=13, context=8, width=32, layers=2, heads=2)
QWEN3 = Qwen3Config(vocab_size=13, context=8, width=32, layers=2, heads=2, kv_heads=1, head_dim=6, hidden=20)


def test_system() -> None:
    """Versions are those that are installed, the device MLX's default, the matrix library the one in use."""
    found = info.system_facts()
    for package in ("mlx", "numpy", "tokenizers", "safetensors"):
        assert found[package] == importlib.metadata.version(package)
    assert found["numpy"] == np.__version__
    assert found["back end"] == "mlx"
    assert found["device"] == str(mx.default_device())
    assert found["matrix products"] == use_fast_blas().source
    assert found["cpu cores"] >= 1
    assert json.loads(json.dumps(found)) == found


def test_system_without_mlx(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where MLX is not installed, that is said, and NumPy is the back end."""

    def version(package: str) -> str:
        if package.startswith("mlx"):
            raise importlib.metadata.PackageNotFoundError(package)
        return "1.0"

    monkeypatch.setattr(importlib.metadata, "version", version)
    monkeypatch.setattr(info, "has_mlx", lambda: False)
    found = info.system_facts()
    assert (found["mlx"], found["back end"]) == ("not installed", "numpy")
    assert "device" not in found


@pytest.mark.parametrize("config", [GPT2, QWEN3], ids=lambda config: config.family)
def test_model(config: ModelConfig, tmp_path: Path) -> None:
    """The shape is that of config.json, the parameters are counted tensor by tensor, and all of it is JSON."""
    found = info.model_facts(random_folder(tmp_path, config))
    assert (found["family"], found["layers"], found["heads"], found["width"]) == (config.family, 2, 2, 32)
    assert (found["context"], found["vocabulary"]) == (8, 13)
    assert found["parameters"] == sum(tensor["parameters"] for tensor in found["tensors"].values())
    embedding = "wte.weight" if config.family == "gpt2" else "model.embed_tokens.weight"
    assert found["tensors"][embedding] == {"shape": [13, 32], "type": "float32", "parameters": 13 * 32}
    assert json.loads(json.dumps(found)) == found
    assert f"{found['parameters']:,}" in facts(found)


def test_parameters_by_hand() -> None:
    """GPT-2's count is the sum in closed form, so no matrix or bias is forgotten."""
    V, C, D, L = 13, 8, 32, 2
    from mlx_tinylm.model_folder.layout import count_parameters

    assert count_parameters(GPT2) == V * D + C * D + L * (12 * D * D + 13 * D) + 2 * D
    H, G, K, F = 2, 1, 6, 20
    assert count_parameters(QWEN3) == V * D + L * (2 * D * K * (H + G) + 3 * D * F + 2 * D + 2 * K) + D


def test_a_quantised_model(tmp_path: Path) -> None:
    """Packed tensors are shown as they are stored, and parameters counted as they were trained."""
    from dataclasses import replace

    quantised = replace(GPT2, quantization=Quantization(4, 32))
    found = info.model_facts(random_folder(tmp_path, quantised))
    assert found["tensors"]["wte.weight"]["shape"] == [13, 4]
    assert found["tensors"]["wte.weight"]["type"] == "uint32"
    assert found["parameters"] == info.model_facts(random_folder(tmp_path / "plain", GPT2))["parameters"]


def test_no_model(tmp_path: Path) -> None:
    """A folder that holds no model is refused as everywhere."""
    with pytest.raises(TinyLMError, match=r"no config.json here"):
        info.model_facts(tmp_path)
