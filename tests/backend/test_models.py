"""What both back ends offer: which one is taken, and the loss of each target."""

from __future__ import annotations

import importlib.metadata
import sys
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from conftest import random_folder

from mlx_tinylm.backend import choose
from mlx_tinylm.backend.choose import load, load_model
from mlx_tinylm.backend.devices import Compute, prepare
from mlx_tinylm.backend.mlx_model import MLXModel
from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.model_folder.config import GPT2Config, ModelConfig, Qwen3Config
from mlx_tinylm.model_folder.folder import open_folder

CONFIGS: list[ModelConfig] = [
    GPT2Config(vocab_size=13, context=12, width=15, layers=2, heads=3),
    Qwen3Config(vocab_size=13, context=12, width=15, layers=2, heads=6, kv_heads=2, head_dim=10, hidden=23),
]
every_family = pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.family)


@every_family
@pytest.mark.parametrize("backend", ["mlx", "numpy"])
def test_losses(config: ModelConfig, backend: str, tmp_path: Path) -> None:
    """The loss of a target is minus the logarithm of its softmax probability, whatever the batch and its spread."""
    folder = open_folder(random_folder(tmp_path / "mine", config))
    model = load_model(folder, backend, spread=True)
    ids = np.random.default_rng(0).integers(0, 13, (5, 8)).astype(np.int32)
    inputs, targets = ids[:, :-1], ids[:, 1:]
    logits = model.logits(inputs).astype(np.float64)
    chances = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    expected = -np.log(np.take_along_axis(chances, targets[..., None], -1)[..., 0])
    found = model.losses(inputs, targets)
    assert (found.shape, found.dtype) == (targets.shape, np.float32)
    np.testing.assert_allclose(found, expected, atol=2e-5)


@every_family
def test_losses_on_any_number_of_streams(config: ModelConfig, tmp_path: Path) -> None:
    """One stream or three, more or fewer than there are rows: the same losses."""
    folder = open_folder(random_folder(tmp_path / "mine", config))
    ids = np.random.default_rng(0).integers(0, 13, (2, 8)).astype(np.int32)
    found = [
        MLXModel.load(folder, Compute("cpu", count, 1, prepare().blas)).losses(ids[:, :-1], ids[:, 1:])
        for count in (1, 2, 3)
    ]
    np.testing.assert_allclose(found[1], found[0], atol=1e-6)
    np.testing.assert_allclose(found[2], found[0], atol=1e-6)


@pytest.mark.parametrize(
    ("backend", "spread", "small", "wheel", "wanted"),
    [
        ("auto", False, True, "mlx-cpu", "numpy"),
        ("auto", False, False, "mlx-cpu", "mlx"),
        ("auto", True, True, "mlx-cpu", "mlx"),
        ("auto", False, True, "mlx-metal", "mlx"),
        ("auto", False, True, "mlx-cuda-13", "mlx"),
        ("auto", False, True, "mlx-cuda-13 without a GPU", "numpy"),
        ("auto", True, True, "mlx-cuda-13 without a GPU", "mlx"),
        ("mlx", False, True, "mlx-cpu", "mlx"),
        ("numpy", True, False, "mlx-metal", "numpy"),
        ("auto", True, False, None, "numpy"),
    ],
)
def test_which_back_end(
    backend: str, spread: bool, small: bool, wheel: Any, wanted: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`auto` takes NumPy where there is no MLX, and to generate from small models where it has no GPU; else MLX."""

    def version(name: str) -> str:
        if wheel and name == wheel.split()[0]:
            return "1"
        raise importlib.metadata.PackageNotFoundError(name)

    folder = open_folder(random_folder(tmp_path / "mine", CONFIGS[0]))
    prepare()
    monkeypatch.setattr(importlib.metadata, "version", version)
    monkeypatch.setattr(choose, "SMALL", 10**6 if small else 10)
    if wheel in ("mlx-metal", "mlx-cuda-13"):
        monkeypatch.setattr(mx, "default_device", lambda: mx.Device(mx.gpu, 0))
    if wheel is None:
        monkeypatch.setitem(sys.modules, "mlx.core", None)
    assert load_model(folder, backend, spread=spread).backend == wanted


def test_loading(tmp_path: Path) -> None:
    """`load` opens a path, text or Path, with its tokenizer; another back end is refused by name."""
    folder = random_folder(tmp_path / "mine", CONFIGS[0])
    model, tokenizer = load(str(folder))
    assert model.config == CONFIGS[0]
    assert model.logits(np.array([tokenizer.encode('"!')])).shape == (1, 2, 13)
    assert len(model.new_cache(4)) == 2
    for backend in ("torch", None, ["mlx"]):
        with pytest.raises(TinyLMError, match=r"no back end .*; there are auto, mlx and numpy"):
            load(folder, backend)  # type: ignore[arg-type]
    for nothing in (None, 5, ["weights"], b"weights", folder.open):
        with pytest.raises(TinyLMError, match="the path of a model folder must be text or a Path, not "):
            load(nothing)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["x" * 5000, "x/" * 2500, "weights/" + "é" * 300])
def test_a_name_that_is_none(name: str) -> None:
    """A name that no file can have is refused in a line that does not repeat it."""
    with pytest.raises(TinyLMError, match=r"cannot be opened|no such folder") as error:
        load(name)
    assert len(str(error.value)) < 200
