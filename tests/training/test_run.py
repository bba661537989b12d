"""Runs in their folders: resumed exactly, extended, started from other weights, ended early, kept apart."""

from __future__ import annotations

import dataclasses
import itertools
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_runs import (
    CONFIGS,
    PLAIN,
    RICH,
    equal,
    losses,
    metrics,
    resume,
    same_run,
    stored,
    tensors,
    train,
    train_until,
    weights_of,
    write_text,
)

from mlx_tinylm.backend.choose import load
from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.evaluation import Evaluation
from mlx_tinylm.generation import generate
from mlx_tinylm.model_folder.layout import transposed
from mlx_tinylm.model_folder.tensor_files import read_safetensors
from mlx_tinylm.run_folder.events import Evaluated, Sampled, Saved, Stepped
from mlx_tinylm.run_folder.record import fresh_folder
from mlx_tinylm.run_folder.settings import TrainConfig
from mlx_tinylm.training import run

pytestmark = pytest.mark.usefixtures("own_cache")
every_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())


@pytest.fixture
def text(tmp_path: Path) -> Path:
    return write_text(tmp_path / "text.txt")


# Resuming


@every_config
@pytest.mark.parametrize("stop", [1, 2, 5])
def test_resumed_equals_uninterrupted(tmp_path: Path, text: Path, config: TrainConfig, stop: int) -> None:
    """A run that was stopped anywhere and resumed equals one that was not, bit for bit, in losses and tensors."""
    config = dataclasses.replace(config, save_every=3)
    train(tmp_path / "whole", config, text)
    train_until(tmp_path / "halves", config, text, stop)
    assert len(losses(tmp_path / "halves")) < config.steps
    resume(tmp_path / "halves")
    same_run(tmp_path / "halves", tmp_path / "whole")


@every_config
def test_extended_equals_longer(tmp_path: Path, text: Path, config: TrainConfig) -> None:
    """`train N` and `resume M more` equals `train N + M`, where the schedule does not depend on the length."""
    train(tmp_path / "longer", dataclasses.replace(config, steps=12), text)
    train(tmp_path / "extended", config, text)
    resume(tmp_path / "extended", steps=12)
    ours, theirs = losses(tmp_path / "extended"), losses(tmp_path / "longer")
    assert ours == theirs
    assert stored(tmp_path / "extended") == stored(tmp_path / "longer")


def test_an_extension_is_remembered(tmp_path: Path, text: Path) -> None:
    """After `--resume --steps 12` was interrupted, `--resume` alone goes on to step 12."""
    train(tmp_path / "run", PLAIN, text)
    with run.resume(tmp_path / "run", {"steps": 12, "save_every": 1}) as running:
        for event in running.events():
            if event.step >= 9:
                running.stop()
    assert running.state.step < 12
    resumed = resume(tmp_path / "run")
    assert resumed.state.step == 12
    assert resumed.config.save_every == 1


def test_a_run_that_never_saved_can_be_resumed(tmp_path: Path, text: Path) -> None:
    """A run that ended before its first checkpoint, however that came, is resumed from its beginning."""
    config = dataclasses.replace(PLAIN, save_every=1000)
    train(tmp_path / "whole", config, text)
    with run.start(tmp_path / "lost", config, [str(text)]) as running:
        for event in running.events():
            if event.step == 5:
                break
    resumed = resume(tmp_path / "lost")
    assert resumed.state.step == config.steps
    same_run(tmp_path / "lost", tmp_path / "whole")


def test_a_finished_run_says_so(tmp_path: Path, text: Path) -> None:
    """There is nothing to resume in a run that has all its steps."""
    train(tmp_path / "run", PLAIN, text)
    with pytest.raises(TinyLMError, match=r"already has all 8 steps; give a larger --steps to go on"):
        resume(tmp_path / "run")


