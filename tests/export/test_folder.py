"""`export`: a clean copy in the chosen type of numbers, verified, and nothing at all where something is wrong."""

from __future__ import annotations

import json
import math
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
from tokenizers import Tokenizer as Inner
from tokenizers import models

import mlx_tinylm
import mlx_tinylm.export
from mlx_tinylm.backend.choose import load
from mlx_tinylm.cli.main import main
from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.export.folder import export
from mlx_tinylm.export.model_card import Training
from mlx_tinylm.model_folder.config import GPT2Config, ModelConfig, Quantization, Qwen3Config
from mlx_tinylm.model_folder.folder import open_folder
from mlx_tinylm.model_folder.layout import tensor_shapes, transposed
from mlx_tinylm.model_folder.tensor_files import Tensors, read_safetensors, write_tensors

GPT2 = GPT2Config(vocab_size=50, context=24, width=64, layers=2, heads=4, eos_ids=(49,))
QWEN3 = Qwen3Config(
    vocab_size=50, context=24, width=64, layers=2, heads=4, kv_heads=2, head_dim=32, hidden=96, eos_ids=(49,)
)
BOTH = pytest.mark.parametrize("config", [GPT2, QWEN3], ids=lambda config: config.family)
CLEAN = ["README.md", "config.json", "generation_config.json", "model.safetensors", "tokenizer.json"]
CLEAN += ["tokenizer_config.json"]
IDS = np.random.default_rng(0).integers(0, 50, (2, 24))

TRAINED = json.dumps({"corpus": {"name": 'my "book" | <b>\n---', "characters": 12345, "sha256": "0"}, "data": []})
METRICS = '{"step": 10, "val_loss": 2.5}\n{"step": 20, "val_loss": 1.25}\n{"step": 21, "loss": 1}\n'
METRICS += '{"step": 30, "val_loss": 1.5}\n'


def with_run(folder: Path) -> Path:
    """Add what a training run leaves."""
    (folder / "train.json").write_text(TRAINED)
    (folder / "metrics.jsonl").write_text(METRICS)
    (folder / "checkpoints" / "00000030").mkdir(parents=True)
    (folder / ".lock").touch()
    return folder


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


@BOTH
@pytest.mark.parametrize(("dtype", "stored", "largest"), [("float16", "F16", 2e-2), ("bfloat16", "BF16", 0.2)])
def test_half_the_bits(source: Path, dtype: str, stored: str, largest: float, tmp_path: Path) -> None:
    """Every tensor is stored in the chosen type, config.json says so twice, and the difference is that of rounding."""
    written = export(source, tmp_path / "out", dtype=dtype)
    assert stored_types(written.folder) == {stored}
    raw = json.loads((written.folder / "config.json").read_text())
    assert (raw["dtype"], raw["torch_dtype"]) == (dtype, dtype)
    assert 1e-4 < written.difference < largest * written.spread
    assert np.abs(logits(written.folder) - logits(source)).max() < largest


