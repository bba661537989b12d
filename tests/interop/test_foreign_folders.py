"""Model folders that transformers and mlx-lm write themselves open here, on both back ends, and export again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from other_tools import check_close, mlx_lm_logits, mlx_lm_model, program, some_ids, torch, torch_logits, transformers
from tokenizers import ByteLevelBPETokenizer

from mlx_tinylm.backend.choose import load
from mlx_tinylm.cli.main import main
from mlx_tinylm.export.folder import export
from mlx_tinylm.model_folder.folder import open_folder

VOCABULARY = 384
GPT2 = {"n_positions": 256, "n_embd": 60, "n_layer": 2, "n_head": 5}
QWEN3 = {
    "max_position_embeddings": 256,
    "hidden_size": 40,
    "intermediate_size": 72,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 18,
}
# How each folder is made: the configuration, its type of numbers, the size of a shard.
FOLDERS: dict[str, tuple[str, dict[str, Any], str, str | None]] = {
    "gpt2": ("GPT2", GPT2, "float32", None),
    "gpt2-untied-bfloat16-sharded": ("GPT2", GPT2 | {"tie_word_embeddings": False}, "bfloat16", "60KB"),
    "gpt2-inner-float16": ("GPT2", GPT2 | {"n_inner": 240, "layer_norm_epsilon": 1e-3}, "float16", None),
    "qwen3-untied": ("Qwen3", QWEN3 | {"tie_word_embeddings": False, "rms_norm_eps": 1e-3}, "float32", None),
    "qwen3-tied-bfloat16-sharded": ("Qwen3", QWEN3 | {"tie_word_embeddings": True}, "bfloat16", "30KB"),
    "qwen3-theta-float16": (
        "Qwen3",
        QWEN3 | {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}, "num_key_value_heads": 6},
        "float16",
        None,
    ),
}
TEXT = 'Hello\n\n  world! — "naïve café" 日本 \n'


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A byte-level BPE like GPT-2's and Qwen's own, learned from English, in transformers' own wrapper."""
    inner = ByteLevelBPETokenizer()
    inner.train_from_iterator([topics["assert"]], VOCABULARY, special_tokens=["<|endoftext|>"], show_progress=False)
    return transformers.PreTrainedTokenizerFast(tokenizer_object=inner._tokenizer, eos_token="<|endoftext|>")


@pytest.fixture(scope="module", params=FOLDERS.items(), ids=FOLDERS)
def folder(request: pytest.FixtureRequest, tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A random model as transformers itself writes it."""
    name, (family, shape, dtype, shard) = request.param
    path: Path = tmp_path_factory.mktemp("theirs") / name
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(
        vocab_size=VOCABULARY, initializer_range=0.2, eos_token_id=0, bos_token_id=0, **shape
    )
    model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():  # norms and biases begin as 1 and 0, which would hide mistakes
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.1 * torch.randn(parameter.shape))
    model.to(getattr(torch, dtype)).save_pretrained(path, **({"max_shard_size": shard} if shard else {}))
    tokenizer.save_pretrained(path)
    assert (len(list(path.glob("*.safetensors"))) > 1) == (shard is not None)
    return path


def test_logits(folder: Path) -> None:
    """Both back ends give the logits of transformers, computed in float32."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    for T in (1, 2, 255, 256):
        ids = some_ids(VOCABULARY, T)
        expected = torch_logits(model, ids)
        for backend in ("mlx", "numpy"):
            ours, _ = load(folder, backend)
            check_close(ours.logits(ids), expected, f"{backend} at {T}")


def test_tokenizer(folder: Path, tokenizer: Any) -> None:
    """Its byte-level tokenizer gives transformers' ids, and every text comes back whole."""
    ours = open_folder(folder).tokenizer
    assert ours.alphabet is None
    assert ours.encode(TEXT) == tokenizer.encode(TEXT, add_special_tokens=False)
    assert ours.decode(ours.encode(TEXT)) == TEXT
    detokenizer = ours.detokenizer()
    assert "".join(detokenizer.add(id) for id in ours.encode(TEXT)) == TEXT


def test_commands(folder: Path, tmp_path: Path) -> None:
    """`generate`, `eval` and `info` run on it, and both back ends write and measure the same."""
    text = tmp_path / "text.txt"
    text.write_text(topics["assert"][:1500])
    answers = []
    for backend in ("mlx", "numpy"):
        chosen = ["--weights", str(folder), "--backend", backend]
        written = CliRunner().invoke(
            main, ["generate", *chosen, "--prompt", "Hello", "--max-tokens", "30", "--seed", "1"]
        )
        measured = CliRunner().invoke(main, ["eval", *chosen, "--data", str(text), "--json"])
        assert (written.exit_code, measured.exit_code) == (0, 0), written.output + measured.output
        answers.append((written.stdout, json.loads(measured.stdout)["loss"]))
    assert answers[0][0] == answers[1][0]
    assert len(answers[0][0]) > len("Hello\n")
    assert answers[0][1] == pytest.approx(answers[1][1], abs=1e-4)
    info = CliRunner().invoke(main, ["info", str(folder)])
    assert info.exit_code == 0
    assert "wte.weight" in info.stdout or "model.embed_tokens.weight" in info.stdout


def test_exported_again(folder: Path, tmp_path: Path, tokenizer: Any) -> None:
    """Exported from here, it is the same model to transformers, with the same tokenizer."""
    out = export(folder, tmp_path / "out").folder
    ids = some_ids(VOCABULARY, 50)
    before, after = (
        transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval() for path in (folder, out)
    )
    np.testing.assert_array_equal(torch_logits(before, ids), torch_logits(after, ids))
    theirs = transformers.AutoTokenizer.from_pretrained(out)
    assert theirs.encode(TEXT) == tokenizer.encode(TEXT)
    assert (theirs.eos_token_id, theirs.decode(theirs.encode(TEXT))) == (0, TEXT)


@pytest.mark.parametrize(
    "folder", [item for item in FOLDERS.items() if item[0] in ("gpt2", "qwen3-tied-bfloat16-sharded")], indirect=True
)
def test_as_mlx_lm_writes_it(folder: Path, tmp_path: Path) -> None:
    """What mlx_lm.convert makes of it, for GPT-2 of our export of it, opens here with mlx-lm's logits."""
    # mlx-lm does not know the names under which transformers 5 stores a GPT-2.
    source = export(folder, tmp_path / "ours").folder if folder.name == "gpt2" else folder
    program("mlx_lm.convert", "--hf-path", source, "--mlx-path", tmp_path / "out", "--dtype", "float32")
    ids = some_ids(VOCABULARY, 50)
    expected = mlx_lm_logits(mlx_lm_model(tmp_path / "out"), ids)
    for backend in ("mlx", "numpy"):
        ours, _ = load(tmp_path / "out", backend)
        check_close(ours.logits(ids), expected, backend)
