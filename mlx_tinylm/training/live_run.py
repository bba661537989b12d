"""A training run under way: what it does after which step, and what it says of it.

How a run comes about, new or resumed, is in run.py.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shlex
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from mlx_tinylm.backend.devices import Compute
from mlx_tinylm.backend.mlx_model import MLXModel
from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.generation import generate
from mlx_tinylm.model_folder.folder import WEIGHTS
from mlx_tinylm.model_folder.tensor_files import write_tensors
from mlx_tinylm.run_folder import metrics
from mlx_tinylm.run_folder.events import Evaluated, Event, Sampled, Saved, Stepped
from mlx_tinylm.run_folder.settings import TrainConfig
from mlx_tinylm.sample_config import SampleConfig
from mlx_tinylm.text.corpus import Corpus
from mlx_tinylm.text.ids import Dataset
from mlx_tinylm.text.tokenizer import Tokenizer
from mlx_tinylm.training import checkpoint
from mlx_tinylm.training.loop import run_steps, validate
from mlx_tinylm.training.optimizer import schedule
from mlx_tinylm.training.state import DIVERGED, TrainState, kept_tensors, kept_weights
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

    def out_of(self, patience: int | None) -> bool:
        return patience is not None and self.without_best >= patience


@dataclass(frozen=True)
class Due:
    """What there is to do but training, after `step`."""

    step: int
    evaluate: bool
    sample: bool
    save: bool


def next_due(config: TrainConfig, after: int) -> Due:
    """What is due next after the step `after`; the last step is validated and sampled whatever its number."""

    def following(every: int | None) -> int:
        return config.steps if every is None else min(config.steps, (after // every + 1) * every)

    step = min(map(following, (config.eval_every, config.sample_every, config.save_every)))
    ends = step == config.steps
    return Due(
        step,
        evaluate=ends or step % config.eval_every == 0,
        sample=config.sample_every is not None and (ends or step % config.sample_every == 0),
        save=step % config.save_every == 0,
    )


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
    compute: Compute
    notes: tuple[str, ...] = ()
    stopping: bool = False

    def stop(self) -> None:
        """Finish the step under way, save, and end."""
        self.stopping = True

    def peak_memory_mib(self) -> float:
        """The most memory that MLX has held at once."""
        return mx.get_peak_memory() / 2**20

    @property
    def out_of_patience(self) -> bool:
        return self.progress.out_of(self.config.patience)

    def events(self) -> Iterator[Event]:
        """Train to the end and say what happens. Raises TinyLMError where a loss is not finite or a disk is full."""
        config, state = self.config, self.state
        saved = state.step
        step = make_step(state, config, self.dataset.train, self.compute)
        while state.step < config.steps and not self.stopping and not self.out_of_patience:
            due = next_due(config, state.step)
            rates = self._rates(due.step)
            last: dict[str, Any] | None = None
            started, before = time.perf_counter(), self.progress.seconds
            for stepped in run_steps(step, state, config, len(self.dataset.train), due.step, lambda: self.stopping):
                self.progress.seconds = before + time.perf_counter() - started
                self.progress.train_loss = stepped.loss
                if last:
                    self._record(last)
                last = self._metrics(stepped, next(rates))
                yield stepped
            if last is None:  # stopped before its first step
                break
            if state.step < due.step:  # stopped on the way: nothing is due
                self._record(last)
                break
            if due.evaluate:
                evaluated = self._evaluate()
                last["val_loss"] = evaluated.loss
                yield evaluated
            self._record(last)
            if due.sample:
                yield Sampled(state.step, self._sample())
            if due.save:
                yield self._save()
                saved = state.step
        if state.step > saved:
            if self.progress.best_loss is None:  # stopped before the first validation: better these than the first ones
                self._keep_weights()
            yield self._save()

    def _rates(self, until: int) -> Iterator[float]:
        """The learning rate of each step up to `until`.

        All at once and beforehand: asking for one between two steps would make the host wait for the device.
        """
        steps = mx.arange(self.state.step, until)
        rates: npt.NDArray[np.float32] = np.array(schedule(self.config, self.config.learning_rate)(steps))
        return iter(np.broadcast_to(rates, len(steps)).tolist())

    def _save(self) -> Saved:
        with self._going_on_later():
            path = checkpoint.save(self.folder, self.state, dataclasses.asdict(self.progress))
        return Saved(self.state.step, path)

    def _keep_weights(self) -> None:
        with self._going_on_later():
            write_tensors(self.folder / WEIGHTS, kept_tensors(self.state))

    def _evaluate(self) -> Evaluated:
        loss = validate(self.state, self.config, self.dataset.validation, self.compute)
        if not np.isfinite(loss):
            raise TinyLMError(f"step {self.state.step}: the validation loss is {loss:.4g}. {DIVERGED}")
        progress = self.progress
        progress.last_loss, progress.last_step = loss, self.state.step
        best = progress.best_loss is None or loss < progress.best_loss
        progress.without_best = 0 if best else progress.without_best + 1
        if best:
            progress.best_loss, progress.best_step = loss, self.state.step
            self._keep_weights()
        return Evaluated(self.state.step, loss, best)

    def _sample(self) -> str:
        config = SampleConfig(max_tokens=SAMPLE_CHARACTERS, seed=self.config.seed)
        with kept_weights(self.state) as model:
            return generate(MLXModel(model, self.compute), self.tokenizer, self.tokenizer.opening, config)

    def _metrics(self, stepped: Stepped, rate: float) -> dict[str, Any]:
        return {
            "step": stepped.step,
            "loss": stepped.loss,
            "grad_norm": stepped.grad_norm,
            "lr": rate,
            "tokens": stepped.step * self.config.tokens_per_step,
            "seconds": round(self.progress.seconds, 4),
        }

    def _record(self, line: dict[str, Any]) -> None:
        with self._going_on_later():
            metrics.append(self.folder, line)

    @contextlib.contextmanager
    def _going_on_later(self) -> Iterator[None]:
        """What cannot be written costs at most what came after the last checkpoint: say how to go on from there."""
        try:
            yield
        except TinyLMError as error:
            command = f"mlx-tinylm train --resume {shlex.quote(str(self.folder))}"
            raise TinyLMError(f"{error}. Then go on from the last checkpoint: {command}") from None