OTHER: dict[str, Any] = {
    "family": "qwen3",
    "layers": 2,
    "heads": 4,
    "width": 32,
    "context": 16,
    "dropout": 0.5,
    "optimizer": "muon",
    "learning_rate": 0.5,
    "beta1": 0.5,
    "beta2": 0.5,
    "weight_decay": 0.5,
    "muon_learning_rate": 0.5,
    "muon_weight_decay": 0.5,
    "grad_clip": None,
    "ema": 0.5,
    "warmup_steps": 5,
    "schedule": "linear",
    "batch_size": 8,
    "grad_accumulation_steps": 2,
    "seed": 5,
}
FREE = {"steps": 9, "eval_every": 3, "save_every": 3, "sample_every": 8, "patience": 9}


@pytest.fixture(scope="module")
def halfway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run that was stopped after about four of its eight steps; copy it to change it."""
    folder = tmp_path_factory.mktemp("halfway")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mlx_tinylm.text.ids.cache_dir", lambda: folder / "cache")
        train_until(folder / "run", PLAIN, write_text(folder / "text.txt"), 4)
        yield folder / "run"


def test_every_setting_is_listed_here() -> None:
    """Each setting either may change on --resume or may not."""
    assert OTHER.keys() | FREE.keys() == {field.name for field in dataclasses.fields(TrainConfig)}
    assert not OTHER.keys() & FREE.keys()


@pytest.mark.parametrize("name", OTHER)
def test_other_settings_are_refused(halfway: Path, name: str) -> None:
    """What decides the steps already made cannot change on --resume; the message says what to do instead."""
    with pytest.raises(TinyLMError) as caught:
        resume(halfway, **{name: OTHER[name]})
    option = "--" + name.replace("_", "-")
    message = str(caught.value)
    assert f"was trained with {option} {getattr(PLAIN, name)}, which cannot change on --resume" in message
    assert f"leave {option} out, or start another run with --init-from" in message


@pytest.mark.parametrize("name", FREE)
def test_free_settings_may_change(halfway: Path, tmp_path: Path, name: str) -> None:
    """How long to train, and how often to look and to save, may change on --resume."""
    shutil.copytree(halfway, tmp_path / "run")
    assert getattr(resume(tmp_path / "run", **{name: FREE[name]}).config, name) == FREE[name]


def test_same_settings_may_be_repeated(halfway: Path, tmp_path: Path) -> None:
    """Settings given again with the values they had are no change."""
    shutil.copytree(halfway, tmp_path / "run")
    assert resume(tmp_path / "run", width=16, grad_clip=1.0).state.step == 8


def test_another_text_is_refused(halfway: Path, tmp_path: Path) -> None:
    """A run does not go on with another text, neither given anew nor changed where it lies."""
    other = write_text(tmp_path / "other.txt", 1_999)
    with pytest.raises(TinyLMError, match=r"was trained on another text than .*other\.txt is now; give the same text"):
        run.resume(halfway, {}, [str(other)]).__enter__()
    with run.resume(halfway, {}, [str(halfway.parent / "text.txt")]) as running:
        assert running.state.step >= 4


def test_piped_text_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: Path) -> None:
    """Text from a pipe, which can be read only once, is kept in the run's folder, so that it can be resumed."""
    with open(text, "rb") as pipe:
        monkeypatch.setattr("sys.stdin", type("Stdin", (), {"buffer": pipe}))
        with run.start(tmp_path / "run", PLAIN, ["-"]) as running:
            assert running.corpus.name == "stdin"
    monkeypatch.setattr("sys.stdin", None)
    assert (tmp_path / "run" / "text.txt").read_bytes() == text.read_bytes()
    assert resume(tmp_path / "run").state.step == 8


