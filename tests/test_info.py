"""What an installation is made of, and what a model folder holds."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import platform
import re
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from conftest import random_folder

from mlx_tinylm.backend.blas import Blas
from mlx_tinylm.backend.devices import Compute, prepare
from mlx_tinylm.backend.products import products_here
from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.info import SystemFacts, model_facts, system_facts
from mlx_tinylm.model_folder.config import GPT2Config, ModelConfig, Quantization, Qwen3Config
from mlx_tinylm.model_folder.layout import count_parameters, transposed
from mlx_tinylm.model_folder.tensor_files import read_safetensors, write_tensors
from mlx_tinylm.model_folder.trained_on import TextRecord

GPT2 = GPT2Config(vocab_size=13, context=8, width=32, layers=2, heads=2)
QWEN3 = Qwen3Config(vocab_size=13, context=8, width=32, layers=2, heads=2, kv_heads=1, head_dim=6, hidden=20)
NO_MLX = SystemFacts("3.11", "Linux", {"mlx-tinylm": "0.1", "mlx": "not installed", "numpy": "2.0"}, 4, None)
COMPUTE = Compute("cpu", 3, 1, Blas("MLX's own", hint="install another"))
LINES = [("python", "3.11"), ("system", "Linux"), ("mlx-tinylm", "0.1"), ("mlx", "not installed"), ("numpy", "2.0")]


def test_this_system() -> None:
    """Versions are those that are installed, and what computes is what `prepare` sets up for training."""
    found = system_facts()
    assert found.versions["numpy"] == importlib.metadata.version("numpy")
    assert found.versions["mlx"] == importlib.metadata.version("mlx")
    assert found.compute == prepare(spread=True)
    keys = found.to_json()
    assert all(re.fullmatch("[a-z0-9_]+", key) for key in keys)
    assert {"python", "mlx_tinylm", "cpu_cores", "backend", "device", "streams", "matrix_products"} <= keys.keys()
    assert json.loads(json.dumps(keys)) == keys


def test_the_table_of_a_system() -> None:
    """People read what computes with its labels, without what is not known; NumPy does where MLX is not installed."""
    assert NO_MLX.rows() == [*LINES, ("cpu cores", 4), ("back end", "numpy")]
    with_mlx = dataclasses.replace(NO_MLX, compute=COMPUTE, device_name="M4", memory="16.0 GiB")
    expected = [*LINES, ("cpu cores", 4), ("back end", "mlx"), ("device", "cpu"), ("streams in training", 3)]
    expected += [("BLAS threads in each", 1), ("device name", "M4"), ("memory", "16.0 GiB")]
    assert with_mlx.rows() == [*expected, ("matrix products", "MLX's own"), ("hint", "install another")]
    on_gpu = dataclasses.replace(NO_MLX, compute=Compute("gpu", 1, None, Blas("Accelerate (macOS)")))
    assert on_gpu.to_json().keys() & {"blas_threads", "device_name", "memory", "hint"} == set()


@pytest.mark.parametrize("config", [GPT2, QWEN3], ids=lambda config: config.family)
def test_a_model(config: ModelConfig, tmp_path: Path) -> None:
    """The shape is that of config.json, the parameters are counted tensor by tensor, and all of it is JSON."""
    facts = model_facts(random_folder(tmp_path, config))
    found = facts.to_json()
    shape = {"model": str(tmp_path), "family": config.family, "layers": 2, "heads": 2, "width": 32, "context": 8}
    shape |= {"vocabulary": 13, "tokenizer": "characters"}
    shape |= {"parameters": sum(tensor["parameters"] for tensor in found["tensors"].values())}
    size = (tmp_path / "model.safetensors").stat().st_size
    shape |= {
        "run": None,
        "text": None,
        "weights_bytes": size,
        "folder_bytes": sum(f.stat().st_size for f in tmp_path.iterdir()),
    }
    assert found == {**shape, "tensors": found["tensors"]}
    rows = {"model": str(tmp_path), "size on disk": f"{size / 1e6:.1f} MB"} | shape
    rows = {name: rows[name] for name in rows if name not in ("run", "text", "weights_bytes", "folder_bytes")}
    assert [row[0] for row in facts.rows()] == list(rows)
    assert dict(facts.rows()) == rows | {"size on disk": dict(facts.rows())["size on disk"]}
    embedding = "wte.weight" if config.family == "gpt2" else "model.embed_tokens.weight"
    assert found["tensors"][embedding] == {"shape": [13, 32], "type": "float32", "parameters": 13 * 32}
    assert json.loads(json.dumps(found)) == found


LAYER = "input_layernorm self_attn.q_proj self_attn.k_proj self_attn.v_proj self_attn.q_norm self_attn.k_norm "
LAYER += "self_attn.o_proj post_attention_layernorm mlp.gate_proj mlp.up_proj mlp.down_proj"


def test_kinds_of_tensors(tmp_path: Path) -> None:
    """Each name is there once with the count of its layers, in the order in which a model computes with them."""
    config = dataclasses.replace(QWEN3, layers=11, tied=False)
    facts = model_facts(random_folder(tmp_path, config))
    layer = [f"model.layers.*.{name}.weight" for name in LAYER.split()]
    outside = ["model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"]
    assert [kind.name for kind in facts.kinds()] == [outside[0], *layer, *outside[1:]]
    assert {kind.name: kind.count for kind in facts.kinds()} == dict.fromkeys(layer, 11) | dict.fromkeys(outside, 1)
    assert sum(kind.parameters for kind in facts.kinds()) == count_parameters(config)
    names = list(facts.tensors)
    assert names[1:12] == [name.replace("*", "0") for name in layer]
    assert names[-13:-2] == [name.replace("*", "10") for name in layer]


def test_parameters_by_hand() -> None:
    """The counts are the sums in closed form, so no matrix or bias is forgotten."""
    V, C, D, L = 13, 8, 32, 2
    assert count_parameters(GPT2) == V * D + C * D + L * (12 * D * D + 13 * D) + 2 * D
    H, G, K, F = 2, 1, 6, 20
    assert count_parameters(QWEN3) == V * D + L * (2 * D * K * (H + G) + 3 * D * F + 2 * D + 2 * K) + D


def test_a_quantised_model(tmp_path: Path) -> None:
    """Quantised tensors are shown as they are stored, and parameters counted as they were trained."""
    facts = model_facts(random_folder(tmp_path, dataclasses.replace(GPT2, quantization=Quantization(4, 32))))
    assert (facts.tensors["wte.weight"].shape, facts.tensors["wte.weight"].type) == ((13, 4), "uint32")
    assert dict(facts.rows())["parameters"] == count_parameters(GPT2)
    assert [kind.name for kind in facts.kinds()][:3] == ["wte.weight", "wte.scales", "wte.biases"]


@pytest.mark.parametrize("prefix", ["", "transformer.", "model."])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_types_are_those_on_disk(dtype: str, prefix: str, tmp_path: Path) -> None:
    """Numbers are widened when they are read, but shown as they are stored, whatever other tools call the tensors."""
    random_folder(tmp_path, GPT2)
    tensors = read_safetensors(tmp_path / "model.safetensors")
    tensors = transposed(tensors) if prefix == "model." else tensors  # as mlx-lm stores them
    write_tensors(tmp_path / "model.safetensors", {prefix + name: tensor for name, tensor in tensors.items()}, dtype)
    assert {tensor.type for tensor in model_facts(tmp_path).tensors.values()} == {dtype}


def test_the_text_of_an_export(tmp_path: Path) -> None:
    """A model without a run says what it was trained on, where its config.json does."""
    config = random_folder(tmp_path, GPT2) / "config.json"
    text = TextRecord("book.txt", "ab" * 32, 12345)
    config.write_text(json.dumps(json.loads(config.read_text()) | text.to_json()))
    assert model_facts(tmp_path).rows()[1] == ("text", "book.txt, 12,345 characters")
    assert model_facts(tmp_path).to_json()["text"]["sha256"] == text.sha256


def test_no_model(tmp_path: Path) -> None:
    """A folder that holds no model is refused as everywhere."""
    with pytest.raises(TinyLMError, match=r"no config.json here"):
        model_facts(tmp_path)


def test_a_system_with_a_gpu() -> None:
    """Of a Mac, its system, GPU and memory are there, whether products are TF32, and that they are right."""
    gpu = Compute("gpu", 1, None, Blas("Accelerate (macOS)"))
    facts = dataclasses.replace(NO_MLX, compute=gpu, macos="26.1", architecture="applegpu_g17s", products="right")
    found = facts.to_json()
    assert (found["macos"], found["architecture"], found["products"]) == ("26.1", "applegpu_g17s", "right")
    assert found["tf32"] == "off"  # as the tests ask for
    assert dict(facts.rows())["TF32 in float32 products"] == "off"
    assert "tf32" not in dataclasses.replace(facts, compute=COMPUTE).to_json()  # a CPU has none


@pytest.mark.parametrize(
    ("device", "memory"), [({"memory_size": 2**34}, "16.0 GiB"), ({"total_memory": 3 * 2**33}, "24.0 GiB"), ({}, None)]
)
def test_what_mlx_says_of_its_device(
    device: dict[str, int], memory: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory is that of Metal or of CUDA, which have different names for it; the name of macOS is the system's."""
    named = {"device_name": "a GPU", "architecture": "sm_120"} | device
    monkeypatch.setattr(mx, "device_info", lambda: named)
    monkeypatch.setattr(platform, "mac_ver", lambda: ("26.1", ("", "", ""), "arm64"))
    facts = system_facts()
    assert (facts.device_name, facts.architecture, facts.memory) == ("a GPU", "sm_120", memory)
    assert (facts.macos, facts.products) == ("26.1", "right in float32 and bfloat16")


def test_products_that_are_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """An MLX that multiplies wrong, or fails to, is named with the type and what to do; a right one is right."""
    assert products_here() == "right in float32 and bfloat16"
    right = mx.array

    def off(numbers: np.ndarray[Any, Any]) -> mx.array:
        return right(numbers) + right(numbers == 3)

    def failing(numbers: np.ndarray[Any, Any]) -> mx.array:
        raise RuntimeError("no kernel")

    monkeypatch.setattr(mx, "array", off)
    assert products_here().startswith("wrong in float32; this MLX does not fit the system")
    monkeypatch.setattr(mx, "array", failing)
    assert products_here().startswith("float32 fails (no kernel); this MLX does not fit the system")
