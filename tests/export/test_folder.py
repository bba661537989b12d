"""`export`: a clean copy in the chosen type of numbers, verified, and nothing at all where something is wrong."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import random_folder, random_tensors
from faulty_disk import FaultyDisk
from tiny_models import GPT2 as TINY_GPT2
from tiny_models import QWEN3 as TINY_QWEN3
from tiny_models import TEXT, with_run
from tokenizers import Tokenizer as Inner
from tokenizers import models

import mlx_tinylm
from mlx_tinylm.backend.choose import load
from mlx_tinylm.cli.main import main
from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.export.folder import export
from mlx_tinylm.integrity import read_sealed, sealed
from mlx_tinylm.model_folder.config import ModelConfig, Quantization
from mlx_tinylm.model_folder.folder import open_folder
from mlx_tinylm.model_folder.tensor_files import Tensors, read_safetensors, write_tensors

# Wide enough for groups of 32 and 64, and for logits that say something.
WIDE: dict[str, Any] = {"vocab_size": 50, "context": 24, "width": 64, "heads": 4, "eos_ids": (49,)}
GPT2 = replace(TINY_GPT2, **WIDE)
QWEN3 = replace(TINY_QWEN3, **WIDE, kv_heads=2, head_dim=32, hidden=96)
BOTH = pytest.mark.parametrize("config", [GPT2, QWEN3], ids=lambda config: config.family)
CLEAN = ["README.md", "config.json", "generation_config.json", "model.safetensors", "tokenizer.json"]
CLEAN += ["tokenizer_config.json"]
IDS = np.random.default_rng(0).integers(0, 50, (2, 24))


@pytest.fixture
def config() -> ModelConfig:
    return GPT2


@pytest.fixture
def source(tmp_path: Path, config: ModelConfig) -> Path:
    return with_run(random_folder(tmp_path / "source", config))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def stored_types(folder: Path) -> set[str]:
    content = (folder / "model.safetensors").read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return {entry["dtype"] for name, entry in header.items() if name != "__metadata__"}


def logits(folder: Path, backend: str = "numpy") -> Any:
    return load(folder, backend)[0].logits(IDS)


@BOTH
def test_a_clean_copy(source: Path, tmp_path: Path) -> None:
    """The copy has the same tensors, shape and tokenizer, a card, and nothing of the training run."""
    written = export(source, tmp_path / "deep" / "out")
    out = written.folder
    assert names(out) == CLEAN
    assert names(tmp_path / "deep") == ["out"]
    before, after = open_folder(source), open_folder(out)
    assert after.config == before.config
    assert after.tokenizer.alphabet == before.tokenizer.alphabet
    copied = after.tensors()
    for name, tensor in before.tensors().items():
        np.testing.assert_array_equal(copied[name], tensor)
    assert 0 <= written.difference < 1e-4 < 0.1 < written.spread
    assert written.bytes == sum(path.stat().st_size for path in out.iterdir())
    assert "# out\n" in (out / "README.md").read_text()
    assert "| training steps | 20 |" in (out / "README.md").read_text()


@BOTH
@pytest.mark.parametrize(
    ("options", "stored", "largest"),
    [
        ({"dtype": "float16"}, {"F16"}, 2e-2),
        ({"dtype": "bfloat16"}, {"BF16"}, 0.2),
        ({"dtype": "bfloat16", "quantize": 8}, {"U32", "BF16"}, 0.4),
        ({"dtype": "float32", "quantize": 4}, {"U32", "F32"}, 3.0),
        ({"quantize": 4}, {"U32", "F16"}, 3.0),
    ],
    ids=["float16", "bfloat16", "8 bits", "4 bits", "4 bits beside float16"],
)
def test_fewer_bits(
    source: Path, config: ModelConfig, options: dict[str, Any], stored: set[str], largest: float, tmp_path: Path
) -> None:
    """Each tensor is stored as config.json says, both back ends read it, and the difference is that of rounding."""
    written = export(source, tmp_path / "out", **options)
    out, bits = written.folder, options.get("quantize")
    assert stored_types(out) == stored
    raw = json.loads((out / "config.json").read_text())
    dtype = options.get("dtype", "float16")
    assert (raw["dtype"], raw["torch_dtype"]) == (dtype, dtype)
    np.testing.assert_allclose(logits(out, "mlx"), logits(out), atol=5e-5)
    difference, spread = np.abs(logits(out) - logits(source)).max(), logits(source).std()
    assert 1e-4 * spread < difference < largest * spread
    assert 1e-4 < written.difference < largest * written.spread
    group = 64 if config == GPT2 else 32  # hidden 96 is no multiple of 64
    assert open_folder(out).config == replace(config, quantization=Quantization(bits, group) if bits else None)
    if bits and config == GPT2:  # where mlx-lm looks for them, and leaves them as they are
        tensors = read_safetensors(out / "model.safetensors")
        assert all(name.startswith("model.") for name in tensors)
        assert tensors["model.h.0.attn.c_attn.weight"].shape == (3 * 64, 64 * bits // 32)


@BOTH
def test_a_quantised_source(source: Path, config: ModelConfig, tmp_path: Path) -> None:
    """A quantised model is exported as plain numbers with the same logits, or quantised again."""
    packed = export(source, tmp_path / "packed", quantize=8).folder
    plain = export(packed, tmp_path / "plain").folder
    assert open_folder(plain).config == config
    np.testing.assert_allclose(logits(plain), logits(packed), atol=1e-5)
    again = export(packed, tmp_path / "again", quantize=4)
    assert open_folder(again.folder).config.quantization == Quantization(4, 64 if config == GPT2 else 32)


@BOTH
def test_partly_quantised(config: ModelConfig, tmp_path: Path) -> None:
    """Matrices that groups of 64 do not fill stay plain, as mlx-lm leaves them, on both back ends."""
    odd = replace(config, width=96, quantization=Quantization(4, 64), **({"hidden": 128} if config == QWEN3 else {}))
    folder = random_folder(tmp_path / "odd", odd)
    packed = {name.removesuffix(".scales") for name in open_folder(folder).tensors() if name.endswith(".scales")}
    filled = ("h.{}.mlp.c_proj",)
    if config == QWEN3:
        filled = ("model.layers.{}.self_attn.o_proj", "model.layers.{}.mlp.down_proj")
    assert packed == {name.format(layer) for layer in range(2) for name in filled}
    np.testing.assert_allclose(logits(folder, "mlx"), logits(folder), atol=5e-5)


WITHOUT_MLX = """
import sys
sys.modules["mlx"] = None
from pathlib import Path
from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.export.folder import export
from mlx_tinylm.integrity import read_sealed, sealed
source, out = map(Path, sys.argv[1:])
print(export(source, out, "bfloat16").difference > 0)
try:
    export(source, out / "x", quantize=4)
