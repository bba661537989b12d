"""A training run in its folder: started or resumed, locked, looked at and kept while it goes on."""

from __future__ import annotations

import contextlib
import dataclasses
import shlex
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_tinylm.backend.mlx_model import MLXModel
from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.evaluation import recorded_data
from mlx_tinylm.files import lock, make_folder, remove_leftovers
from mlx_tinylm.generation import generate
from mlx_tinylm.model_folder.folder import WEIGHTS, ModelFolder, open_folder, read_config, read_tensors, write_folder
from mlx_tinylm.model_folder.tensor_files import write_tensors
from mlx_tinylm.run_folder.events import Evaluated, Event, Sampled, Saved, Stepped
from mlx_tinylm.run_folder.record import (
    CHECKPOINTS,
    change_settings,
    clear,
    read_settings,
    record,
    refuse_filled,
    truncate_metrics,
    write_settings,
)
from mlx_tinylm.run_folder.settings import TrainConfig
from mlx_tinylm.sampling import SampleConfig
from mlx_tinylm.text.corpus import DEFAULT_CORPUS, Corpus, open_corpus
from mlx_tinylm.text.ids import Dataset, load_dataset
from mlx_tinylm.text.tokenizer import Tokenizer
from mlx_tinylm.training import checkpoint
from mlx_tinylm.training.loop import run_steps, validate
from mlx_tinylm.training.optimizer import schedule
from mlx_tinylm.training.state import DIVERGED, TrainState, check_memory, kept_tensors, kept_weights, new_state
from mlx_tinylm.training.step import make_step

SAMPLE_CHARACTERS = 200


@dataclass
class Progress:
    """How far a run is, besides its TrainState; kept in each checkpoint."""

    seconds: float = 0.0  # of training; validating, sampling and saving left out
    best_loss: float | None = None
    best_step: int = 0
    last_loss: float | None = None  # of the latest validation
    last_step: int = 0
    train_loss: float | None = None  # of the latest step
    without_best: int = 0  # validations since the best one


