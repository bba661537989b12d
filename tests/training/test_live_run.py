"""A run under way: what is due when, what is kept, what is written of it, and how it ends."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import mlx.core as mx
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
from mlx_tinylm.run_folder.events import Baselines, Evaluated, Sampled, Saved, Stepped
from mlx_tinylm.run_folder.metrics import losses as recorded_losses
from mlx_tinylm.training import checkpoint, live_run, resumption, run
from mlx_tinylm.training.state import device_failures
from mlx_tinylm.training.step import Step, make_step

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def text(tmp_path: Path) -> Path:
    return write_text(tmp_path / "text.txt")


def test_events(tmp_path: Path, text: Path) -> None:
    """A run reports every step, and validation, samples and checkpoints when they are due, first and last included."""
    config = dataclasses.replace(PLAIN, steps=7, eval_every=3, save_every=4, sample_every=5)
    events = train(tmp_path / "run", config, text)
    found = {kind: [event.step for event in events if isinstance(event, kind)] for kind in (Evaluated, Sampled, Saved)}
    assert found == {Evaluated: [0, 3, 6, 7], Sampled: [5, 7], Saved: [4, 7]}
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
    assert [line["step"] for line in lines] == list(range(9))
    assert [line["step"] for line in lines if "val_loss" in line] == [0, 4, 8]
    assert all(line["val_bits_per_byte"] > 0 for line in lines if "val_loss" in line)
    lines = lines[1:]
    assert all({"step", "loss", "grad_norm", "lr", "tokens", "seconds"} <= line.keys() for line in lines)
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
    validations(monkeypatch, 4.0, 3.0, 2.0, 2.5, 2.0)
    best = []
    with run.start(on_streams(), tmp_path / "run", dataclasses.replace(RICH, eval_every=2), [str(text)]) as running:
        for event in running.events():
            if isinstance(event, Evaluated):
                best.append(event.best)
                if event.step == 4:
                    kept = weights_of(running.state)
    assert best == [False, True, True, False, False]
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
    validations(monkeypatch, 4.0, 3.0, 2.0, 2.5, 1.5, 1.6, 1.5, 1.0, 1.0)
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
    validations(monkeypatch, 4.0, figure)
    with pytest.raises(TinyLMError, match=r"step 4: the validation loss is (nan|inf)\. Training stopped\. Try a"):
        train(tmp_path / "run", PLAIN, text)
    assert [path.name for path in checkpoint.saved(tmp_path / "run")] == ["00000002"]
    good = read_safetensors(tmp_path / "run" / "checkpoints" / "00000002" / "model.safetensors")
    assert equal(tensors(tmp_path / "run"), transposed(good))


@pytest.mark.parametrize("save_every", [1, 50])
def test_a_run_that_diverges_keeps_what_was_good(tmp_path: Path, text: Path, save_every: int) -> None:
    """After a run has diverged its checkpoints, snapshots and weights hold numbers only."""
    config = dataclasses.replace(PLAIN, learning_rate=1e38, grad_clip=None, save_every=save_every, eval_every=50)
    with pytest.raises(TinyLMError, match=r"^step 1: its model is not finite any more\. .*, in a new run$"):
        train(tmp_path / "run", config, text)
    kept = list((tmp_path / "run").rglob("*.safetensors"))
    assert len(kept) == 5  # the model, the snapshot and the three parts of the checkpoint of step 0
    for file in kept:
        assert all(np.isfinite(tensor).all() for tensor in read_safetensors(file).values())


def test_stopped_before_the_first_validation(tmp_path: Path, text: Path) -> None:
    """What generates after an early stop is what was learned so far, not the first weights."""
    train_until(tmp_path / "run", dataclasses.replace(PLAIN, eval_every=100, save_every=100), text, 3)
    newest = checkpoint.saved(tmp_path / "run")[0]
    assert 3 <= int(newest.name) < 6
    assert equal(tensors(tmp_path / "run"), transposed(read_safetensors(newest / "model.safetensors")))


# Validation


def test_what_losses_compare_with(tmp_path: Path, text: Path) -> None:
    """Before the first validation after a step comes, once, what guessing and counting would reach on the text."""
    config = dataclasses.replace(PLAIN, eval_every=3)
    events = train(tmp_path / "run", config, text)
    (compared,) = (event for event in events if isinstance(event, Baselines))
    place = events.index(compared)
    assert [event.step for event in events[:place] if isinstance(event, Evaluated)] == [0]
    assert isinstance(events[place + 1], Evaluated)
    assert isinstance(events[1], Stepped)
    words = text.read_text()
    assert compared.guessing == pytest.approx(np.log(len(set(words)) + 1))
    assert compared.counted == int(0.9 * len(words))
    assert compared.guessing > compared.ngrams[0] > compared.ngrams[2]
    kept = recorded_losses(tmp_path / "run")  # whoever looks at the run need not count again
    assert (kept.guessing, kept.ngrams) == (compared.guessing, compared.ngrams)
    assert [line["step"] for line in metrics(tmp_path / "run") if "baselines" in line] == [3]


def test_weights_that_were_not_validated_are_better_than_random_ones(tmp_path: Path, text: Path) -> None:
    """Until trained weights have been validated, those of each checkpoint are the model, however the run ends."""
    config = dataclasses.replace(PLAIN, eval_every=1000, save_every=2)
    with run.start(on_streams(), tmp_path / "run", config, [str(text)]) as running:
        for event in running.events():
            if isinstance(event, Saved) and event.step == 6:
                break  # as if it were killed
    assert equal(tensors(tmp_path / "run"), weights_of(running.state))
    assert running.progress.best_loss is None
    with resumption.resume(on_streams(), tmp_path / "run", {"steps": 7}) as running:
        assert [event.best for event in running.events() if isinstance(event, Evaluated)] == [True]
    assert running.progress.best_step == 7


def test_a_checkpoint_comes_before_the_validation_of_its_step(tmp_path: Path, text: Path) -> None:
    """Where a run ends in the middle of a validation, what was trained is saved; resumed, it validates first."""
    config = dataclasses.replace(PLAIN, eval_every=4, save_every=4)
    train(tmp_path / "whole", config, text)
    with run.start(on_streams(), tmp_path / "run", config, [str(text)]) as running:
        kinds = []
        for event in running.events():
            kinds.append(type(event))
            if isinstance(event, Saved):
                assert running.unvalidated
                running.stop()
        assert (running.state.step, running.unvalidated) == (4, True)
    assert kinds[-1] is Saved
    with resumption.resume(on_streams(), tmp_path / "run", {}) as running:
        first = next(running.events())
    assert isinstance(first, Evaluated)
    assert first.step == 4
    assert [line.get("val_loss") for line in metrics(tmp_path / "run")[4:]] == [first.loss]
    resume(tmp_path / "run")
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")
    assert equal(tensors(tmp_path / "run"), tensors(tmp_path / "whole"))


def test_a_validation_is_broken_off(tmp_path: Path) -> None:
    """A run that is stopped while it validates does not read the rest of the held-out text."""
    text = write_text(tmp_path / "text.txt", 60_000)
    with run.start(on_streams(), tmp_path / "run", PLAIN, [str(text)]) as running:
        running.stop()
        assert list(running.events()) == []
        assert running.activity == "breaking off the validation"
    assert resume(tmp_path / "run").state.step == 8


def test_a_stopped_last_validation_is_made_up_for(tmp_path: Path, text: Path) -> None:
    """A run with all its steps, but not their validation, can be resumed, and then no more."""
    with run.start(on_streams(), tmp_path / "run", PLAIN, [str(text)]) as running:
        for event in running.events():
            if isinstance(event, Saved) and event.step == 8:
                running.stop()
    assert running.progress.last_step == 4
    assert resume(tmp_path / "run").progress.last_step == 8
    with pytest.raises(TinyLMError, match=r"is at step 8 already; give --steps above 8 to go on"):
        resume(tmp_path / "run")


def test_fine_tuning_never_keeps_worse_weights(tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The weights that a run began with stay where no later ones are better on its text."""
    train(tmp_path / "first", PLAIN, text)
    begun = tensors(tmp_path / "first")
    validations(monkeypatch, 2.0, 2.5, 2.1)
    with run.start(on_streams(), tmp_path / "second", PLAIN, [str(text)], init_from=tmp_path / "first") as running:
        assert [event.best for event in running.events() if isinstance(event, Evaluated)] == [True, False, False]
    assert equal(tensors(tmp_path / "second"), begun)
    assert (running.progress.best_step, running.progress.best_loss) == (0, 2.0)
    seldom = dataclasses.replace(PLAIN, eval_every=100, save_every=100)
    validations(monkeypatch, 2.0)
    with run.start(on_streams(), tmp_path / "third", seldom, [str(text)], init_from=tmp_path / "first") as running:
        for event in running.events():
            if event.step >= 3:
                running.stop()
    assert equal(tensors(tmp_path / "third"), begun)