except TinyLMError as error:
    print(error)
"""


def test_without_mlx(source: Path, tmp_path: Path) -> None:
    """Where MLX cannot be imported, a plain export works, and a quantised one says what to install."""
    root = Path(mlx_tinylm.__file__).parents[1]
    command = [sys.executable, "-c", WITHOUT_MLX, str(source), str(tmp_path / "out")]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    worked, message = done.stdout.splitlines()
    assert worked == "True"
    assert message.startswith("to quantise needs MLX. MLX is not installed here.")
    assert names(tmp_path / "out") == CLEAN


# What is refused leaves nothing


@BOTH
@pytest.mark.parametrize("damage", ["swapped", "zeroed", "coarse"])
def test_verification(source: Path, damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where what was written is not what was meant, the command fails, says by how much, and leaves nothing."""

    def write_wrong(path: Path, tensors: Tensors, dtype: str) -> None:
        name = "h.1.attn.c_proj.weight" if "wte.weight" in tensors else "model.layers.1.self_attn.v_proj.weight"
        wrong: dict[str, Tensors] = {
            "swapped": {name: tensors[name][::-1]},
            "zeroed": {name: np.zeros_like(tensors[name])},
            "coarse": {key: tensor.astype(np.float16).astype(np.float32) for key, tensor in tensors.items()},
        }
        write_tensors(path, tensors | wrong[damage], dtype)

    monkeypatch.setattr("mlx_tinylm.export.folder.write_tensors", write_wrong)
    with pytest.raises(TinyLMError, match=r"out: not written: .* logits differ .* by up to [0-9.e-]+, where"):
        export(source, tmp_path / "out")
    assert names(tmp_path) == ["source"]