@BOTH
@pytest.mark.parametrize(("bits", "largest"), [(8, 0.4), (4, 3.0)])
def test_quantised(source: Path, config: ModelConfig, bits: int, largest: float, tmp_path: Path) -> None:
    """Every matrix is packed, and both back ends give the same logits, near those of the source."""
    out = export(source, tmp_path / "out", quantize=bits, dtype="bfloat16").folder
    group = 64 if config.family == "gpt2" else 32  # hidden 96 is no multiple of 64
    raw = json.loads((out / "config.json").read_text())
    assert raw["quantization"] == raw["quantization_config"] == {"group_size": group, "bits": bits}
    assert stored_types(out) == {"U32", "BF16"}
    stored = read_safetensors(out / "model.safetensors")
    matrices = [tensor for name, tensor in stored.items() if name.endswith(".weight") and tensor.ndim == 2]
    assert {matrix.dtype for matrix in matrices} == {np.dtype(np.uint32)}
    if config.family == "gpt2":  # where mlx-lm looks for them, and leaves them as they are
        assert all(name.startswith("model.") for name in stored)
        assert stored["model.h.0.attn.c_attn.weight"].shape == (3 * 64, 64 * bits // 32)
    np.testing.assert_allclose(logits(out, "mlx"), logits(out), atol=5e-5)
    difference = np.abs(logits(out) - logits(source)).max() / logits(source).std()
    assert 1e-3 < difference < largest


@BOTH
def test_a_quantised_source(source: Path, config: ModelConfig, tmp_path: Path) -> None:
    """A quantised model is exported as plain numbers with the same logits, or quantised again."""
    packed = export(source, tmp_path / "packed", quantize=8).folder
    plain = export(packed, tmp_path / "plain").folder
    assert open_folder(plain).config == config
    np.testing.assert_allclose(logits(plain), logits(packed), atol=1e-5)
    again = export(packed, tmp_path / "again", quantize=4)
    assert open_folder(again.folder).config.quantization == Quantization(4, 64 if config.family == "gpt2" else 32)


def test_no_group_fits(tmp_path: Path) -> None:
    """Dimensions that no group size divides are refused by name and size, and nothing is written."""
    source = random_folder(tmp_path / "source", replace(QWEN3, hidden=90))
    with pytest.raises(TinyLMError, match=r"^model\.layers\.0\.mlp\.down_proj\.weight has 90 inputs.*without"):
        export(source, tmp_path / "out", quantize=4)
    assert names(tmp_path) == ["source"]


WITHOUT_MLX = """
import sys
sys.modules["mlx"] = None
from pathlib import Path
from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.export.folder import export
source, out = map(Path, sys.argv[1:])
print(export(source, out, "bfloat16").difference > 0)
try:
    export(source, out / "x", quantize=4)
except TinyLMError as error:
    print(error)
"""


@pytest.mark.parametrize("config", [QWEN3], ids=["qwen3"])
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

    monkeypatch.setattr(mlx_tinylm.export, "write_tensors", write_wrong)
    with pytest.raises(TinyLMError, match=r"out: not written: .* logits differ .* by up to [0-9.e-]+, where"):
        export(source, tmp_path / "out")
    assert names(tmp_path) == ["source"]


@pytest.mark.parametrize("config", [GPT2], ids=["gpt2"])
def test_too_large_for_the_type(source: Path, config: ModelConfig, tmp_path: Path) -> None:
    """A number that float16 does not have is an error that names its tensor, and nothing is written."""
    tensors = random_tensors(config)
    tensors["ln_f.bias"][3] = 1e5
    write_tensors(source / "model.safetensors", tensors)
    with pytest.raises(TinyLMError, match=r"^ln_f\.bias holds 100000, too large for float16"):
        export(source, tmp_path / "out", dtype="float16")
    assert names(tmp_path) == ["source"]


@pytest.mark.parametrize("config", [GPT2], ids=["gpt2"])
def test_force(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with something in it needs --force, which replaces an earlier export and nothing else."""
    out = tmp_path / "out"
    out.mkdir()
    export(source, out)  # an empty folder is free
    with pytest.raises(TinyLMError, match=r"out: has something in it already \(README.md, .*add --force"):
        export(source, out, dtype="float16")
    assert stored_types(out) == {"F32"}
    (out / "model.gguf").touch()
    export(source, out, dtype="float16", force=True)
    assert (stored_types(out), names(out)) == ({"F16"}, CLEAN)
    monkeypatch.setattr(mlx_tinylm.export, "TOLERANCE", {"float32": 0.0})
    monkeypatch.setattr(mlx_tinylm.export, "has_mlx", lambda: True)  # so that two back ends differ a little
    with pytest.raises(TinyLMError, match="not written"):
        export(source, out, force=True)
    assert (stored_types(out), names(out)) == ({"F16"}, CLEAN)  # the earlier one is still there
    (out / "notes.txt").touch()
    for target, what in ((out, "notes.txt"), (source, ".lock, checkpoints, metrics.jsonl")):
        with pytest.raises(TinyLMError, match=f"holds {what}, which no export wrote"):
            export(source, target, force=True)
    assert names(tmp_path) == ["out", "source"]


@pytest.mark.parametrize("config", [GPT2], ids=["gpt2"])
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
    with pytest.raises(TinyLMError, match=r"cannot be created \(Not a directory\)"):
        export(source, tmp_path / "file" / "out")


@pytest.mark.parametrize("config", [GPT2], ids=["gpt2"])
def test_out_over_its_source(source: Path, tmp_path: Path) -> None:
    """An earlier export may be replaced by an export of itself, even under another name."""
    out = export(source, tmp_path / "out").folder
    export(out, out, dtype="float16", force=True)
    assert (stored_types(out), names(out)) == ({"F16"}, CLEAN)


@pytest.mark.parametrize("config", [GPT2], ids=["gpt2"])
@pytest.mark.parametrize("prefix", ["model.", "transformer."])
def test_other_layouts(source: Path, prefix: str) -> None:
    """GPT-2 opens as transformers stores it, (in, out), and as mlx-lm does, (out, in) under another prefix."""
    expected = logits(source)
    tensors = open_folder(source).tensors()
    theirs = transposed(tensors) if prefix == "model." else tensors
    write_tensors(source / "model.safetensors", {f"{prefix}{name}": tensor for name, tensor in theirs.items()})
    for backend in ("mlx", "numpy"):
        np.testing.assert_allclose(logits(source, backend), expected, atol=5e-5)


@BOTH
def test_partly_quantised(config: ModelConfig, tmp_path: Path) -> None:
    """Matrices that groups of 64 do not fill stay plain, as mlx-lm leaves them, on both back ends."""
    odd = replace(config, width=96, quantization=Quantization(4, 64), **({"hidden": 128} if config == QWEN3 else {}))
    folder = random_folder(tmp_path / "odd", odd)
    packed = {name.removesuffix(".scales") for name in open_folder(folder).tensors() if name.endswith(".scales")}
    assert packed == {
        f"h.{n}.mlp.c_proj" if config == GPT2 else f"model.layers.{n}.{name}"
        for n in range(2)
        for name in ("self_attn.o_proj", "mlp.down_proj")
    }
    np.testing.assert_allclose(logits(folder, "mlx"), logits(folder), atol=5e-5)


@pytest.mark.parametrize("config", [GPT2], ids=["gpt2"])
def test_card_of_a_run(source: Path, tmp_path: Path) -> None:
    """The card gives what the run recorded about the weights it kept: the step of the lowest validation loss."""
    card = (export(source, tmp_path / "book").folder / "README.md").read_text()
    _, front, body = card.split("---\n", 2)
    index = next(line for line in front.splitlines() if line.startswith("model-index: "))
    (model,) = json.loads(index.removeprefix("model-index: "))
    assert model["results"][0]["dataset"]["name"] == 'my "book" | <b> ---'
    assert [metric["value"] for metric in model["results"][0]["metrics"]] == [1.25, 1.8034]
    assert "library_name: mlx\npipeline_tag: text-generation\ntags:\n- mlx\n" in front
    assert '| trained on | `my "book" / <b> ---`, 12,345 characters |\n| training steps | 20 |' in body
    assert "| validation loss | 1.2500 nats on the last tenth of the text |" in body
    for tool in ("--weights book", 'mlx_tinylm.load("book", backend="numpy")', "mlx_lm.generate --model book"):
        assert tool in body
    assert 'AutoModelForCausalLM.from_pretrained("book")' in body
    assert ".lmstudio/models" in body


@pytest.mark.parametrize("config", [GPT2], ids=["gpt2"])
def test_card_of_a_quantised_model(source: Path, tmp_path: Path) -> None:
    """The card says that its figures are from before, claims none for itself, and leaves out what cannot load it."""
    card = (export(source, tmp_path / "out", quantize=4).folder / "README.md").read_text()
    assert "1.2500 nats on the last tenth of the text, before it was quantised" in card
    assert "| numbers | 4 bits in groups of 64, the rest float32 |" in card
    shapes = tensor_shapes(open_folder(source).config).values()
    assert f"| parameters | {sum(math.prod(shape) for shape in shapes):,} |" in card
    assert "model-index" not in card
    assert "transformers" not in card


def test_card_of_an_untied_gpt2(tmp_path: Path) -> None:
    """The card does not promise that mlx-lm, whose GPT-2 has no head of its own, loads one that has."""
    source = random_folder(tmp_path / "source", replace(GPT2, tied=False))
    card = (export(source, tmp_path / "out").folder / "README.md").read_text()
    assert "mlx_lm" not in card
    assert "transformers" in card


@pytest.mark.parametrize(
    ("trained", "metrics"),
    [
        (None, METRICS),
        (TRAINED, None),
        (TRAINED, ""),
        (TRAINED, "{"),
        (TRAINED, "[]\n"),
        (TRAINED, '{"step": 1, "val_loss": NaN}\n'),
        (TRAINED, '{"step": null, "val_loss": 1}\n'),
        ("[]", METRICS),
        ('{"corpus": {"name": 1, "characters": "x"}}', METRICS),
    ],
)
def test_nothing_usable_recorded(trained: str | None, metrics: str | None, tmp_path: Path) -> None:
    """Without a whole record of a run the card gives no figures, and that is no error."""
    for name, content in (("train.json", trained), ("metrics.jsonl", metrics)):
        if content is not None:
            (tmp_path / name).write_text(content)
    assert Training.recorded(tmp_path) is None


@pytest.mark.parametrize("config", [GPT2], ids=["gpt2"])
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
    out = export(source, out, force=True).folder
    assert json.loads((out / "tokenizer_config.json").read_text())["eos_token"] == "</s>"
    assert not (out / "chat_template.jinja").exists()


@pytest.mark.parametrize("config", [GPT2], ids=["gpt2"])
def test_gguf_refused(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A GGUF needs its package and a character model, and is not quantised here; each message says what to do."""
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(TinyLMError, match=r"pip install 'mlx-tinylm\[gguf\]'$"):
        export(source, tmp_path / "out", gguf=True)
    with pytest.raises(TinyLMError, match="llama-quantize"):
        export(source, tmp_path / "out", quantize=4, gguf=True)
    monkeypatch.setitem(sys.modules, "gguf", ModuleType("gguf"))
    (source / "tokenizer.json").write_text(Inner(models.WordLevel({"a": 0}, "a")).to_str())
    with pytest.raises(TinyLMError, match=r"character by character.*leave out --gguf"):
        export(source, tmp_path / "out", gguf=True)
    assert names(tmp_path) == ["source"]


@pytest.mark.parametrize("config", [GPT2], ids=["gpt2"])
def test_command(source: Path, tmp_path: Path) -> None:
    """The command prints where it wrote, how much, and the largest difference; mistakes are one line."""
    out = tmp_path / "out"
    arguments = ["export", str(source), "--out", str(out)]
    done = CliRunner().invoke(main, [*arguments, "--dtype", "bfloat16", "--quantize", "8"])
    assert (done.exit_code, done.stderr) == (0, "")
    assert str(out) in done.stdout
    assert "logits differ by" in done.stdout
    again = CliRunner().invoke(main, arguments)
    assert again.exit_code == 1
    assert len(again.stderr.splitlines()) == 1
    assert CliRunner().invoke(main, ["export", str(source)]).exit_code == 2