def test_a_file_with_the_name_of_a_corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`./tinyshakespeare` is a file, for a resume too, and so is one beside the `-` that means standard input."""
    monkeypatch.chdir(tmp_path)
    write_text(tmp_path / "tinyshakespeare")
    (tmp_path / "-").write_text("this is not it")
    with run.start(tmp_path / "run", PLAIN, ["./tinyshakespeare"]):
        pass
    assert resume(tmp_path / "run").state.step == 8
    with open("tinyshakespeare", "rb") as pipe:
        monkeypatch.setattr("sys.stdin", type("Stdin", (), {"buffer": pipe}))
        with run.start(tmp_path / "piped", PLAIN, ["-"]):
            pass
    assert resume(tmp_path / "piped").state.step == 8


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"settings": {}, "sha256": "0"}'])
def test_broken_settings(halfway: Path, tmp_path: Path, content: str) -> None:
    """A train.json that is no settings of a run is named."""
    shutil.copytree(halfway, tmp_path / "run")
    (tmp_path / "run" / "train.json").write_text(content)
    with pytest.raises(TinyLMError, match=r"train\.json: "):
        resume(tmp_path / "run")


def test_no_run_here(tmp_path: Path) -> None:
    """Resuming what is no run says what is missing."""
    with pytest.raises(TinyLMError, match=r"no run to resume here \(train\.json is missing\)"):
        resume(tmp_path)


def test_metrics_are_made_whole(halfway: Path, tmp_path: Path) -> None:
    """On --resume, lines of steps that will be made again go, and so do broken ones, wherever they are."""
    folder = tmp_path / "run"
    shutil.copytree(halfway, folder)
    at = run.checkpoint.saved(folder)[0].name
    lines = (folder / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    later = json.dumps({"step": int(at) + 1}).encode() + b"\n"
    (folder / "metrics.jsonl").write_bytes(b"".join([lines[0], b"\xff\n", b"7\n", *lines[1:], later, b'{"step": 9']))
    resume(folder)
    assert [line["step"] for line in metrics(folder)] == list(range(1, 9))


# Events


def test_events(tmp_path: Path, text: Path) -> None:
    """A run reports every step, and validation, samples and checkpoints when they are due, the last step included."""
    config = dataclasses.replace(PLAIN, steps=7, eval_every=3, save_every=4, sample_every=5)
    events = train(tmp_path / "run", config, text)
    assert [event.step for event in events if isinstance(event, Stepped)] == [1, 2, 3, 4, 5, 6, 7]
    assert [event.step for event in events if isinstance(event, Evaluated)] == [3, 6, 7]
    assert [event.step for event in events if isinstance(event, Sampled)] == [5, 7]
    assert [event.step for event in events if isinstance(event, Saved)] == [4, 7]
    assert all(one.step <= other.step for one, other in itertools.pairwise(events))
    sample = next(event for event in events if isinstance(event, Sampled))
    assert 0 < len(sample.text) <= 200
    assert set(sample.text) <= set(text.read_text())


def test_looking_does_not_change_the_run(tmp_path: Path, text: Path) -> None:
    """How often a run is validated, saved or sampled does not change its losses."""
    config = dataclasses.replace(RICH, eval_every=8, save_every=8, sample_every=None)
    train(tmp_path / "seldom", config, text)
    train(tmp_path / "often", dataclasses.replace(config, eval_every=1, save_every=2, sample_every=3), text)
    seldom, often = losses(tmp_path / "seldom"), losses(tmp_path / "often")
    assert [line[:5] for line in seldom] == [line[:5] for line in often]


def test_metrics(tmp_path: Path, text: Path) -> None:
    """There is one line of metrics a step, with what DESIGN promises, and time that only goes on."""
    config = dataclasses.replace(RICH, schedule="linear")
    train(tmp_path / "run", config, text)
    lines = metrics(tmp_path / "run")
    assert [line["step"] for line in lines] == list(range(1, 9))
    assert all({"step", "loss", "lr", "tokens", "seconds"} <= line.keys() for line in lines)
    assert [line["step"] for line in lines if "val_loss" in line] == [4, 8]
    assert lines[2]["tokens"] == 3 * 2 * 2 * 8
    assert [line["lr"] for line in lines[:3]] == pytest.approx([1e-3, 2e-3, 3e-3])
    assert lines[-1]["lr"] == pytest.approx(5e-4)
    seconds = [line["seconds"] for line in lines]
    assert seconds == sorted(seconds)


# Best weights and patience


def validations(monkeypatch: pytest.MonkeyPatch, *figures: float) -> None:
    """Let the validations of a run give these losses, one after the other."""
    given = iter(figures)
    monkeypatch.setattr(run, "validate", lambda *_: Evaluation(next(given), 1, 1))


def test_best_weights_are_kept(tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """model.safetensors holds the weights of the best validation, not of the latest one."""
    validations(monkeypatch, 3.0, 2.0, 2.5, 2.0)
    config = dataclasses.replace(PLAIN, eval_every=2)
    best = []
    with run.start(tmp_path / "run", config, [str(text)]) as running:
        for event in running.events():
            if isinstance(event, Evaluated):
                best.append(event.best)
                if event.step == 4:
                    weights = weights_of(running.state)
    assert best == [True, True, False, False]
    assert equal(tensors(tmp_path / "run"), weights)
    assert not equal(weights, weights_of(running.state))
    assert (running.progress.best_loss, running.progress.best_step, running.progress.last_loss) == (2.0, 4, 2.0)


def test_averaged_weights_are_the_ones_kept(tmp_path: Path, text: Path) -> None:
    """A run that averages keeps the averages as its weights."""
    with run.start(tmp_path / "run", dataclasses.replace(RICH, steps=4), [str(text)]) as running:
        list(running.events())
    kept = tensors(tmp_path / "run")
    assert all(np.array_equal(kept[name], np.array(tensor)) for name, tensor in running.state.average.items())
    name = "model.embed_tokens.weight"
    assert not np.array_equal(kept[name], np.array(running.state.model.model.embed_tokens.weight))


def test_patience(tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run ends after so many validations without a new best, saves, and says how to go on all the same."""
    config = dataclasses.replace(PLAIN, eval_every=1, save_every=100, patience=2)
    validations(monkeypatch, 3.0, 2.0, 2.5, 1.5, 1.6, 1.5, 1.0, 1.0)
    events = train(tmp_path / "run", config, text)
    assert isinstance(events[-1], Saved)
    assert events[-1].step == 6
    with pytest.raises(TinyLMError, match=r"2 validations brought no new best; give a larger --patience, or --pat"):
        resume(tmp_path / "run")
    assert resume(tmp_path / "run", patience=None).state.step == 8


