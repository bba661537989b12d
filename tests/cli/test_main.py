"""The program as a whole: what is refused and in which words, exit codes, help, version, notes."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from click.testing import Result
from tiny_runs import PLAIN, command, options

from mlx_tinylm.cli.main import main

Invoke = Callable[..., Result]
NEW = [*options(PLAIN), "--data", "text.txt", "--out", "new"]
USAGE = [
    # (arguments, what stands after "Error: "): one row for each way in which options can be wrong
    (["trian"], r"No such command 'trian'"),
    (["train", "--epochs", "3"], r"No such option '--epochs'"),
    (["train", "text.txt"], r"Got unexpected extra argument \(text\.txt\)"),
    (["export", "model"], r"Missing option '--out'"),
    (["train", "--device", "tpu"], r"Invalid value for '--device': 'tpu' is not one of 'auto', 'cpu', 'gpu'"),
    (["train", "--resume", "half", "--out", "new"], r"--resume goes on in its own folder: leave out --out"),
    (["train", "--resume", "half", "--init-from", "model"], r"--resume goes on in its own folder: leave out"),
    (["train", "--resume", "half", "--force"], r"--resume goes on in its own folder: leave out"),
    (["train", "--resume", "half", "--preset", "seed"], r"--resume goes on in its own folder: leave out"),
    (["train", "--batch-size", "100000000"], r"batch_size must be a whole number from 1 to 10,000,000"),
    (["generate", "--max-tokens", "1000000000"], r"max_tokens must be a whole number from 1 to 10,000,000"),
    (["generate", "--seed", str(2**63)], r"seed must be a whole number from 0 to 9,223,372,036,854,775,807"),
    (["generate", "--stop", ""], r"the stop text is empty; leave it out"),
]
MISTAKES = [
    # (arguments, standard input, what stands after "Error: "): what the rooms below refuse, by each command
    (["generate", "--weights", "nowhere"], "", r"nowhere: no such folder\. Train one: mlx-tinylm train --out nowhere"),
    (["generate", "--weights", "no-weights"], "", r"no-weights: no model\.safetensors here"),
    (["generate", "--weights", "model", "--prompt", "-"], "", r"the prompt is empty; give the model something"),
    (["generate", "--weights", "model", "--prompt", "-"], b"ab\xff", r"-: the prompt is not UTF-8 at byte 2"),
    (["generate", "--weights", "model", "--prompt", "\x1b"], "", r"the model does not know '\\x1b' \(character 1"),
    (["train", *NEW, "--data", "tinyshakespear"], "", r".*Did you mean tinyshakespeare\?"),
    (["train", *NEW, "--heads", "3"], "", r"width 16 does not divide into 3 heads; choose a multiple"),
    (["train", *NEW, "--out", "full"], "", r"full: has something in it already \(thesis\.doc\); choose another --out"),
    (["train", "--resume", "half", "--seed", "1"], "", r"half: was trained with --seed 0, which cannot change on --re"),
    (["eval", "--weights", "model", "--data", "unknown.txt"], "", r"unknown\.txt: has characters that .*know: 'é'"),
    (["data", "wikipedia"], "", r"'wikipedia': no corpus, file or folder of this name"),
    (["info", "text.txt"], "", r"text\.txt: not a model folder but a file"),
    (["export", "nowhere", "--out", "new"], "", r"nowhere: no such folder"),
    pytest.param(
        *(["train", *NEW, "--device", "gpu"], "", r"MLX has no gpu here; leave out --device"),
        marks=pytest.mark.skipif(mx.is_available(mx.gpu), reason="there is a GPU here"),
    ),
]


def named(case: Any) -> str | None:
    return " ".join(case[-6:])[:60] if isinstance(case, list) else ""


def refused(result: Result, code: int, message: str) -> None:
    """Assert that a command ended with `code` and one line of error, after click's hint where its use was wrong."""
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    *before, last = result.stderr.splitlines()
    assert re.match(rf"Error: {message}", last), last
    assert not before or (code == 2 and len(before) <= 3 and before[0].startswith("Usage: "))


@pytest.mark.parametrize(("arguments", "message"), USAGE, ids=named)
def test_wrong_options(invoke: Invoke, made: Path, arguments: list[str], message: str) -> None:
    """An option or value that cannot be is a usage error in one line, exit code 2, before anything is done."""
    refused(invoke(*arguments), 2, message)
    assert not (made / "new").exists()
    assert not (made / "weights").exists()


@pytest.mark.parametrize(("arguments", "stdin", "message"), MISTAKES, ids=named)
def test_mistakes(invoke: Invoke, made: Path, arguments: list[str], stdin: str | bytes, message: str) -> None:
    """Whatever else is wrong is one line that says what and what to do, exit code 1, and nothing is made or lost."""
    before = {path: path.stat().st_mtime_ns for path in made.rglob("*") if path.is_file() and path.name != ".lock"}
    refused(invoke(*arguments, stdin=stdin), 1, message)
    assert not (made / "new").exists()
    assert not (made / "weights").exists()
    for path, time in before.items():
        assert path.stat().st_mtime_ns == time, path


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (PermissionError(13, "Permission denied", "some/file"), "some/file: Permission denied"),
        (OSError("the network is down"), "the network is down"),
        (MemoryError(), "not enough memory; a smaller model, batch or text needs less"),
    ],
)
def test_what_nobody_foresaw(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch, error: BaseException, message: str
) -> None:
    """An error of the operating system that no code expects is a line too, naming the file where there is one."""

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("mlx_tinylm.backend.choose.load", fail)
    refused(invoke("generate", "--weights", "x"), 1, f"{message}$")


def test_interrupted(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C where nothing is to be saved ends the program quietly, with the exit code that shells expect."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mlx_tinylm.backend.choose.load", interrupt)
    result = invoke("generate", "--weights", "x")
    assert (result.exit_code, result.output) == (130, "\n")


def test_debug_shows_the_traceback(invoke: Invoke) -> None:
    """With --debug the error itself comes out."""
    result = invoke("--debug", "generate", "--weights", "nowhere")
    assert type(result.exception).__name__ == "TinyLMError"


@pytest.mark.parametrize("name", sorted(main.commands))
def test_help(name: str, invoke: Invoke) -> None:
    """Every command has help with an example of its own, and says the same for -h."""
    result = invoke(name, "--help")
    assert result.exit_code == 0
    assert re.search(rf"^  .*mlx-tinylm {name}\b", result.stdout, re.M)
    assert invoke(name, "-h").stdout == result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 100


def test_version(invoke: Invoke) -> None:
    """`--version` says the program's name and version."""
    assert re.fullmatch(r"mlx-tinylm, version \d+\.\d+\.\d+\n", invoke("--version").stdout)


def test_a_warning_is_one_line(made: Path, tmp_path: Path) -> None:
    """What a library would warn of is a plain note on stderr, once, and the command goes on."""
    shutil.copytree(made / "model", tmp_path / "model")
    config = tmp_path / "model" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"auto_map": {"AutoModel": "evil.Model"}}))
    result = command(tmp_path, "info", tmp_path / "model")
    assert result.returncode == 0
    assert result.stderr == f"note: {config}: auto_map ignored; no code from a model folder is ever run\n"
