"""A training run under way: what it does after which step, and what it says of it.

How a run comes about, new or resumed, is in run.py.
"""

from __future__ import annotations

import functools
import itertools
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
from mlx_tinylm.generation import stream_generate
from mlx_tinylm.run_folder import metrics
from mlx_tinylm.run_folder.events import Baselines, Evaluated, Event, Sampled, Saved, Stepped
from mlx_tinylm.run_folder.settings import TrainConfig
from mlx_tinylm.sample_config import SampleConfig
from mlx_tinylm.text.corpus import Corpus
from mlx_tinylm.text.ids import Dataset
from mlx_tinylm.text.pair_ids import PairDataset
from mlx_tinylm.text.pairs import PairCorpus
from mlx_tinylm.text.tokenizer import Tokenizer
from mlx_tinylm.training import checkpoint
from mlx_tinylm.training.loop import answered, baselines, run_steps, validate
from mlx_tinylm.training.optimizer import schedule
from mlx_tinylm.training.progress import SAMPLE_CHARACTERS, Progress, due_at, next_due
from mlx_tinylm.training.run_files import RunFiles
from mlx_tinylm.training.state import (
    AGAINST_DIVERGENCE,
    DeviceFailedError,
    DivergedError,
    TrainState,
    device_failures,
    kept_weights,
)
from mlx_tinylm.training.step import Step, make_step

ANSWERS = 3  # in a sample of what pairs have taught


