"""The loop around the training step, and validation: events out, nothing printed, nothing written.

Shapes: N ids of the corpus.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator

import mlx.core as mx
import numpy as np

from mlx_tinylm.answers import exact_answers
from mlx_tinylm.backend.devices import Compute
from mlx_tinylm.backend.mlx_model import MLXModel
from mlx_tinylm.mean_loss import evaluate
from mlx_tinylm.run_folder.events import Stepped
from mlx_tinylm.run_folder.settings import TrainConfig
from mlx_tinylm.text.ids import Dataset, Ids
from mlx_tinylm.text.ngrams import COUNTED, ngram_losses
from mlx_tinylm.text.pair_ids import Pairs
from mlx_tinylm.training.batches import dropout_keys, step_batch
from mlx_tinylm.training.state import DivergedError, TrainState, device_failures, kept_weights
from mlx_tinylm.training.step import Step
from mlx_tinylm.watch import Watch

PREDICTED = 500_000  # ids for n-gram models at most: more take time and change little


class StoppedError(Exception):
    """A validation was asked to end between two batches."""


def run_steps(
    step: Step, state: TrainState, config: TrainConfig, text: Ids | Pairs, until: int, stopping: Callable[[], bool]
) -> Iterator[Stepped]:
    """Train up to step `until` on the ids of a text (N,), or pairs; a step is dispatched before the last loss is read.

    Raises DivergedError as soon as a loss or a gradient is no finite number, DeviceFailedError where a GPU gives up.
    """
    previous: tuple[int, mx.array, mx.array] | None = None
    with device_failures():
        while state.step < until and not stopping():
            batch = step_batch(config, state.step, text)
            inputs = (batch.windows, batch.weights, dropout_keys(config, state.step))
            loss, norm = step(*(None if given is None else mx.array(given) for given in inputs))
            average = state.average.state if state.average else {}
            mx.async_eval(loss, norm, state.model.parameters(), state.optimizer.state, average)
            state.step += 1
            if previous:
                yield finished(*previous)
            previous = (state.step, loss, norm)
        if previous:
            yield finished(*previous)


def finished(step: int, loss: mx.array, norm: mx.array) -> Stepped:
    """Wait for a step; raises DivergedError if it went wrong."""
    result = Stepped(step, float(loss), float(norm))
    if not np.isfinite([result.loss, result.grad_norm]).all():
        raise DivergedError(
            f"step {step}: the loss is {result.loss:.4g}, the norm of its gradient {result.grad_norm:.4g}"
        )
    return result


def validate(
    state: TrainState,
    config: TrainConfig,
    ids: Ids | Pairs,
    compute: Compute,
    stopping: Callable[[], bool] = lambda: False,
) -> float | None:
    """The mean loss of the kept weights over all of `ids` (N,) or pairs, in nats; None where it is to stop before."""
    with kept_weights(state) as model, contextlib.suppress(StoppedError):
        return evaluate(MLXModel(model, compute), ids, config.context, watch=_until(stopping)).loss
    return None


def answered(state: TrainState, pairs: Pairs, compute: Compute, stopping: Callable[[], bool]) -> int | None:
    """How many of the pairs the kept weights answer exactly; None where it is to stop before."""
    with kept_weights(state) as model, contextlib.suppress(StoppedError):
        return exact_answers(MLXModel(model, compute), pairs, _until(stopping))
    return None


def _until(stopping: Callable[[], bool]) -> Watch:
    def watch(done: int, total: int) -> None:
        if done < total and stopping():
            raise StoppedError

    return watch


def baselines(dataset: Dataset, vocab_size: int) -> tuple[float, tuple[float, ...], int]:
    """What a validation loss may be compared with, in nats an id: that of guessing, those of n-gram models of the
    training text, which predict the start of the held-out one, and how many ids these have counted.
    """
    ngrams = tuple(ngram_losses(dataset.train, dataset.validation[:PREDICTED], vocab_size))
    return math.log(vocab_size), ngrams, min(len(dataset.train), COUNTED)