def test_after_a_divergence_only_weights_that_exist_are_named(
    tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The way out names the best weights where there are some, and else a new run."""
    for figures, words in (((4.0, float("nan")), "in a new run"), ((4.0, 3.0, float("nan")), "of step 4, with --init")):
        validations(monkeypatch, *figures)
        with pytest.raises(TinyLMError, match=words):
            train(tmp_path / words[:2], PLAIN, text)


def test_a_sample_is_broken_off(tmp_path: Path, text: Path) -> None:
    """A run that is stopped while it writes a sample leaves that."""
    config = dataclasses.replace(PLAIN, sample_every=4)
    with run.start(on_streams(), tmp_path / "run", config, [str(text)]) as running:
        for event in running.events():
            assert not isinstance(event, Sampled)
            if isinstance(event, Evaluated) and event.step == 4:
                running.stop()
    assert checkpoint.saved(tmp_path / "run")[0].name == "00000004"


METAL = "[METAL] Command buffer execution failed: Caused GPU Timeout Error (00000002:kIOGPUCommandBufferCallbackError)."


@pytest.mark.parametrize(("step", "kept"), [(1, 0), (5, 4), (6, 4)])
def test_a_gpu_that_gives_up(step: int, kept: int, tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where Metal ends the work, nothing of that step is saved, and a line says what helps and how to go on.

    A stand-in for Metal: the loss of a step that raises when it is waited for.
    """

    class Failed:
        def __float__(self) -> float:
            raise RuntimeError(METAL)

    def failing(*arguments: object) -> Step:
        made, count = make_step(*arguments), itertools.count(1)  # type: ignore[arg-type]

        def stepped(*inputs: mx.array | None) -> tuple[mx.array, mx.array]:
            loss, norm = made(*inputs)
            return (Failed() if next(count) == step else loss), norm  # type: ignore[return-value]

        return stepped

    config = dataclasses.replace(PLAIN, grad_clip=None)
    with monkeypatch.context() as patch:
        patch.setattr(live_run, "make_step", failing)
        patch.setattr(mx, "async_eval", lambda *_: None)
        with pytest.raises(TinyLMError) as caught:
            train(tmp_path / "run", config, text)
    message = str(caught.value)
    assert message.startswith("the GPU ended its work ([METAL] Command buffer execution failed: Caused GPU Timeout")
    assert "smaller --batch-size helps, or letting the display sleep" in message
    go_on = f"mlx-tinylm train --resume {tmp_path / 'run'}"
    assert message.endswith(f"The checkpoint of step {kept} stands; go on: {go_on}")
    assert checkpoint.saved(tmp_path / "run")[0].name == f"{kept:08}"
    assert len(metrics(tmp_path / "run")) == step
    resume(tmp_path / "run")
    train(tmp_path / "whole", config, text)
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")


def test_other_errors_of_mlx_are_no_gpu_that_gives_up() -> None:
    """A RuntimeError that says something else is a mistake of ours, and stays what it is."""
    with pytest.raises(RuntimeError, match="shapes"), device_failures():
        raise RuntimeError("shapes do not match")