def test_patience_counts_across_a_resume(tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Validations without a new best count on after a resume."""
    config = dataclasses.replace(PLAIN, eval_every=1, save_every=1, patience=3)
    validations(monkeypatch, 1.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0)
    train_until(tmp_path / "run", config, text, 2)
    assert resume(tmp_path / "run").state.step == 4


@pytest.mark.parametrize("figure", [float("nan"), float("inf")])
def test_weights_that_went_wrong_are_not_kept(
    tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch, figure: float
) -> None:
    """A validation loss that is no number ends the run before those weights are kept or saved."""
    validations(monkeypatch, figure)
    with pytest.raises(TinyLMError, match=r"step 4: the validation loss is (nan|inf)\. Training stopped\. Try a lower"):
        train(tmp_path / "run", PLAIN, text)
    assert [path.name for path in run.checkpoint.saved(tmp_path / "run")] == ["00000002", "00000000"]
    load(tmp_path / "run")


def test_stopped_before_the_first_validation(tmp_path: Path, text: Path) -> None:
    """What generates after an early stop is what was learned so far, not the first weights."""
    config = dataclasses.replace(PLAIN, eval_every=100, save_every=100)
    train_until(tmp_path / "run", config, text, 3)
    newest = max(checkpoint_folders(tmp_path / "run"))
    assert 3 <= int(newest.name) < 6
    learned = transposed(read_safetensors(newest / "model.safetensors"))
    kept = read_safetensors(tmp_path / "run" / "model.safetensors")
    assert kept.keys() == learned.keys()
    for name, tensor in kept.items():
        np.testing.assert_array_equal(tensor, learned[name])


def test_other_steps_under_a_falling_rate_are_pointed_out(tmp_path: Path, text: Path) -> None:
    """A resumed run whose learning rate will jump says so; one whose rate is level does not."""
    for schedule, notes in (("linear", 1), ("constant", 0)):
        config = dataclasses.replace(PLAIN, schedule=schedule)
        train_until(tmp_path / schedule, config, text, 2)
        with run.resume(tmp_path / schedule, {"steps": 30}) as running:
            assert len(running.notes) == notes
            assert all("the learning rate is now that of a run of 30 steps" in note for note in running.notes)
        with run.resume(tmp_path / schedule, {}) as running:
            assert running.notes == ()


def test_a_run_that_diverges_keeps_what_was_good(tmp_path: Path, text: Path) -> None:
    """After a run has diverged its checkpoints and weights hold numbers only."""
    config = dataclasses.replace(PLAIN, learning_rate=1e38, grad_clip=None, save_every=1, eval_every=50)
    with pytest.raises(TinyLMError, match=r"^step 1: its model is not finite any more\. Training stopped"):
        train(tmp_path / "run", config, text)
    kept = [file for path in checkpoint_folders(tmp_path / "run") for file in path.glob("*.safetensors")]
    assert kept
    for file in kept:
        assert all(np.isfinite(tensor).all() for tensor in read_safetensors(file).values())
    model, tokenizer = load(tmp_path / "run")
    assert set(generate(model, tokenizer, "e", max_tokens=5)) <= set(text.read_text())


# Folders


def test_a_folder_with_something_in_it_is_refused(tmp_path: Path, text: Path) -> None:
    """Nothing is overwritten without --force, and the message shows what is there."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.doc").write_text("years of work")
    with pytest.raises(TinyLMError, match=r"has something in it already \(thesis\.doc\); choose another --out"):
        train(tmp_path / "run", PLAIN, text)
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["thesis.doc"]


def test_force_replaces_a_run_and_nothing_else(tmp_path: Path, text: Path) -> None:
    """With --force nothing of an earlier run is left, and files of other kinds stay."""
    folder = tmp_path / "run"
    train(folder, dataclasses.replace(RICH, steps=20), text)
    (folder / "notes.txt").write_text("mine")
    (folder / ".model.safetensors.77.tmp").write_text("left by a run that was killed")
    train(folder, PLAIN, text, force=True)
    train(tmp_path / "other", PLAIN, text)
    same_run(folder, tmp_path / "other")
    assert sorted(path.name for path in checkpoint_folders(folder)) == ["00000006", "00000008"]
    names = {path.name for path in (tmp_path / "other").iterdir()}
    assert {path.name for path in folder.iterdir()} == names | {"notes.txt"}


def checkpoint_folders(folder: Path) -> list[Path]:
    return list((folder / "checkpoints").iterdir())


def test_two_runs_never_share_a_folder(tmp_path: Path, text: Path) -> None:
    """While a run holds its folder, neither a start nor a resume gets in; afterwards they do."""
    with run.start(tmp_path / "run", PLAIN, [str(text)]):
        for attempt in (run.start(tmp_path / "run", PLAIN, [str(text)], force=True), run.resume(tmp_path / "run", {})):
            with pytest.raises(TinyLMError, match=r"another training run is writing here"):
                attempt.__enter__()
    assert resume(tmp_path / "run").state.step == 8


def test_fresh_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fresh folder is the first of run-1, run-2, ... that does not exist."""
    monkeypatch.chdir(tmp_path)
    assert fresh_folder() == Path("weights/run-1")
    (tmp_path / "weights" / "run-1").mkdir(parents=True)
    (tmp_path / "weights" / "run-3").mkdir()
    assert fresh_folder() == Path("weights/run-2")


# Starting from other weights


@every_config
def test_init_from(tmp_path: Path, text: Path, config: TrainConfig) -> None:
    """A run that starts from a model begins with its weights and shape, on new text, with its tokenizer."""
    train(tmp_path / "first", dataclasses.replace(config, steps=4, ema=None), text)
    new = tmp_path / "new.txt"
    new.write_text(text.read_text()[200:1500])
    with run.start(tmp_path / "second", TrainConfig(steps=4), [str(new)], tmp_path / "first") as running:
        assert equal(weights_of(running.state), tensors(tmp_path / "first"))
        assert equal(tensors(tmp_path / "second"), tensors(tmp_path / "first"))
        assert (running.config.family, running.config.width, running.config.context) == (config.family, 16, 8)
    first, second = (tmp_path / name / "tokenizer.json" for name in ("first", "second"))
    assert first.read_text() == second.read_text()


def test_init_from_refuses_unknown_characters(tmp_path: Path, text: Path) -> None:
    """New text with characters that the tokenizer lacks is refused, with their list, before a folder is made."""
    train(tmp_path / "first", dataclasses.replace(PLAIN, steps=1), text)
    (tmp_path / "new.txt").write_text("été œuvre " * 100)
    with pytest.raises(TinyLMError, match=r"has 2 characters that the model in .*first does not know: éœ"):
        run.start(tmp_path / "second", PLAIN, [str(tmp_path / "new.txt")], tmp_path / "first").__enter__()
    assert not (tmp_path / "second").exists()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("width", 32, r"--width 32: the model in .* has 16; leave it out"),
        ("layers", 2, r"--layers 2: the model in .* has 1; leave it out"),
        ("family", "qwen3", r"--family qwen3: the model in .* has gpt2; leave it out"),
        ("context", 16, r"--context 16: the model in .* sees 8 at most"),
    ],
)
def test_init_from_refuses_another_shape(halfway: Path, tmp_path: Path, name: str, value: Any, message: str) -> None:
    """A shape that was asked for and is not that of the weights is refused."""
    config = dataclasses.replace(PLAIN, **{name: value})
    with pytest.raises(TinyLMError, match=message):
        run.start(tmp_path / "run", config, [str(halfway.parent / "text.txt")], halfway, given={name}).__enter__()


def test_init_from_with_a_shorter_context(halfway: Path, tmp_path: Path) -> None:
    """Fine-tuning may see fewer characters at once than the model can."""
    config = dataclasses.replace(PLAIN, context=4, steps=2)
    train(tmp_path / "run", config, halfway.parent / "text.txt", init_from=halfway, given={"context"})
    assert json.loads((tmp_path / "run" / "config.json").read_text())["n_positions"] == 8


def test_impossible_shapes_are_refused_first(tmp_path: Path) -> None:
    """A shape that no model can have is refused before any text is looked for, and no folder is made."""
    with pytest.raises(TinyLMError, match=r"width 16 does not divide into 3 heads; choose a multiple"):
        run.start(tmp_path / "run", dataclasses.replace(PLAIN, heads=3), ["no such text"]).__enter__()
    assert not (tmp_path / "run").exists()


def test_any_unicode_trains_and_comes_back(tmp_path: Path) -> None:
    """Emoji, combining marks, right-to-left text, CRLF and NUL train, and come back from the tokenizer as they were."""
    sample = "naïve e\u0301 👩\u200d🚀 שלום مرحبا\r\nline\u2028sep \x00 \x1b[31m tab\t\U0010ffff 漢字\u3000\xa0"
    path = tmp_path / "text.txt"
    path.write_bytes((sample * 12).encode())
    train(tmp_path / "run", dataclasses.replace(PLAIN, steps=2, sample_every=1), path)
    model, tokenizer = load(tmp_path / "run")
    assert tokenizer.decode(tokenizer.encode(sample)) == sample
    assert set(generate(model, tokenizer, "\x00\r\n👩", max_tokens=20)) <= set(sample)