@dataclass
class Run:
    """A run that holds the lock on its folder. Iterate over `events` to train; `stop` ends it after a step."""

    folder: Path
    config: TrainConfig
    corpus: Corpus
    dataset: Dataset | PairDataset
    tokenizer: Tokenizer
    state: TrainState
    progress: Progress
    compute: Compute
    saved: Saved  # the latest checkpoint
    fine_tuned: bool = False  # it began with trained weights
    notes: tuple[str, ...] = ()
    stopping: bool = False
    activity: str = "finishing this step"  # what `stop` waits for

    @functools.cached_property
    def files(self) -> RunFiles:
        return RunFiles(self.folder, self.state, self.progress)

    def stop(self) -> None:
        """End after the step under way, or in the middle of a validation or a sample, and save."""
        self.stopping = True

    def peak_memory_mib(self) -> float:
        """The most memory that MLX has held at once."""
        return mx.get_peak_memory() / 2**20

    @property
    def out_of_patience(self) -> bool:
        return self.progress.out_of(self.config.patience)

    @property
    def unvalidated(self) -> bool:
        """Whether a validation is due at this very step, and was not made or not brought to its end."""
        validated = self.progress.last_loss is not None and self.progress.last_step == self.state.step
        return not validated and due_at(self.config, self.state.step).evaluate

    def events(self) -> Iterator[Event]:
        """Train to the end and say what happens.

        Raises TinyLMError where a loss is not finite, a disk is full, or a GPU gives up.
        """
        try:
            with device_failures():  # validations and samples wait for it, too
                yield from self._events()
        except DivergedError as error:
            raise TinyLMError(f"{error}. {self._after_divergence()}") from None
        except DeviceFailedError as error:
            stands = f"The checkpoint of step {self.saved.step:,} stands; go on: {self.files.resume_command}"
            raise TinyLMError(f"{error}. {stands}") from None

    def _events(self) -> Iterator[Event]:
        config, state = self.config, self.state
        step = make_step(state, config, self.compute)
        compared = False  # with the baselines: once, and not so early that the first step would have to wait
        self._keep_snapshot()
        if self.unvalidated:
            yield from self._evaluate()
        while state.step < config.steps and not self.stopping and not self.out_of_patience:
            yield from self._train(step, next_due(config, state.step))
            due = due_at(config, state.step)
            if due.save:  # first: what follows may take long, and must not cost what was trained
                yield self._save()
            self._keep_snapshot()
            if due.evaluate:
                if isinstance(self.dataset, Dataset) and not compared and not self.stopping:
                    self.activity, compared = "finishing the baselines", True
                    guessing, ngrams, counted = baselines(self.dataset, state.model.config.vocab_size)
                    yield Baselines(state.step, guessing, ngrams, counted)
                    line = self.progress.line or {"step": state.step}
                    self.progress.line = line | {metrics.BASELINES: {"guessing": guessing, "ngrams": ngrams}}
                yield from self._evaluate()
            if due.sample and not self.stopping:
                yield from self._sample()
        if state.step > self.saved.step:
            yield self._save()

    def _train(self, step: Step, until: int) -> Iterator[Stepped]:
        """The steps up to `until`, or to where the run is stopped."""
        rates = self._rates(until)
        started, before = time.perf_counter(), self.progress.seconds
        self.activity = "finishing this step"
        for stepped in run_steps(step, self.state, self.config, self.dataset.train, until, lambda: self.stopping):
            self.progress.seconds = before + time.perf_counter() - started
            self.progress.trained(stepped.loss)
            self.progress.line = self._metrics(stepped, next(rates))
            if not due_at(self.config, stepped.step).evaluate:  # otherwise it waits for the validation
                self.files.record(self.progress.line)
            yield stepped

    def _rates(self, until: int) -> Iterator[float]:
        """The learning rate of each step up to `until`.

        All at once and beforehand: asking for one between two steps would make the host wait for the device.
        """
        steps = mx.arange(self.state.step, until)
        rates: npt.NDArray[np.float32] = np.array(schedule(self.config, self.config.learning_rate)(steps))
        return iter(np.broadcast_to(rates, len(steps)).tolist())

    def _save(self) -> Saved:
        self.activity = "finishing this checkpoint"
        self.saved = Saved(self.state.step, self.files.save())
        if not due_at(self.config, self.state.step).evaluate:
            self._keep_unvalidated()
        return self.saved

    def _keep_unvalidated(self) -> None:
        """Keep the latest weights while none have been validated: they are better than random ones."""
        if self.progress.best_loss is None and self.state.step:
            self.files.keep_weights()

    def _keep_snapshot(self) -> None:
        """Where one is due; that of the step a run goes on from may have been cut short, so it is made again."""
        if due_at(self.config, self.state.step).snapshot:
            self.files.keep_snapshot()

    def _evaluate(self) -> Iterator[Evaluated]:
        """Validate, and keep the weights that are best so far; nothing where the run is stopped meanwhile."""
        step, self.activity = self.state.step, "breaking off the validation"
        loss = validate(self.state, self.config, self.dataset.validation, self.compute, lambda: self.stopping)
        line = self.progress.line or {"step": step}
        if loss is None:
            if step:
                self.files.record(line)
            self._keep_unvalidated()
            return
        if not np.isfinite(loss):
            if step and self.saved.step == step:  # nothing to go on from
                checkpoint.drop(self.saved.path)
            raise DivergedError(f"step {step}: the validation loss is {loss:.4g}")
        best = self.progress.validated(step, loss, candidate=step > 0 or self.fine_tuned)
        if best and step:  # at step 0 they are there already
            self.files.keep_weights()
        line |= {"val_loss": loss, "val_bits_per_byte": (bits := self.dataset.bits_per_byte(loss))}
        exact = None
        if isinstance(self.dataset, PairDataset):
            exact = answered(self.state, self.dataset.validation, self.compute, lambda: self.stopping)
            line |= {} if exact is None else {"val_exact_answers": exact, "val_pairs": len(self.dataset.validation)}
        self.files.record(line)
        if self.saved.step == step:
            self.files.update(self.saved.path)
        yield Evaluated(step, loss, best, bits, exact)

    def _sample(self) -> Iterator[Sampled]:
        self.activity = "breaking off the sample"
        config = SampleConfig(max_tokens=SAMPLE_CHARACTERS, seed=self.config.seed)
        prompts, texts = self._prompts(), []
        with kept_weights(self.state) as model:
            for prompt in prompts or [self.tokenizer.opening]:
                pieces = [prompt] if prompts else []
                for piece in stream_generate(MLXModel(model, self.compute), self.tokenizer, prompt, config):
                    pieces.append(piece)
                    if self.stopping:
                        return
                texts.append("".join(pieces))
        yield Sampled(self.state.step, "\n".join(texts))

    def _prompts(self) -> list[str]:
        """Prompts to answer in a sample, of pairs that are held out; none where the model is to write freely."""
        pairs = self.corpus.pairs("held_out") if isinstance(self.corpus, PairCorpus) else iter(())
        return [pair.prompt for pair in itertools.islice(pairs, ANSWERS)]

    def _metrics(self, stepped: Stepped, rate: float) -> dict[str, Any]:
        return {
            "step": stepped.step,
            "loss": stepped.loss,
            "grad_norm": stepped.grad_norm,
            "lr": rate,
            "tokens": stepped.step * self.config.tokens_per_step,
            "seconds": round(self.progress.seconds, 4),
        }

    def _after_divergence(self) -> str:
        """What to try after a divergence, with the weights that are still good, if there are any."""
        if self.progress.best_loss is None:
            return f"{AGAINST_DIVERGENCE}, in a new run"
        start = shlex.quote(str(self.folder))
        best = f"the best weights, of step {self.progress.best_step}, with --init-from {start}"
        return f"{AGAINST_DIVERGENCE}: anew, or from {best}"
