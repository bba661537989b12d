"""`train`, and what the other commands then do with what it made."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from pair_files import numbered, opened, pair, write
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


# Pairs


@pytest.fixture
def letters(made: Path, tmp_path: Path) -> Path:
    """A model that knows letters, a colon, and no digit."""
    (tmp_path / "letters.txt").write_text("number one: two\nthree: four\n" * 40)
    train(tmp_path / "letters", dataclasses.replace(PLAIN, steps=2, context=24), tmp_path / "letters.txt")
    return tmp_path / "letters"


def test_pairs_from_a_model_to_its_export(invoke: Invoke, letters: Path, tmp_path: Path) -> None:
    """Characters are refused or added; answers are learned, counted, end by themselves, and go on after a resume."""
    pairs = write(tmp_path / "pairs.jsonl", *[pair(f"number {n}:", "42" if n % 2 else "7") for n in range(40)])
    given = [*options(dataclasses.replace(PLAIN, steps=60, learning_rate=0.02, eval_every=30, sample_every=60))]
    run, began = tmp_path / "run", ["train", *given, "--init-from", letters, "--data", pairs]
    at = given.index("--context")
    del began[1 + at : 3 + at]
    refused = invoke(*began, "--out", run)
    assert refused.exit_code == 1
    assert re.search(
        r"has 10 characters that the model in .* does not know: 0123456789\. Remove .* --extend-alphabet, or",
        refused.stderr,
    )
    done = invoke(*began, "--out", run, "--extend-alphabet")
    assert done.exit_code == 0, done.stderr
    assert "10 characters are new to the model: '0123456789'" in done.stderr
    held_out = list(opened(pairs).pairs("held_out"))
    assert re.search(rf"^text +{pairs}: .*, in 40 pairs of 1 file$", done.stderr, re.M)
    assert re.search(rf"^held out +{len(held_out)} pairs, one in ten by their prompts$", done.stderr, re.M)
    assert re.search(rf"^step 60: validation loss .*, \d of {len(held_out)} answers exact", done.stderr, re.M)
    assert f"  | {held_out[0].prompt}" in done.stderr
    last = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()][-1]
    assert last["val_pairs"] == len(held_out)
    measured = json.loads(invoke("eval", "--weights", run, "--json").stdout)
    assert (measured["part"].split(",")[0], measured["pairs"]) == ("held-out pairs", len(held_out))
    assert measured["loss"] == pytest.approx(last["val_loss"], rel=1e-3)
    assert measured["exact_answers"] == last["val_exact_answers"]
    everything = json.loads(
        invoke(
            "eval",
            "--weights",
            run,
            "--data",
            write(tmp_path / "other.jsonl", *[pair(f"number {n}:") for n in (1, 2, 3)]),
            "--json",
        ).stdout
    )
    assert (everything["part"], everything["pairs"]) == ("all", 3)
    assert re.search(
        r"^exact_answers +\d of 3$", invoke("eval", "--weights", run, "--data", tmp_path / "other.jsonl").stdout, re.M
    )
    answer = invoke("generate", "--weights", run, "--prompt", "number 1:", "--temperature", "0", "--max-tokens", "50")
    assert answer.stdout in ("number 1:42\n", "number 1:7\n"), "it ends where an answer ends"
    assert invoke("train", "--resume", run, "--steps", "64").exit_code == 0
    assert json.loads((run / "train.json").read_text())["corpus"]["pairs"] == 40
    exported = invoke("export", run, "--out", tmp_path / "out")
    assert exported.exit_code == 0, exported.stderr
    assert "all of its held-out pairs" in exported.stdout + exported.stderr
    card = (tmp_path / "out" / "README.md").read_text()
    assert re.search(rf"^\| exact answers \| \d of {len(held_out)} held-out pairs \|$", card, re.M)
    assert f'--prompt "{held_out[0].prompt}"' in card
    tokenizer = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert (tokenizer["eos_token"], tokenizer["pad_token"]) == ("<|endoftext|>", "<|pad|>")  # an end that is trained
    assert "It completes prompts like those that it was trained on" in card


def test_pairs_from_nothing_resume_bit_for_bit(invoke: Invoke, made: Path, tmp_path: Path) -> None:
    """Pairs need no model to begin with, and a run on them that was interrupted equals one that was not."""
    pairs = write(tmp_path / "pairs.jsonl", *numbered(40))
    given = ["train", *options(dataclasses.replace(PLAIN, context=64)), "--data", pairs]
    assert invoke(*given, "--out", tmp_path / "whole").exit_code == 0
    assert invoke(*given, "--steps", "4", "--out", tmp_path / "halves").exit_code == 0
    assert invoke("train", "--resume", tmp_path / "halves", "--steps", "8").exit_code == 0
    same_run(tmp_path / "halves", tmp_path / "whole")
    settings = json.loads((tmp_path / "whole" / "train.json").read_text())["settings"]
    assert settings["context"] == len("number 39=39")  # a window is as long as the longest pair
    assert json.loads((tmp_path / "whole" / "config.json").read_text())["n_positions"] == 64
    tokenizer = json.loads((tmp_path / "whole" / "tokenizer_config.json").read_text())
    assert (tokenizer["eos_token"], tokenizer["pad_token"]) == ("<|endoftext|>", "<|pad|>")


def test_prompts_are_learned_if_told(invoke: Invoke, made: Path, tmp_path: Path) -> None:
    """--no-mask-prompt is recorded and makes another run; of text there is nothing to mask."""
    pairs = write(tmp_path / "pairs.jsonl", *numbered(40))
    given = ["train", *options(dataclasses.replace(PLAIN, context=64, steps=2)), "--data", pairs]
    for name, more in (("masked", []), ("said", ["--mask-prompt"]), ("unmasked", ["--no-mask-prompt"])):
        result = invoke(*given, *more, "--out", tmp_path / name)
        assert result.exit_code == 0, result.stderr
        assert not more or f"; {more[0]}" in result.stderr
    same_run(tmp_path / "masked", tmp_path / "said")
    assert losses(tmp_path / "masked") != losses(tmp_path / "unmasked")
    assert json.loads((tmp_path / "unmasked" / "train.json").read_text())["settings"]["mask_prompt"] is False
    refused = invoke("train", *options(PLAIN), "--no-mask-prompt", "--data", "text.txt", "--out", tmp_path / "text")
    assert (refused.exit_code, "text.txt: holds no pairs" in refused.stderr) == (1, True)
    changed = invoke("train", "--resume", tmp_path / "unmasked", "--mask-prompt", "--steps", "4")
    assert (changed.exit_code, "cannot change on --resume" in changed.stderr) == (1, True)


def test_an_alphabet_is_extended_for_any_text(invoke: Invoke, letters: Path, tmp_path: Path) -> None:
    """--extend-alphabet is for text, too, where no token that pads is needed; it wants a model to begin with."""
    (tmp_path / "text.txt").write_text("one 1 two 2 three 3\n" * 40)
    given = ["train", "--preset", "nano", "--steps", "2", "--context", "16", "--data", tmp_path / "text.txt"]
    done = invoke(*given, "--init-from", letters, "--extend-alphabet", "--out", tmp_path / "run")
    assert done.exit_code == 0, done.stderr
    before, after = (json.loads((folder / "config.json").read_text()) for folder in (letters, tmp_path / "run"))
    assert (after["vocab_size"], after["eos_token_id"]) == (before["vocab_size"] + 3, before["eos_token_id"])
    refused = invoke(*given, "--extend-alphabet", "--out", tmp_path / "other")
    assert (refused.exit_code, "--extend-alphabet is for --init-from" in refused.stderr) == (1, True)
    assert invoke("train", "--resume", tmp_path / "run", "--extend-alphabet").exit_code == 2


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        (['{"prompt": "a", "completion": "b"}', '{"prompt": "c"}'], "line 2 is a pair without 'completion'"),
        (['{"prompt": "a", "completion": "b"}'] * 3, "has 0 pairs to train on and 3 to validate with"),
        ([json.dumps(pair(f"{number}{'a' * 300}")) for number in range(9)], "leave out the long pairs"),
    ],
)
def test_pairs_that_will_not_do(invoke: Invoke, made: Path, tmp_path: Path, lines: list[str], problem: str) -> None:
    """One line says what is wrong with pairs, and no folder is made."""
    (tmp_path / "pairs.jsonl").write_text("".join(f"{line}\n" for line in lines))
    result = invoke("train", "--data", tmp_path / "pairs.jsonl", "--out", tmp_path / "run")
    assert (result.exit_code, len(result.stderr.splitlines())) == (1, 1), result.stderr
    assert problem in result.stderr
    assert not (tmp_path / "run").exists()


def test_pairs_for_a_time(invoke: Invoke, made: Path, tmp_path: Path) -> None:
    """--minutes times steps on pairs as on text."""
    pairs = write(tmp_path / "pairs.jsonl", *numbered(40))
    few = options(dataclasses.replace(PLAIN, eval_every=10**6, save_every=10**6, context=64))
    at = few.index("--steps")
    result = invoke("train", *few[:at], *few[at + 2 :], "--data", pairs, "--out", tmp_path / "run", "--minutes", "0.05")
    assert result.exit_code == 0, result.stderr
    assert json.loads((tmp_path / "run" / "train.json").read_text())["settings"]["steps"] > 10