@dataclass
class Run:
    """A run that holds the lock on its folder. Iterate over `events` to train; `stop` ends it after a step."""

    folder: Path
    config: TrainConfig
    corpus: Corpus
    dataset: Dataset
    tokenizer: Tokenizer
    state: TrainState
    progress: Progress
    notes: tuple[str, ...] = ()
    stopping: bool = False

    def stop(self) -> None:
        """Finish the step under way, save, and end."""
        self.stopping = True

    @property
    def out_of_patience(self) -> bool:
        return self.config.patience is not None and self.progress.without_best >= self.config.patience

    def events(self) -> Iterator[Event]:
        """Train to the end and say what happens. Raises TinyLMError where a loss is not finite or a disk is full."""
        config, state = self.config, self.state
        saved = state.step
        step = make_step(state, config, self.dataset.train)
        while state.step < config.steps and not self.stopping and not self.out_of_patience:
            until = next_due(config, state.step)
            last: dict[str, Any] | None = None
            started = time.perf_counter()
            before = self.progress.seconds
            # All at once and beforehand: asking for one between two steps would make the host wait for the device.
            rates = np.array(schedule(config, config.learning_rate)(mx.arange(state.step, until)))
            rates = np.broadcast_to(rates, until - state.step)
            first = state.step
            for stepped in run_steps(step, state, config, len(self.dataset.train), until, lambda: self.stopping):
                self.progress.seconds = before + time.perf_counter() - started
                self.progress.train_loss = stepped.loss
                if last:
                    self._record(last)
                last = self._metrics(stepped, float(rates[stepped.step - 1 - first]))
                yield stepped
            if last is None:  # stopped before its first step
                break
            ended = state.step == config.steps
            if ended or is_due(state.step, config.eval_every):
                evaluated = self._evaluate()
                last["val_loss"] = evaluated.evaluation.loss
                yield evaluated
            self._record(last)
            if config.sample_every and (ended or is_due(state.step, config.sample_every)):
                yield Sampled(state.step, self._sample())
            if is_due(state.step, config.save_every):
                yield self._save()
                saved = state.step
        if state.step > saved:
            if self.progress.best_loss is None:  # stopped before the first validation: better these than the first ones
                self._keep_weights()
            yield self._save()

    def _save(self) -> Saved:
        with self._going_on_later():
            path = checkpoint.save(self.folder, self.state, dataclasses.asdict(self.progress))
        return Saved(self.state.step, path)

    def _keep_weights(self) -> None:
        with self._going_on_later():
            write_tensors(self.folder / WEIGHTS, kept_tensors(self.state))

    def _evaluate(self) -> Evaluated:
        evaluation = validate(self.state, self.config, self.dataset.validation)
        if not np.isfinite(evaluation.loss):
            raise TinyLMError(f"step {self.state.step}: the validation loss is {evaluation.loss:.4g}. {DIVERGED}")
        progress = self.progress
        progress.last_loss, progress.last_step = evaluation.loss, self.state.step
        best = progress.best_loss is None or evaluation.loss < progress.best_loss
        progress.without_best = 0 if best else progress.without_best + 1
        if best:
            progress.best_loss, progress.best_step = evaluation.loss, self.state.step
            self._keep_weights()
        return Evaluated(self.state.step, evaluation, best)

    def _sample(self) -> str:
        config = SampleConfig(max_tokens=SAMPLE_CHARACTERS, seed=self.config.seed)
        with kept_weights(self.state) as model:
            return generate(MLXModel(model), self.tokenizer, self.tokenizer.opening, config)

    def _metrics(self, stepped: Stepped, rate: float) -> dict[str, Any]:
        tokens = self.config.batch_size * self.config.grad_accumulation_steps * self.config.context
        return {
            "step": stepped.step,
            "loss": stepped.loss,
            "grad_norm": stepped.grad_norm,
            "lr": rate,
            "tokens": stepped.step * tokens,
            "seconds": round(self.progress.seconds, 4),
        }

    def _record(self, metrics: dict[str, Any]) -> None:
        with self._going_on_later():
            record(self.folder, metrics)

    @contextlib.contextmanager
    def _going_on_later(self) -> Iterator[None]:
        """What cannot be written costs at most what came after the last checkpoint: say how to go on from there."""
        try:
            yield
        except TinyLMError as error:
            command = f"mlx-tinylm train --resume {shlex.quote(str(self.folder))}"
            raise TinyLMError(f"{error}; make room for it, then go on from the last checkpoint: {command}") from None


def is_due(step: int, every: int | None) -> bool:
    return every is not None and step % every == 0


