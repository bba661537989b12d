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
from click.testing import CliRunner, Result
from tiny_runs import PLAIN, command, options

from mlx_tinylm.cli.main import main

Invoke = Callable[..., Result]
NEW = [*options(PLAIN), "--data", "text.txt", "--out", "new"]
USAGE = [
    # (arguments, what stands after "Error: "): one row for each way in which options can be wrong
    (["trian"], r"No such command 'trian'"),
    (["train", "--epochs", "3"], r"No such option '--epochs'"),
    (["train", "text.txt"], r"no option stands before text\.txt; did you mean --data text\.txt\?$"),
    (
        ["train", "a b.txt", "c.txt"],
        r"no option stands before 'a b.txt' c.txt; did you mean --data 'a b.txt' --data c.t",
    ),
    (["train", "nano"], r"no option stands before nano; did you mean --preset nano\?$"),
    (["train", "half"], r"no option stands before half; did you mean --resume half\?$"),
    (["train", "no-weights"], r"no option stands before no-weights; did you mean --init-from no-weights\?$"),
    (["generate", "ROMEO:"], r"no option stands before ROMEO:; did you mean --prompt \"ROMEO:\"\?$"),
    (["generate", "--seed", "1", "to", "be"], r"no option stands before to be; did you mean --prompt \"to be\"\?$"),
    (
        ["generate", "model", "$x"],
        r"no option stands before model '\$x'; did you mean --weights model --prompt '\$x'\?$",
    ),
    (["eval", "letters.txt"], r"no option stands before letters\.txt; did you mean --data letters\.txt\?$"),
    (["eval", "weights/x"], r"no option stands before weights/x; did you mean --weights weights/x\?$"),
    (["eval", "model"], r"no option stands before model; did you mean --weights model\?$"),
    (["bench", "model"], r"Got unexpected extra argument \(model\)"),
    (["help", "trian"], r"No such command 'trian'"),
    (["train", "--lr", "0"], r"Invalid value for '--learning-rate' / '--lr': 0\.0 is not in the range x>0\.0"),
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
    (["runs", "nowhere"], "", r"nowhere: cannot be read \(No such file or directory\); name a folder with runs in it$"),
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


@pytest.mark.parametrize("columns", [50, 80])
@pytest.mark.parametrize("name", ["", *sorted(main.commands)])
def test_help_fits(name: str, columns: int) -> None:
    """No line of a help page is wider than the terminal, and no word of it is lost there."""
    narrow, wide = (
        CliRunner().invoke(main, [*name.split(), "--help"], terminal_width=width).stdout for width in (columns, 200)
    )
    assert max(map(len, narrow.splitlines())) <= columns
    assert name == "" or words(narrow) == words(wide)


def words(page: str) -> set[str]:
    """What a page says, wherever it is broken."""
    return set(re.findall(r"\w+", page))


def test_the_help_of_train(invoke: Invoke) -> None:
    """What most people change comes first, the rest under a heading of its own, and the presets last."""
    page = invoke("train", "--help").stdout
    first, rest = page[page.index("\nOptions:") :].split("\nMore settings:")
    more, presets = rest.split("\nPresets:")
    for name in ("--data", "--preset", "--out", "--steps", "--resume", "--batch-size", "--lr", "--seed", "--layers"):
        assert re.search(rf"^  .*{name}\b", first, re.M), name
    for name in ("--beta1", "--muon-weight-decay", "--eval-every", "--schedule", "--help"):
        assert re.search(rf"^  .*{name}\b", more, re.M), name
    assert first.index("--data") < first.index("--steps") < first.index("--seed")
    assert "tiny's" not in page
    assert re.search(r"^ +muon-weight-decay +0.1 +0.3", presets, re.M)


@pytest.mark.parametrize("name", ["", *sorted(main.commands)])
def test_help_is_a_command(name: str, invoke: Invoke) -> None:
    """`help COMMAND` says what `COMMAND --help` says, and `help` what `--help` says."""
    page = invoke("help", *name.split())
    assert (page.exit_code, page.stdout) == (0, invoke(*name.split(), "--help").stdout)


COMMANDS_WITH_A_FOLDER = [
    ["generate", "--weights", "run-1"],
    ["eval", "--weights", "run-1"],
    ["info", "run-1"],
    ["inspect", "run-1"],
    ["export", "run-1", "--out", "x"],
    ["train", "--resume", "run-1"],
    ["train", "--init-from", "run-1", "--data", "x", "--out", "x"],
]


@pytest.mark.parametrize("arguments", COMMANDS_WITH_A_FOLDER, ids=named)
def test_a_folder_in_weights(
    arguments: list[str], invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where only weights/ holds a folder of the name that was given, the error says so."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights" / "run-1").mkdir(parents=True)
    refused(invoke(*arguments), 1, r"run-1: no such folder; did you mean weights/run-1\?$")
    assert not (tmp_path / "x").exists()
    (tmp_path / "run-1").mkdir()
    assert "did you mean" not in invoke(*arguments).stderr


def test_the_alias_of_learning_rate(invoke: Invoke, tmp_path: Path) -> None:
    """--lr is --learning-rate."""
    given = [*options(PLAIN), "--steps", "1", "--data", "text.txt", "--out", tmp_path / "run", "--lr", "0.007"]
    assert invoke("train", *given).exit_code == 0
    assert json.loads((tmp_path / "run" / "train.json").read_text())["settings"]["learning_rate"] == 0.007


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
