"""What several test files share: model folders with random weights, real English text, a cache of their own."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
import pytest

from mlx_tinylm.backend.devices import MLX_MISSING, TF32, prepare_if_possible
from mlx_tinylm.files import cache_dir
from mlx_tinylm.model_folder.config import ModelConfig
from mlx_tinylm.model_folder.folder import write_folder
from mlx_tinylm.model_folder.layout import tensor_shapes
from mlx_tinylm.model_folder.tensor_files import Tensors, write_tensors
from mlx_tinylm.text.tokenizer import Tokenizer

# A suite that runs in the background, or under nohup, ignores signals, and so would each program that it starts.
for name, handler in (("SIGINT", signal.default_int_handler), ("SIGHUP", signal.SIG_DFL)):
    if hasattr(signal, name) and signal.getsignal(getattr(signal, name)) is signal.SIG_IGN:
        signal.signal(getattr(signal, name), handler)
# On CUDA and on M5 float32 products have ten bits' precision unless told, which no tolerance here allows for; MLX reads
# this when it first multiplies.
os.environ[TF32] = "0"
# Test files import MLX before anything that would set this up, and by then it is too late.
WITH_MLX = prepare_if_possible() is not None
# What a test file imports that cannot be imported without MLX.
NEEDS_MLX = re.compile(
    r"^(import|from) (mlx|mlx_tinylm\.(training|models|backend\.(mlx_model|lanes)|export\.quantize)|tiny_runs)\b", re.M
)


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Without MLX, as on Windows, leave out the files that need it, and the folders whose conftest.py does."""
    file = collection_path / "conftest.py" if collection_path.is_dir() else collection_path
    if WITH_MLX or file.suffix != ".py" or not file.is_file() or not NEEDS_MLX.search(file.read_text("utf-8")):
        return None
    return True


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call() -> Iterator[None]:
    """Without MLX, what asks for it within a file that does not is skipped by name."""
    try:
        return (yield)
    except Exception as error:
        missing = isinstance(error, ImportError) or MLX_MISSING.partition(".")[0] in str(error)
        if WITH_MLX or not missing:
            raise
        pytest.skip("needs MLX")


def pytest_report_header() -> str | None:
    """What is left out is said."""
    return None if WITH_MLX else "MLX cannot be imported here: the test files that import it are left out"


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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that fetch something run only where that is asked for."""
    if os.environ.get("MLX_TINYLM_TEST_NETWORK") != "1":
        for item in items:
            if item.get_closest_marker("network"):
                item.add_marker(pytest.mark.skip(reason="needs a package index: set MLX_TINYLM_TEST_NETWORK=1"))


@pytest.fixture(scope="session")
def english() -> str:
    """Half a million characters of real text that come with every CPython."""
    return "".join(topics[name] for name in sorted(topics))


def use_cache(patch: pytest.MonkeyPatch, home: Path) -> Path:
    """Let the program keep what it keeps below `home`; its folder there, which does not exist yet."""
    for name in ("HOME", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        patch.setenv(name, str(home))
    cache_dir().parent.mkdir(parents=True, exist_ok=True)
    return cache_dir()


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Encoded corpora are kept in a folder of the test's own."""
    return use_cache(monkeypatch, tmp_path / "home")