TOO_LARGE = {"ln_f.bias": np.array([0, 0, 0, 1e5] * 16, np.float32)}
ENDLESS = {"ln_f.weight": np.full(64, 3e38, np.float32)}
REFUSED: dict[str, tuple[ModelConfig, Tensors, dict[str, Any], str]] = {
    "type": (GPT2, {}, {"dtype": "int8"}, r"^no type 'int8'; there are float32, float16, bfloat16$"),
    "bits": (GPT2, {}, {"quantize": 3}, r"^quantize must be 8 or 4, not 3$"),
    "gguf": (GPT2, {}, {"quantize": 4, "gguf": True}, "llama-quantize"),
    "float16": (GPT2, TOO_LARGE, {"dtype": "float16"}, r"^ln_f\.bias holds 100000, too large for float16"),
    "group": (
        replace(QWEN3, hidden=90),
        {},
        {"quantize": 4},
        r"^model\.layers\.0\.mlp\.down.* has 90 inputs.*without",
    ),
    "endless": (GPT2, ENDLESS, {}, r"source: the model's output is not a finite number; its weights are damaged$"),
}


@pytest.mark.parametrize(("config", "tensors", "options", "expected"), REFUSED.values(), ids=REFUSED)
def test_refused(
    source: Path, config: ModelConfig, tensors: Tensors, options: dict[str, Any], expected: str, tmp_path: Path
) -> None:
    """What cannot be exported as it is asked for is refused by name, and nothing is written."""
    write_tensors(source / "model.safetensors", random_tensors(config) | tensors)
    with pytest.raises(TinyLMError, match=expected):
        export(source, tmp_path / "out", **options)
    assert names(tmp_path) == ["source"]


