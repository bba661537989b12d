"""mlx-lm and transformers, run on a model folder; and model folders as they write them themselves.

Whoever imports this is skipped where one of them is missing. Nothing here reaches for the network.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

os.environ["HF_HUB_OFFLINE"] = "1"

mlx_lm = pytest.importorskip("mlx_lm", reason="mlx-lm is not installed: pip install -e '.[interop]'")
transformers = pytest.importorskip("transformers", reason="transformers is not installed: pip install -e '.[interop]'")
torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install torch==2.13.0, a build for the CPU")

import mlx.core as mx  # noqa: E402  (it comes with mlx-lm)
from conftest import random_folder  # noqa: E402

from mlx_tinylm.export.folder import export  # noqa: E402
from mlx_tinylm.model_folder.config import GPT2Config, Qwen3Config  # noqa: E402
from mlx_tinylm.model_folder.folder import shipped_weights  # noqa: E402

torch.set_num_threads(1)

# Logits of size 1 to 10, summed in float32 in three different orders.
TOLERANCE = 1e-4

GPT2 = GPT2Config(vocab_size=96, context=256, width=64, layers=3, heads=4, eos_ids=(95,))
QWEN3 = Qwen3Config(
    vocab_size=96, context=256, width=64, layers=3, heads=6, kv_heads=2, head_dim=32, hidden=96, eos_ids=(95,)
)
EXPORTED = ["gpt2", "qwen3", "shipped"]


def exported(name: str, parent: Path, **options: Any) -> Path:
    """A folder that `export` wrote, of random weights or those that ship."""
    if name == "shipped":
        source = shipped_weights()
    else:
        source = random_folder(parent / f"{name}-source", GPT2 if name == "gpt2" else QWEN3)
    out = parent / "-".join([name, *map(str, options.values())])
    export(source, out, **options)
    return out


def some_ids(vocab_size: int, T: int) -> npt.NDArray[Any]:
    return np.random.default_rng(T).integers(0, vocab_size, (1, T))


def mlx_lm_model(folder: Path) -> Any:
    model, _ = mlx_lm.load(str(folder))
    assert type(model).__module__.startswith("mlx_lm.")
    return model


def mlx_lm_logits(model: Any, ids: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    return np.array(model(mx.array(ids)).astype(mx.float32))


def torch_model(folder: Path, dtype: str = "auto") -> Any:
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
    assert type(model).__module__.startswith("transformers.")
    return model


def torch_logits(model: Any, ids: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    with torch.no_grad():
        logits: npt.NDArray[np.float32] = model(torch.tensor(ids)).logits.float().numpy()
    return logits


def check_close(found: npt.NDArray[Any], expected: npt.NDArray[Any], case: object = "") -> None:
    assert expected.std() > 0.1  # logits that say nothing would agree about anything
    np.testing.assert_allclose(found, expected, atol=TOLERANCE, rtol=0, err_msg=str(case))


def program(name: str, *arguments: object, cwd: Path | None = None) -> str:
    """What an installed program prints; fails with its complaint."""
    path = Path(sys.executable).with_name(name)
    done = subprocess.run([path, *map(str, arguments)], cwd=cwd, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout
