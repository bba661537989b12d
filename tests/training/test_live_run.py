"""A run under way: what is due when, what is kept, what is written of it, and how it ends."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest
from tiny_runs import (
    PLAIN,
    RICH,
    equal,
    losses,
    metrics,
    on_streams,
    resume,
    tensors,
    train,
    train_until,
    weights_of,
    write_text,
)

from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.model_folder.layout import transposed
from mlx_tinylm.model_folder.tensor_files import read_safetensors
from mlx_tinylm.run_folder.events import Evaluated, Sampled, Saved, Stepped
from mlx_tinylm.run_folder.settings import TrainConfig
from mlx_tinylm.training import checkpoint, live_run, run
from mlx_tinylm.training.live_run import Due, next_due

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def text(tmp_path: Path) -> Path:
    return write_text(tmp_path / "text.txt")


EVERY = TrainConfig(steps=10, eval_every=4, save_every=6, sample_every=8)


@pytest.mark.parametrize(
    ("after", "changes", "due"),
    [
        (0, {}, Due(4, evaluate=True, sample=False, save=False)),
        (3, {}, Due(4, evaluate=True, sample=False, save=False)),
        (4, {}, Due(6, evaluate=False, sample=False, save=True)),
        (6, {}, Due(8, evaluate=True, sample=True, save=False)),
        (8, {}, Due(10, evaluate=True, sample=True, save=False)),
        (8, {"sample_every": None}, Due(10, evaluate=True, sample=False, save=False)),
        (8, {"save_every": 5}, Due(10, evaluate=True, sample=True, save=True)),
        (0, {"steps": 3}, Due(3, evaluate=True, sample=True, save=False)),
    ],
)
def test_what_is_due(after: int, changes: dict[str, int | None], due: Due) -> None:
    """After a step comes the next multiple of any interval, or the last step, which is always looked at."""
    assert next_due(dataclasses.replace(EVERY, **changes), after) == due


def test_events(tmp_path: Path, text: Path) -> None:
    """A run reports every step, and validation, samples and checkpoints when they are due, the last step included."""
    config = dataclasses.replace(PLAIN, steps=7, eval_every=3, save_every=4, sample_every=5)
    events = train(tmp_path / "run", config, text)
    found = {kind: [event.step for event in events if isinstance(event, kind)] for kind in (Evaluated, Sampled, Saved)}
    assert found == {Evaluated: [3, 6, 7], Sampled: [5, 7], Saved: [4, 7]}
    assert [event.step for event in events if isinstance(event, Stepped)] == [1, 2, 3, 4, 5, 6, 7]
    assert all(one.step <= other.step for one, other in itertools.pairwise(events))
    sample = next(event for event in events if isinstance(event, Sampled))
    assert 0 < len(sample.text) <= 200
    assert set(sample.text) <= set(text.read_text())
    validated = {line["step"]: line["val_loss"] for line in metrics(tmp_path / "run") if "val_loss" in line}
    assert validated == {event.step: event.loss for event in events if isinstance(event, Evaluated)}


def test_looking_does_not_change_the_run(tmp_path: Path, text: Path) -> None:
    """How often a run is validated, saved or sampled does not change its losses."""
    config = dataclasses.replace(RICH, eval_every=8, save_every=8, sample_every=None)
    train(tmp_path / "seldom", config, text)
    train(tmp_path / "often", dataclasses.replace(config, eval_every=1, save_every=2, sample_every=3), text)
    seldom, often = losses(tmp_path / "seldom"), losses(tmp_path / "often")
    assert [line[:5] for line in seldom] == [line[:5] for line in often]


def test_metrics(tmp_path: Path, text: Path) -> None:
    """There is one line of metrics a step, with its rate and tokens, validations, and time that only goes on."""
    config = dataclasses.replace(RICH, schedule="linear")
    train(tmp_path / "run", config, text)
    lines = metrics(tmp_path / "run")
    assert [line["step"] for line in lines] == list(range(1, 9))
    assert all({"step", "loss", "grad_norm", "lr", "tokens", "seconds"} <= line.keys() for line in lines)
    assert [line["step"] for line in lines if "val_loss" in line] == [4, 8]
    assert lines[2]["tokens"] == 3 * 2 * 2 * 8
    rates = [1e-3, 2e-3, *(3e-3 * left / 6 for left in (6, 5, 4, 3, 2, 1))]
    assert [line["lr"] for line in lines] == pytest.approx(rates)
    seconds = [line["seconds"] for line in lines]
    assert seconds == sorted(seconds)


def validations(monkeypatch: pytest.MonkeyPatch, *figures: float) -> None:
    """Let the validations of a run give these losses, one after the other."""
    given = iter(figures)
    monkeypatch.setattr(live_run, "validate", lambda *_: next(given))


def test_best_weights_are_kept(tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """model.safetensors holds the averages at the best validation: not the weights, nor those of the latest one."""
    validations(monkeypatch, 3.0, 2.0, 2.5, 2.0)
    best = []
    with run.start(on_streams(), tmp_path / "run", dataclasses.replace(RICH, eval_every=2), [str(text)]) as running:
        for event in running.events():
            if isinstance(event, Evaluated):
                best.append(event.best)
                if event.step == 4:
                    kept = weights_of(running.state)
    assert best == [True, True, False, False]
    assert equal(tensors(tmp_path / "run"), kept)
    assert not equal(kept, weights_of(running.state))
    assert (running.progress.best_loss, running.progress.best_step, running.progress.last_loss) == (2.0, 4, 2.0)
    name = "model.embed_tokens.weight"
    averaged, own = running.state.average.weights[name], running.state.model.model.embed_tokens.weight
    assert np.array_equal(weights_of(running.state)[name], np.array(averaged))
    assert not np.array_equal(np.array(averaged), np.array(own))


@pytest.mark.parametrize("stop", [8, 5])
def test_patience(tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch, stop: int) -> None:
    """A run ends after so many validations without a new best, resumed in between or not, and says how to go on."""
    config = dataclasses.replace(PLAIN, eval_every=1, save_every=100, patience=2)
    validations(monkeypatch, 3.0, 2.0, 2.5, 1.5, 1.6, 1.5, 1.0, 1.0)
    train_until(tmp_path / "run", config, text, stop)
    if stop == 5:
        assert resume(tmp_path / "run").state.step == 6
    assert checkpoint.saved(tmp_path / "run")[0].name == "00000006"
    with pytest.raises(TinyLMError, match=r"2 validations brought no new best; give a larger --patience, or --pat"):
        resume(tmp_path / "run")
    assert resume(tmp_path / "run", patience=None).state.step == 8


@pytest.mark.parametrize("figure", [float("nan"), float("inf")])
def test_weights_that_went_wrong_are_not_kept(
    tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch, figure: float
) -> None:
    """A validation loss that is no number ends the run before those weights are kept or saved."""
    validations(monkeypatch, figure)
    with run.start(on_streams(), tmp_path / "run", PLAIN, [str(text)]) as started:
        first = tensors(tmp_path / "run")
        with pytest.raises(TinyLMError, match=r"step 4: the validation loss is (nan|inf)\. Training stopped\. Try a"):
            list(started.events())
    assert [path.name for path in checkpoint.saved(tmp_path / "run")] == ["00000002", "00000000"]
    assert equal(tensors(tmp_path / "run"), first)


def test_a_run_that_diverges_keeps_what_was_good(tmp_path: Path, text: Path) -> None:
    """After a run has diverged its checkpoints and weights hold numbers only."""
    config = dataclasses.replace(PLAIN, learning_rate=1e38, grad_clip=None, save_every=1, eval_every=50)
    with pytest.raises(TinyLMError, match=r"^step 1: its model is not finite any more\. Training stopped"):
        train(tmp_path / "run", config, text)
    kept = list((tmp_path / "run").rglob("*.safetensors"))
    assert len(kept) == 4
    for file in kept:
        assert all(np.isfinite(tensor).all() for tensor in read_safetensors(file).values())


def test_stopped_before_the_first_validation(tmp_path: Path, text: Path) -> None:
    """What generates after an early stop is what was learned so far, not the first weights."""
    train_until(tmp_path / "run", dataclasses.replace(PLAIN, eval_every=100, save_every=100), text, 3)
    newest = checkpoint.saved(tmp_path / "run")[0]
    assert 3 <= int(newest.name) < 6
    assert equal(tensors(tmp_path / "run"), transposed(read_safetensors(newest / "model.safetensors")))