def test_gguf_refused(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A GGUF needs its package and a tokenizer that llama.cpp has; each message says what to do."""
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(TinyLMError, match=r"pip install 'mlx-tinylm\[gguf\]'$"):
        export(source, tmp_path / "out", gguf=True)
    monkeypatch.setitem(sys.modules, "gguf", ModuleType("gguf"))
    (source / "tokenizer.json").write_text(Inner(models.WordLevel({"a": 0}, "a")).to_str())
    with pytest.raises(TinyLMError, match=r"splits text as this one does; leave out --gguf"):
        export(source, tmp_path / "out", gguf=True)
    assert names(tmp_path) == ["source"]


def test_places(source: Path, tmp_path: Path) -> None:
    """A link is followed and stays one; a file, or a place that cannot be written, is an error that names it."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    export(source, tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert names(tmp_path / "real") == CLEAN
    (tmp_path / "file").touch()
    with pytest.raises(TinyLMError, match="file: is a file; choose another --out"):
        export(source, tmp_path / "file", force=True)
    with pytest.raises(TinyLMError, match=r"file/out: cannot be written \(Not a directory\)"):
        export(source, tmp_path / "file" / "out")


def test_a_folder_that_exists(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It stays the very folder, with its mode, also as "."; nothing is made beside it, which could be another disk."""
    out = tmp_path / "out"
    out.mkdir(mode=0o750)
    monkeypatch.chdir(out)
    before = out.stat()
    for dtype, force in (("float32", False), ("float16", True)):
        with monkeypatch.context() as patch:
            disk = FaultyDisk(patch, tmp_path)
            export(source, Path("."), dtype, force=force)
            assert len(disk.calls) > 10
            assert {call.path.startswith(f"{out}{os.sep}") for call in disk.calls if call.name != "fsync"} == {True}
        assert names(Path(".")) == names(out) == CLEAN
    assert stored_types(out) == {"F16"}
    assert (out.stat().st_ino, out.stat().st_mode) == (before.st_ino, before.st_mode)
    assert "# out\n" in (out / "README.md").read_text()


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO])
def test_a_disk_that_fails(source: Path, error: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever fails before the old files give way: an earlier export is as it was, and the error names --out."""
    out = tmp_path / "out"
    export(source, out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    with monkeypatch.context() as patch:
        disk = FaultyDisk(patch, tmp_path)
        export(source, out, force=True)
    first_to_give_way = next(at for at, call in enumerate(disk.calls) if call.path == f"{out}/README.md")
    assert first_to_give_way > 20
    for at in range(first_to_give_way + 1):
        with monkeypatch.context() as patch:
            FaultyDisk(patch, tmp_path, at, error)
            with pytest.raises(
                TinyLMError, match=rf"^{out}(/[a-z.A-Z_]+)?: cannot be written \({os.strerror(error)}\)"
            ):
                export(source, out, dtype="float16", force=True)
        assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_a_name_that_is_no_utf8(source: Path, tmp_path: Path) -> None:
    """Neither the name of --out nor that of the text ends in a traceback; the card and config.json are UTF-8."""
    record = read_sealed(source / "train.json")
    record["corpus"]["name"] = os.fsdecode(b"caf\xe9.txt")
    (source / "train.json").write_text(sealed(record))
    out = os.fsdecode(bytes(tmp_path) + b"/caf\xe9")
    command = [sys.executable, "-m", "mlx_tinylm", "export", str(source), "--out", out]
    done = subprocess.run(command, capture_output=True, text=True, errors="surrogateescape", timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert names(Path(out)) == CLEAN
    card = (Path(out) / "README.md").read_bytes().decode()
    assert "# caf\\udce9\n" in card
    assert "| trained on | `caf\\udce9.txt`, 12,345 characters |" in card
    assert json.loads((Path(out) / "config.json").read_bytes())["trained_on"]["name"] == "caf\\udce9.txt"
    line = next(line for line in card.splitlines() if line.startswith("mlx-tinylm generate"))
    shell = subprocess.run(["bash", "-c", line.replace("mlx-tinylm", "printf '%s\n'", 1)], capture_output=True)
    assert shell.stdout.splitlines()[2] == b"caf\xe9"


@BOTH
def test_its_text(source: Path, tmp_path: Path) -> None:
    """config.json says which text the model was trained on, and an export of the export says it, too."""
    first = export(source, tmp_path / "first").folder
    export(first, tmp_path / "second", quantize=8)
    for name in ("first", "second"):
        said = json.loads((tmp_path / name / "config.json").read_text())["trained_on"]
        assert said == {"name": TEXT, "sha256": "0" * 64, "characters": 12345}
        assert "| trained on | `my " in (tmp_path / name / "README.md").read_text()
    plain = random_folder(tmp_path / "plain", GPT2)
    assert "trained_on" not in (export(plain, tmp_path / "third").folder / "config.json").read_text()


def test_tokenizer_of_another_tool(source: Path, tmp_path: Path) -> None:
    """What says how another tool's tokenizer is used comes along; without it, its end-of-text is found by its id."""
    inner = Inner(models.BPE({"a": 0, "b": 1, "ab": 2}, [("a", "b")]))
    inner.add_special_tokens(["</s>"])
    (source / "tokenizer.json").write_text(inner.to_str())
    raw = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(raw | {"eos_token_id": 3}))
    theirs = {"tokenizer_config.json": '{"tokenizer_class": "TheirTokenizer"}', "chat_template.jinja": "{{ x }}"}
    for name, content in theirs.items():
        (source / name).write_text(content)
    out = export(source, tmp_path / "out").folder
    assert {name: (out / name).read_text() for name in theirs} == theirs
    for name in theirs:
        (source / name).unlink()
    export(source, out, force=True)
    assert json.loads((out / "tokenizer_config.json").read_text())["eos_token"] == "</s>"
    assert not (out / "chat_template.jinja").exists()


def test_command(source: Path, tmp_path: Path) -> None:
    """The command prints where it wrote and the largest difference."""
    pytest.importorskip("mlx.core", reason="needs MLX", exc_type=ImportError)
    arguments = ["export", str(source), "--out", str(tmp_path / "out"), "--dtype", "bfloat16", "--quantize", "8"]
    done = CliRunner().invoke(main, arguments)
    assert (done.exit_code, done.stderr) == (0, "")
    assert str(tmp_path / "out") in done.stdout
    assert "logits differ by" in done.stdout
