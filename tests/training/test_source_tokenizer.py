"""Runs with subwords, and with the tokenizer of another model, by the command."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from conftest import random_folder, random_tensors
from tiny_models import GPT2, QWEN3
from tiny_runs import CONFIGS, PLAIN, losses, metrics, options, resume, same_run, train, write_text

from mlx_tinylm.backend.choose import load
from mlx_tinylm.cli import main
from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.generation import generate
from mlx_tinylm.integrity import read_sealed, sealed
from mlx_tinylm.model_folder.config import ModelConfig
from mlx_tinylm.model_folder.folder import open_folder, write_folder
from mlx_tinylm.model_folder.tensor_files import write_tensors
from mlx_tinylm.text.tokenizer import Tokenizer

SUBWORDS = dataclasses.replace(PLAIN, tokenizer="bpe", vocab_size=300)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_text(tmp_path_factory.mktemp("text") / "text.txt", 6_000)


def run(*arguments: object, code: int = 0) -> Result:
    """The program, which ends with `code`, and of a mistake says one line."""
    result = CliRunner().invoke(main, [*map(str, arguments)], prog_name="mlx-tinylm")
    assert result.exit_code == code, (result.output, result.exception)
    assert not code or len(result.stderr.strip().splitlines()[-1:]) == 1
    return result


def foreign(folder: Path, eos_token: object = "<|im_end|>", pad_token: object = "<|endoftext|>") -> Path:
    """A tokenizer as Qwen's lies in its folder: the end of a text has another name, which only its config knows."""
    folder.mkdir(parents=True)
    tokenizer = Tokenizer.from_texts(["the end of the text, and the end of the end"], 280)
    tokenizer.inner.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    (folder / "tokenizer.json").write_text(tokenizer.json)
    said = {"tokenizer_class": "Qwen2Tokenizer", "eos_token": eos_token, "pad_token": pad_token}
    (folder / "tokenizer_config.json").write_text(json.dumps(said))
    return folder


@pytest.mark.parametrize("name", CONFIGS)
def test_a_whole_session(name: str, text: Path, tmp_path: Path, own_cache: Path) -> None:
    """A run with subwords is trained, resumed, evaluated, shown, continued and exported as any other."""
    config = dataclasses.replace(CONFIGS[name], tokenizer="bpe", vocab_size=300)
    folder = tmp_path / "run"
    shown = run("train", *options(config), "--data", text, "--out", folder).stderr
    assert "\ntokenizer     300 byte-level subwords\n" in shown
    assert " tokens, " in shown
    assert "counters of" in shown
    model = open_folder(folder)
    assert (model.config.vocab_size, model.config.eos_ids) == (300, (298,))
    assert {298, 299} <= set(model.config.suppressed)  # one document has no end that is trained, and none pads
    said = json.loads((folder / "tokenizer_config.json").read_text())
    assert (said["eos_token"], said["pad_token"]) == ("<|endoftext|>", "<|pad|>")
    written = run("generate", "--weights", folder, "--prompt", "the 😀", "--seed", 1, "--max-tokens", 40).stdout
    assert written.startswith("the 😀")
    found = json.loads(run("eval", "--weights", folder, "--data", text, "--json").stdout)
    best = min(metrics(folder)[1:], key=lambda line: line.get("val_loss", 99))
    assert found["bits_per_byte"] == pytest.approx(best["val_bits_per_byte"], rel=1e-4)
    assert found["loss"] == pytest.approx(best["val_loss"], rel=1e-4)
    info = json.loads(run("info", folder, "--json").stdout)
    assert (info["tokenizer"], info["vocabulary"]) == ("byte-level subwords", 300)
    run("export", folder, "--out", tmp_path / "out")
    assert "| bits per byte | " in (tmp_path / "out" / "README.md").read_text()
    assert (tmp_path / "out" / "tokenizer.json").read_text() == (folder / "tokenizer.json").read_text()
    assert generate(*load(tmp_path / "out"), "the", seed=1) == generate(*load(folder), "the", seed=1)


def test_bits_per_byte_by_hand(text: Path, tmp_path: Path, own_cache: Path) -> None:
    """They are the losses of all held-out ids but the first, over the bytes that those stand for."""
    train(tmp_path / "run", SUBWORDS, text)
    held_out = text.read_text("utf-8")[int(0.9 * 6_000) :]
    tokenizer = Tokenizer.load(tmp_path / "run")
    ids = tokenizer.encode(held_out)
    size = len(held_out.encode()) - len(tokenizer.decode(ids[:1]).encode())
    for line in metrics(tmp_path / "run"):
        if "val_loss" in line:
            bits = line["val_loss"] * (len(ids) - 1) / size / np.log(2)
            assert line["val_bits_per_byte"] == pytest.approx(bits, rel=1e-9)


