"""`train`, and what the other commands then do with what it made."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from tiny_runs import PLAIN, command, losses, options, same_run, train

Invoke = Callable[..., Result]


def test_training_by_command_equals_the_library(invoke: Invoke, made: Path, tmp_path: Path) -> None:
    """Every setting reaches the run, and `off` turns one off: options make the run that the library makes."""
    changes = {"steps": 3, "dropout": 0.1, "schedule": "wsd", "ema": 0.5, "warmup_steps": 1, "seed": 7}
    config = dataclasses.replace(PLAIN, grad_clip=None, **changes)
    assert invoke("train", *options(config), "--data", "text.txt", "--out", tmp_path / "ours").exit_code == 0
    train(tmp_path / "theirs", config, made / "text.txt")
    same_run(tmp_path / "ours", tmp_path / "theirs")
    assert json.loads((tmp_path / "ours" / "train.json").read_text())["settings"] == config.to_json()


def test_a_whole_session(invoke: Invoke, tmp_path: Path) -> None:
    """Train, resume, fine-tune, write, measure and look, each with text on stdout and the rest on stderr."""
    folder = tmp_path / "run"
    result = invoke("train", *options(PLAIN), "--data", "text.txt", "--out", folder)
    assert result.exit_code == 0
    assert re.match(r"After 8 steps the validation loss is \d\.\d{4}, the best so far", result.stdout)
    assert "step 8: validation loss" in result.stderr
    assert invoke("train", "--resume", folder, "--steps", "10").exit_code == 0
    assert len(losses(folder)) == 11
    tuned = invoke(
        *("train", "--init-from", folder, "--data", "other.txt", "--out", tmp_path / "tuned"),
        *("--preset", "nano", "--steps", "2", "--sample-every", "1"),
    )
    assert tuned.exit_code == 0
    assert "  | " in tuned.stderr
    written = invoke("generate", "--weights", folder, "--prompt", "The ", "--max-tokens", "40", "--seed", "1")
    assert written.stdout.startswith("The ")
    assert re.search(r"\[\d+ characters, [\d,]+ a second, (mlx|numpy)\]", written.stderr)
    measured = json.loads(invoke("eval", "--weights", folder, "--json").stdout)
    assert measured["loss"] == pytest.approx(losses(folder)[-1][-1], abs=1e-3)
    assert re.search(rf"^loss +{measured['loss']:.4f}$", invoke("eval", "--weights", folder).stdout, re.M)
    known = json.loads(invoke("info", folder, "--json").stdout)
    assert known["parameters"] > 1000
    assert re.search(rf"^parameters +{known['parameters']:,}$", invoke("info", folder).stdout, re.M)


def test_a_fresh_folder_is_printed_first_and_last(
    invoke: Invoke, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without --out a run finds a folder of its own, and says which before and after."""
    monkeypatch.chdir(tmp_path)
    for number in (1, 2):
        result = invoke("train", *options(dataclasses.replace(PLAIN, steps=1)), "--data", made / "text.txt")
        assert result.exit_code == 0
        assert result.stderr.startswith(f"model folder  weights/run-{number}\n")
        assert f"--weights weights/run-{number}" in result.stdout.splitlines()[-1]


def test_piped_text(invoke: Invoke, made: Path, tmp_path: Path) -> None:
    """A run on text from a pipe can be resumed and measured without piping it again, wherever its folder is now."""
    folder, moved = tmp_path / "before", tmp_path / "after"
    given = [*options(dataclasses.replace(PLAIN, steps=2)), "--data", "-", "--out", folder]
    assert invoke("train", *given, stdin=(made / "text.txt").read_text()).exit_code == 0
    assert invoke("train", "--resume", folder, "--steps", "4").exit_code == 0
    folder.rename(moved)
    assert invoke("train", "--resume", moved, "--steps", "6").exit_code == 0
    assert json.loads(invoke("eval", "--weights", moved, "--json").stdout)["targets"] == 199


def test_a_model_without_a_newline(invoke: Invoke, tmp_path: Path) -> None:
    """A model that knows no newline begins with what it knows, wherever no prompt is given."""
    (tmp_path / "text.txt").write_text("abcabd" * 80)
    folder = tmp_path / "run"
    config = dataclasses.replace(PLAIN, steps=2, sample_every=2)
    assert invoke("train", *options(config), "--data", tmp_path / "text.txt", "--out", folder).exit_code == 0
    written = invoke("generate", "--weights", folder, "--max-tokens", "5")
    assert (written.exit_code, written.stdout[0]) == (0, "a")
    assert "memorised" in invoke("eval", "--weights", folder, "--memorised").stdout


def test_any_encoding_will_do(made: Path, tmp_path: Path) -> None:
    """Where the terminal's encoding lacks a character, an escape is shown and the program goes on."""
    (tmp_path / "text.txt").write_text("naïve été " * 40, encoding="utf-8")
    train(tmp_path / "model", dataclasses.replace(PLAIN, steps=1), tmp_path / "text.txt")
    given = ["generate", "--weights", tmp_path / "model", "--prompt", "ï"]
    program = command(made / "cache", *given, PYTHONIOENCODING="ascii")
    assert program.returncode == 0, program.stderr
    assert program.stdout.startswith("\\xef")


def test_where_the_settings_come_from(invoke: Invoke, made: Path, tmp_path: Path) -> None:
    """The introduction names the preset, the model whose shape it has, and what was given."""
    run = tmp_path / "run"
    first = invoke("train", *options(PLAIN), "--data", made / "text.txt", "--out", run)
    assert re.search(r"^settings +preset tiny; --tokenizer char; --family gpt2; --layers 1", first.stderr, re.M)
    tuned = invoke(
        *("train", "--init-from", run, "--preset", "nano", "--lr", "0.1", "--steps", "2", "--data", made / "text.txt"),
        *("--out", tmp_path / "tuned"),
    )
    assert re.search(
        rf"^settings +preset nano; the model's shape from {run}; .*--learning-rate 0.1", tuned.stderr, re.M
    )
    resumed = invoke("train", "--resume", run, "--steps", "9")
    assert re.search(r"^settings +as the run began; --steps 9$", resumed.stderr, re.M)


def test_minutes(invoke: Invoke, made: Path, tmp_path: Path) -> None:
    """A run for a time says so, and is refused together with steps or a resume."""
    few = options(dataclasses.replace(PLAIN, eval_every=10**6, save_every=10**6))
    at = few.index("--steps")
    run = tmp_path / "run"
    result = invoke("train", *few[:at], *few[at + 2 :], "--data", made / "text.txt", "--out", run, "--minutes", "0.05")
    assert result.exit_code == 0, result.stderr
    assert result.stderr.startswith("timing a few steps, to see how many take 0.05 minutes\n")
    assert re.search(r"^settings +preset tiny; steps for 0.05 minutes; ", result.stderr, re.M)
    assert json.loads((run / "train.json").read_text())["settings"]["steps"] > 10
    both = invoke("train", "--minutes", "1", "--steps", "5")
    assert (both.exit_code, "--minutes decides how many --steps there are" in both.stderr) == (2, True)
    assert invoke("train", "--resume", run, "--minutes", "1").exit_code == 2


def test_an_empty_name_is_no_folder(invoke: Invoke) -> None:
    """A path from a variable that is not set is not the folder that one is in."""
    for option in ("--out", "--resume", "--init-from"):
        result = invoke("train", option, "", "--force")
        assert result.exit_code == 2
        assert "is empty; give the path of a folder" in result.stderr