def next_due(config: TrainConfig, step: int) -> int:
    """The first step after `step` at which there is something to do but training."""
    intervals = [n for n in (config.eval_every, config.save_every, config.sample_every) if n]
    return min([config.steps, *((step // n + 1) * n for n in intervals)])


@contextlib.contextmanager
def start(
    folder: Path,
    config: TrainConfig,
    data: Sequence[str] = (),
    init_from: Path | None = None,
    force: bool = False,
    given: Collection[str] = (),
) -> Iterator[Run]:
    """A new run in `folder`, from fresh weights or those of the model folder `init_from`.

    `given` names the settings that were chosen on purpose, which `init_from` must not silently overrule.
    Raises TinyLMError where the text does not fit, or the folder has something in it and not `force`.
    """
    data = data or (DEFAULT_CORPUS,)
    source = open_folder(init_from) if init_from else None
    if source:
        config = _shaped_as(source, config, given)
    else:
        config.model_config(vocab_size=1, eos_id=0)  # refuses an impossible shape before a corpus is fetched
    corpus = open_corpus(data)
    tokenizer = source.tokenizer if source else Tokenizer.from_alphabet(corpus.alphabet)
    if source and (unknown := tokenizer.unknown_characters(corpus.alphabet)):
        shown = unknown.encode("unicode_escape").decode() if not unknown.isprintable() else unknown
        raise TinyLMError(
            f"{corpus.name}: has {len(unknown)} characters that the model in {init_from} does not know: "
            f"{shown[:200]}. Remove them from the text, or train from the start without --init-from"
        )
    if source and source.config.quantization:
        raise TinyLMError(f"{init_from}: is quantised and cannot be trained; use the folder it was made from")
    model_config = source.config if source else config.model_config(tokenizer.vocab_size, tokenizer.vocab_size - 1)
    check_memory(config, model_config)
    dataset = load_dataset(corpus, tokenizer, config.context)
    state = new_state(config, model_config, source.tensors() if source else None)
    make_folder(folder)
    refuse_filled(folder, force)  # before the lock, whose file would stay behind
    with lock(folder):
        clear(folder, force)
        write_folder(folder, model_config, tokenizer)
        write_tensors(folder / WEIGHTS, kept_tensors(state))
        progress = Progress()
        checkpoint.save(folder, state, dataclasses.asdict(progress))
        write_settings(folder, config, corpus, data, init_from)  # last: from here on the run can be resumed
        yield Run(folder, config, corpus, dataset, tokenizer, state, progress)


@contextlib.contextmanager
def resume(folder: Path, changes: dict[str, Any], data: Sequence[str] | None = None) -> Iterator[Run]:
    """Go on with the run in `folder` from its newest whole checkpoint.

    `changes` may hold the number of steps, how often to look and to save, and the patience: what can change without
    starting again. A schedule that falls to the end of the run then falls to its new end.
    Raises TinyLMError for other changes and for another text.
    """
    config, raw = read_settings(folder)
    free = {"steps", "eval_every", "save_every", "sample_every", "patience"}
    for name in changes.keys() - free:
        if changes[name] != getattr(config, name):
            option = "--" + name.replace("_", "-")
            raise TinyLMError(
                f"{folder}: was trained with {option} {getattr(config, name)}, which cannot change on --resume; "
                f"leave {option} out, or start another run with --init-from {folder}"
            )
    notes = []
    if changes.get("steps", config.steps) != config.steps and config.schedule != "constant":
        notes.append(f"the learning rate is now that of a run of {changes['steps']:,} steps; it jumps where they part")
    config = dataclasses.replace(config, **changes)
    corpus = open_corpus(data or recorded_data(folder))
    if corpus.sha256 != raw["corpus"]["sha256"]:
        raise TinyLMError(
            f"{folder}: was trained on another text than {corpus.name} is now; give the same text with --data, "
            f"or start another run with --init-from {folder}"
        )
    with lock(folder):
        remove_leftovers(folder)
        remove_leftovers(folder / CHECKPOINTS)
        tokenizer = Tokenizer.load(folder)
        dataset = load_dataset(corpus, tokenizer, config.context)
        state = new_state(config, read_config(folder))
        kept, wrong = checkpoint.load_newest(folder, state)
        run = Run(folder, config, corpus, dataset, tokenizer, state, Progress(**kept))
        notes += [f"{problem}; going on from step {state.step}" for problem in wrong]
        if state.step >= config.steps:
            raise TinyLMError(f"{folder}: already has all {config.steps} steps; give a larger --steps to go on")
        if run.out_of_patience:
            raise TinyLMError(
                f"{folder}: stopped because {run.progress.without_best} validations brought no new best; "
                "give a larger --patience, or --patience off, to go on"
            )
        notes += _restore_weights(run)
        truncate_metrics(folder, state.step)
        change_settings(folder, config)
        yield dataclasses.replace(run, notes=tuple(notes))


def _restore_weights(run: Run) -> list[str]:
    """See that the best weights can be read; where they cannot, put those of the checkpoint there and say so."""
    try:
        read_tensors(run.folder, run.state.model.config)
        return []
    except TinyLMError as error:
        write_tensors(run.folder / WEIGHTS, kept_tensors(run.state))
        run.progress.best_loss = None
        return [f"{error}; those of step {run.state.step} are there now"]


def _shaped_as(source: ModelFolder, config: TrainConfig, given: Collection[str]) -> TrainConfig:
    """The settings with the shape of the model to start from; a shorter context is allowed."""
    model = source.config
    shape: dict[str, Any] = {"family": model.family, "layers": model.layers, "heads": model.heads, "width": model.width}
    for name in shape.keys() & given:
        if getattr(config, name) != shape[name]:
            raise TinyLMError(
                f"--{name} {getattr(config, name)}: the model in {source.path} has {shape[name]}; leave it out"
            )
    if "context" in given and config.context > model.context:
        raise TinyLMError(f"--context {config.context}: the model in {source.path} sees {model.context} at most")
    return dataclasses.replace(config, context=min(config.context, model.context), **shape)
