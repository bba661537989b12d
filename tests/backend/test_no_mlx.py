"""Everything but training works where MLX cannot be imported, each command in a process of its own."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import random_folder

import mlx_tinylm
from mlx_tinylm.backend.choose import load
from mlx_tinylm.evaluation import evaluate_text
from mlx_tinylm.generation import generate
from mlx_tinylm.model_folder.config import GPT2Config

CONFIG = GPT2Config(vocab_size=97, context=16, width=16, layers=1, heads=2)
PACKAGE = Path(mlx_tinylm.__file__).parent
WITHOUT_MLX = """
import sys
sys.modules["mlx"] = None
from mlx_tinylm.cli.main import main
main()
"""


def python(folder: Path, code: str, *arguments: str, path: Path = PACKAGE.parent) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter that keeps what it keeps in `folder`."""
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(path), str(PACKAGE.parent)]),
        "PYTHONIOENCODING": "utf-8",
        **dict.fromkeys(("HOME", "XDG_CACHE_HOME", "LOCALAPPDATA", "MLX_TINYLM_DATA"), str(folder)),
    }
    command = [sys.executable, "-W", "error", "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, encoding="utf-8", env=environment, check=False)


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return python(folder, WITHOUT_MLX, *arguments)


@pytest.fixture
def weights(tmp_path: Path) -> str:
    return str(random_folder(tmp_path / "model", CONFIG))


def test_generate(weights: str, tmp_path: Path) -> None:
    """`generate` takes NumPy by itself and writes what MLX would have written."""
    options = ["--weights", weights, "--prompt", "ROMEO:", "--seed", "3", "--max-tokens", "60"]
    done = run(tmp_path, "generate", *options)
    assert (done.returncode, done.stderr[-8:]) == (0, " numpy]\n")
    expected = generate(*load(weights, "mlx"), "ROMEO:", seed=3, max_tokens=60)
    assert done.stdout == f"ROMEO:{expected}\n"


def test_eval(weights: str, tmp_path: Path, english: str, own_cache: Path) -> None:
    """`eval` measures what MLX would have measured."""
    text = tmp_path / "text.txt"
    text.write_text("".join(character for character in english[:400] if " " <= character < "\x7f"))
    done = run(tmp_path, "eval", "--weights", weights, "--data", str(text), "--json")
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert found["backend"] == "numpy"
    assert found["loss"] == pytest.approx(evaluate_text(Path(weights), [str(text)], "mlx")["loss"], rel=1e-5)
    assert found["perplexity"] == pytest.approx(math.exp(found["loss"]))


def test_info(weights: str, tmp_path: Path) -> None:
    """`info` says that NumPy is the back end, and shows a model."""
    done = run(tmp_path, "info", weights, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert (found["back end"], found["family"]) == ("numpy", "gpt2")


@pytest.mark.parametrize("command", ["", "train", "generate", "eval", "data", "info", "export", "bench"])
def test_help(command: str, tmp_path: Path) -> None:
    """Every help page opens."""
    done = run(tmp_path, *command.split(), "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Usage: ")


def test_train_says_what_to_install(tmp_path: Path) -> None:
    """`train` ends in one line that names the extra for each system, before it fetches or writes anything."""
    done = run(tmp_path, "train", "--out", str(tmp_path / "out"))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines() == [done.stderr.rstrip("\n")]
    assert done.stderr.startswith("Error: MLX is not installed here.")
    assert "pip install 'mlx-tinylm[cpu]'" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_asking_for_mlx_says_what_to_install(weights: str, tmp_path: Path) -> None:
    """`--backend mlx` does not fall back in silence."""
    done = run(tmp_path, "generate", "--weights", weights, "--backend", "mlx")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("Error: MLX is not installed here.")


def test_every_module_but_training_can_be_imported(tmp_path: Path) -> None:
    """No module outside `models` and `training` needs MLX to be imported, and none imports it."""
    code = """
import importlib, pathlib, sys
sys.modules["mlx"] = None
root = pathlib.Path(sys.argv[1])
names = [path.relative_to(root).with_suffix("").parts for path in sorted(root.rglob("*.py"))]
names = [parts for parts in names if parts[0] not in ("models", "training", "__init__")]
for parts in names:
    importlib.import_module(".".join(["mlx_tinylm", *(part for part in parts if part != "__init__")]))
print(len(names))
"""
    done = python(tmp_path, code, str(PACKAGE))
    assert (done.returncode, done.stderr) == (0, "")
    assert int(done.stdout) > 15


def test_imports_and_help_stay_light(tmp_path: Path) -> None:
    """Neither `import mlx_tinylm` nor the help of a command imports what is slow to import."""
    code = """
import sys
import mlx_tinylm
light = set(sys.modules)
from mlx_tinylm.cli.main import main
try:
    main(["train", "--help"])
except SystemExit:
    pass
heavy = {"mlx", "tokenizers", "matplotlib", "safetensors"}
print("found:", sorted(heavy & set(sys.modules)), sorted({"numpy", "click"} & light))
"""
    assert python(tmp_path, code).stdout.splitlines()[-1] == "found: [] []"


def test_mlx_without_its_library(weights: str, tmp_path: Path) -> None:
    """An MLX that is there but cannot be loaded, as its Linux wheel without a back end, counts as none."""
    (tmp_path / "broken" / "mlx").mkdir(parents=True)
    (tmp_path / "broken" / "mlx" / "core.py").write_text("raise ImportError('libmlx.so: cannot open shared object')")
    code = "from mlx_tinylm.cli import main; main()"
    options = ["generate", "--weights", weights, "--prompt", "x", "--max-tokens", "5"]
    done = python(tmp_path, code, *options, path=tmp_path / "broken")
    assert (done.returncode, done.stderr[-8:]) == (0, " numpy]\n")
    done = python(tmp_path, code, "train", path=tmp_path / "broken")
    assert done.returncode == 1
    assert done.stderr.startswith("Error: MLX is not installed here.")