def test_resumed_is_never_stopped(text: Path, tmp_path: Path, own_cache: Path) -> None:
    """A run with subwords that stops and goes on is, bit for bit, one that never stopped."""
    train(tmp_path / "whole", SUBWORDS, text)
    train(tmp_path / "resumed", dataclasses.replace(SUBWORDS, steps=4), text)
    resume(tmp_path / "resumed", steps=8)
    same_run(tmp_path / "whole", tmp_path / "resumed")


def test_resumed_with_its_tokenizer(text: Path, tmp_path: Path, own_cache: Path) -> None:
    """--resume takes the tokenizer that the run has, and no other, one line saying which that is."""
    run("train", *options(SUBWORDS), "--data", text, "--out", tmp_path / "run")
    run("train", "--resume", tmp_path / "run", "--tokenizer", "bpe", "--vocab-size", 300, "--steps", 9)
    refused = run("train", "--resume", tmp_path / "run", "--tokenizer", "char", "--steps", 10, code=1).stderr
    assert "was trained with --tokenizer bpe, which cannot change on --resume" in refused
    refused = run("train", "--resume", tmp_path / "run", "--vocab-size", 400, "--steps", 10, code=1).stderr
    assert "was trained with --vocab-size 300, which cannot change on --resume" in refused


def test_of_another_model(text: Path, tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tokenizer of a folder is that of the run, ended as that folder says; the run needs the folder no longer."""
    theirs = foreign(tmp_path / "theirs")
    monkeypatch.chdir(tmp_path)
    made = dataclasses.replace(PLAIN, tokenizer="theirs")
    shown = run("train", *options(made), "--data", text, "--out", "run").stderr
    tokenizer = Tokenizer.load(theirs)
    assert f"\ntokenizer     {tokenizer.vocab_size} byte-level subwords, from {theirs}\n" in shown
    model = open_folder(Path("run"))
    assert model.tokenizer.json == tokenizer.json
    assert model.config.eos_ids == (tokenizer.inner.token_to_id("<|im_end|>"),)
    said = json.loads(Path("run/tokenizer_config.json").read_text())
    assert (said["eos_token"], said["pad_token"]) == ("<|im_end|>", "<|endoftext|>")
    run("train", "--resume", "run", "--tokenizer", "theirs", "--steps", 9)
    shutil.rmtree(theirs)
    run("train", "--resume", "run", "--steps", 10)
    assert len(losses(Path("run"))) == 11


@pytest.mark.parametrize("eos_token", [None, "<|nowhere|>", 3])
def test_without_an_end_of_text(eos_token: object, text: Path, tmp_path: Path, own_cache: Path) -> None:
    """Where no token is said to end a text, it is the one of that name; without it a text has no end."""
    theirs = foreign(tmp_path / "theirs", eos_token=eos_token)
    train(tmp_path / "run", dataclasses.replace(PLAIN, tokenizer=str(theirs)), text)
    found = open_folder(tmp_path / "run")
    known = found.tokenizer.inner.token_to_id("<|endoftext|>")
    assert found.config.eos_ids == (() if eos_token == "<|nowhere|>" else (known,))


def test_wrong_tokenizers(text: Path, tmp_path: Path, own_cache: Path) -> None:
    """What is no tokenizer, and a size that nothing would have, are refused before anything is read or written."""
    common = ("--data", text, "--out", tmp_path / "run", "--preset", "nano")
    assert "no tokenizer; give char, bpe, or the folder" in run("train", "--tokenizer", "BPE", *common, code=1).stderr
    assert "is for --tokenizer bpe" in run("train", "--vocab-size", 500, *common, code=1).stderr
    assert "258" in run("train", "--tokenizer", "bpe", "--vocab-size", 257, *common, code=2).stderr
    assert not (tmp_path / "run").exists()


def test_fine_tuned_with_its_tokenizer(text: Path, tmp_path: Path, own_cache: Path) -> None:
    """--init-from keeps the tokenizer of its model; another one is refused in a line, the same one is not."""
    run("train", *options(SUBWORDS), "--data", text, "--out", tmp_path / "first")
    other = foreign(tmp_path / "theirs")
    start = ("train", "--init-from", tmp_path / "first", "--data", text, "--steps", 2, "--out")
    for given in (["--tokenizer", "char"], ["--tokenizer", "bpe"], ["--tokenizer", other], ["--vocab-size", 300]):
        refused = run(*start, tmp_path / "no", *given, code=1).stderr
        assert (
            f"{given[0]} {given[1]}: the model in {tmp_path / 'first'} has a tokenizer of its own, with 300" in refused
        )
        assert not (tmp_path / "no").exists()
    run(*start, tmp_path / "second")
    run(*start, tmp_path / "third", "--tokenizer", tmp_path / "first")
    for name in ("second", "third"):
        assert open_folder(tmp_path / name).tokenizer.json == open_folder(tmp_path / "first").tokenizer.json
        assert read_sealed(tmp_path / name / "train.json")["settings"]["tokenizer"] == str(tmp_path / "first")
    train(tmp_path / "characters", PLAIN, text)
    refused = run("train", "--init-from", tmp_path / "characters", "--tokenizer", "bpe", "--data", text, code=1).stderr
    assert "has a tokenizer of its own" in refused
    more = ("--tokenizer", "char", "--data", text, "--steps", 1, "--out", tmp_path / "fourth")
    run("train", "--init-from", tmp_path / "characters", *more)


def test_records_of_older_runs(text: Path, tmp_path: Path, own_cache: Path) -> None:
    """A run whose record knows no tokenizers goes on: its model has characters."""
    train(tmp_path / "run", dataclasses.replace(PLAIN, steps=2), text)
    record = read_sealed(tmp_path / "run" / "train.json")
    del record["settings"]["tokenizer"], record["settings"]["vocab_size"]
    (tmp_path / "run" / "train.json").write_text(sealed(record))
    assert resume(tmp_path / "run", steps=4).state.step == 4
    del record["settings"]["width"]
    (tmp_path / "run" / "train.json").write_text(sealed(record))
    with pytest.raises(TinyLMError, match="unknown or missing settings: width"):
        resume(tmp_path / "run", steps=5)


LARGE = 70_000  # ids, more than 16 bits hold


@pytest.mark.parametrize("config", [GPT2, QWEN3], ids=["gpt2", "qwen3"])
def test_large_vocabularies_and_untied_heads(config: ModelConfig, text: Path, tmp_path: Path, own_cache: Path) -> None:
    """With ids beyond 65,535 in its text, and a head of its own, a model is trained on, evaluated and exported."""
    tokenizer = Tokenizer.from_texts([], 258)
    tokenizer.inner.add_tokens([f"<{number}>" for number in range(LARGE - 260)] + [" the", "e "])
    tokenizer = Tokenizer(tokenizer.inner)
    shape: dict[str, Any] = {"vocab_size": LARGE, "eos_ids": (256,), "tied": False}
    config = dataclasses.replace(config, **shape)
    (tmp_path / "start").mkdir()
    write_folder(tmp_path / "start", config, tokenizer)
    write_tensors(tmp_path / "start" / "model.safetensors", random_tensors(config))
    assert max(tokenizer.encode(text.read_text("utf-8"))) == LARGE - 1
    given = ("--steps", 2, "--batch-size", 1, "--eval-every", 2, "--sample-every", "off", "--data", text)
    run("train", "--init-from", tmp_path / "start", *given, "--out", tmp_path / "run")
    model = open_folder(tmp_path / "run")
    assert (model.config.tied, model.config.vocab_size) == (False, LARGE)
    before, after = open_folder(tmp_path / "start").tensors(), model.tensors()
    assert not np.array_equal(before["lm_head.weight"], after["lm_head.weight"])
    found = {
        backend: json.loads(run("eval", "--weights", tmp_path / "run", "--backend", backend, "--json").stdout)["loss"]
        for backend in ("numpy", "mlx")
    }
    assert found["numpy"] == pytest.approx(found["mlx"], rel=1e-5)
    lines = [line["val_loss"] for line in metrics(tmp_path / "run") if "val_loss" in line]
    assert min(lines) == pytest.approx(found["mlx"], rel=1e-5)
    run("export", tmp_path / "run", "--out", tmp_path / "out")
    assert run("generate", "--weights", tmp_path / "out", "--max-tokens", 3, "--seed", 1).exit_code == 0


def test_a_model_without_a_tokenizer_of_its_size(tmp_path: Path) -> None:
    """The table may be larger than the tokenizer, as mlx-lm and others pad it: the ids between are never written."""
    folder = random_folder(tmp_path / "model", dataclasses.replace(GPT2, vocab_size=300, eos_ids=(256,)))
    (folder / "tokenizer.json").write_text(Tokenizer.from_texts([], 258).json)
    assert open_folder(folder).tokenizer.vocab_size == 258
