"""How many steps fit into a time on this machine: a few are made on trial, and thrown away.

Steps are timed, a batch of a validation, some characters of a sample and a checkpoint; the rest is arithmetic.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from mlx_tinylm.backend.devices import Compute
from mlx_tinylm.backend.mlx_model import MLXModel
from mlx_tinylm.checks import check
from mlx_tinylm.generation import stream_generate
from mlx_tinylm.mean_loss import evaluate
from mlx_tinylm.model_folder.config import ModelConfig
from mlx_tinylm.model_folder.tensor_files import Tensors
from mlx_tinylm.run_folder import history
from mlx_tinylm.run_folder.history import spaced
from mlx_tinylm.run_folder.settings import TrainConfig
from mlx_tinylm.text.ids import Dataset
from mlx_tinylm.text.pair_ids import PairDataset
from mlx_tinylm.text.tokenizer import Tokenizer
from mlx_tinylm.training import checkpoint
from mlx_tinylm.training.loop import StoppedError, baselines, run_steps
from mlx_tinylm.training.progress import SAMPLE_CHARACTERS, due_at, next_due
from mlx_tinylm.training.state import TrainState, kept_tensors, new_state
from mlx_tinylm.training.step import make_step

WARM_UP = 2  # things left out of each measurement
LEAST, MOST = 4, 30  # steps timed; of batches the first
LARGEST = 10**9  # steps
SHARE = 0.05  # of the whole time, for the trial of steps


@dataclasses.dataclass(frozen=True)
class Pace:
    """Seconds that each part of a run takes; `once` is what comes a single time, whatever the number of steps."""

    step: float
    once: float
    validation: float
    sample: float
    save: float
    snapshot: float

    def seconds(self, config: TrainConfig) -> float:
        """What a whole run takes."""
        total, step = self.once + self.validation + config.steps * self.step, 0
        total += len(spaced(config.history, config.steps)) * self.snapshot if config.history else 0.0
        while step < config.steps:
            step = next_due(config, step)
            due = due_at(config, step)
            total += due.evaluate * self.validation + due.sample * self.sample + due.save * self.save
        return total


def paced(
    config: TrainConfig,
    minutes: float,
    began: float,
    dataset: Dataset | PairDataset,
    tokenizer: Tokenizer,
    compute: Compute,
    model_config: ModelConfig,
    weights: Tensors | None,
) -> TrainConfig:
    """The settings with as many steps as fit into `minutes` from `began` (time.perf_counter) on, the trial included.

    Raises TinyLMError where not a single one does.
    """
    config = dataclasses.replace(config, steps=LARGEST)
    state = new_state(config, model_config, compute, weights)
    first, step = _steps(state, config, dataset, compute, 60 * minutes * SHARE)
    model = MLXModel(state.model, compute)
    once = max(0.0, first - step)
    if isinstance(dataset, Dataset):
        texts = dataset
        once += _seconds(lambda: baselines(texts, model_config.vocab_size))
    pace = Pace(step, once, _validation(model, config, dataset), _sample(model, tokenizer), *_writing(state))
    left = 60 * minutes - (time.perf_counter() - began)
    least = pace.seconds(dataclasses.replace(config, steps=1))
    check(
        least <= left,
        f"{minutes:g} minutes are too short: with what came before it, one step and its validations take "
        f"{(60 * minutes - left + least) / 60:.2g} minutes here; give more, or choose a smaller model",
    )
    low, high = 1, min(int(left / step) + 2, LARGEST)  # low fits, high does not
    while high - low > 1:
        middle = (low + high) // 2
        if pace.seconds(dataclasses.replace(config, steps=middle)) <= left:
            low = middle
        else:
            high = middle
    return dataclasses.replace(config, steps=low)


def _steps(
    state: TrainState, config: TrainConfig, dataset: Dataset | PairDataset, compute: Compute, seconds: float
) -> tuple[float, float]:
    """The time of the first step, and the median of some later ones."""
    step = make_step(state, config, compute)
    steps = run_steps(step, state, config, dataset.train, WARM_UP + MOST, lambda: False)
    times = _times(iter(steps), seconds)
    return times[0], statistics.median(times[WARM_UP:])


def _times(events: Iterator[object], seconds: float) -> list[float]:
    began = before = time.perf_counter()
    times: list[float] = []
    for _ in events:
        now = time.perf_counter()
        times.append(now - before)
        before = now
        if len(times) >= WARM_UP + LEAST and now - began > seconds:
            break
    return times


def _validation(model: MLXModel, config: TrainConfig, dataset: Dataset | PairDataset) -> float:
    """How long a whole validation takes, from some of its first batches; the last one takes as long, however full."""
    marks: list[tuple[float, int]] = [(time.perf_counter(), 0)]
    targets = 0

    def watch(done: int, total: int) -> None:
        nonlocal targets
        marks.append((time.perf_counter(), done))
        targets = total
        if len(marks) > WARM_UP + LEAST:
            raise StoppedError

    with contextlib.suppress(StoppedError):
        evaluate(model, dataset.validation, config.context, watch=watch)
    batches = math.ceil(targets / marks[1][1])
    times = [after - before for (before, _), (after, _) in itertools.pairwise(marks)]
    return statistics.median(times[WARM_UP:] or times) * batches


def _sample(model: MLXModel, tokenizer: Tokenizer) -> float:
    """How long a sample takes, from some of its characters."""
    pieces = stream_generate(model, tokenizer, tokenizer.opening, max_tokens=SAMPLE_CHARACTERS, seed=0)
    times = _times(pieces, 0.5)
    return statistics.median(times) * SAMPLE_CHARACTERS if times else 0.0


def _writing(state: TrainState) -> tuple[float, float]:
    """How long a checkpoint and a snapshot take, if the disk is like that of temporary files."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save = _seconds(lambda: checkpoint.save(folder, state, {}))
        return save, _seconds(lambda: history.keep(folder, state.step, kept_tensors(state)))


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
