"""The training step and the loop around it: events out, nothing printed, nothing written.

Shapes: A accumulated batches, B batch, T context, N ids of the corpus.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import numpy.typing as npt

from mlx_tinylm.backend.lanes import lanes, shares
from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.evaluation import Evaluation, evaluate
from mlx_tinylm.run_folder.events import Stepped
from mlx_tinylm.run_folder.settings import TrainConfig
from mlx_tinylm.text.ids import Ids
from mlx_tinylm.training.batches import dropout_seed, step_offsets
from mlx_tinylm.training.state import DIVERGED, TrainState, kept_weights
from mlx_tinylm.training.step import Step


def run_steps(
    step: Step, state: TrainState, config: TrainConfig, length: int, until: int, stopping: Callable[[], bool]
) -> Iterator[Stepped]:
    """Train up to step `until` on `length` ids; a step is on its way before the loss of the last one is read.

    Raises TinyLMError as soon as a loss or a gradient is no finite number.
    """
    previous: tuple[int, mx.array, mx.array] | None = None
    state.model.train()
    while state.step < until and not stopping():
        mx.random.seed(dropout_seed(config.seed, state.step))
        loss, norm = step(mx.array(step_offsets(config, state.step, length)))
        mx.async_eval(loss, norm, state.model.parameters(), state.optimizer.state, state.average)
        state.step += 1
        if previous:
            yield finished(*previous)
        previous = (state.step, loss, norm)
    if previous:
        yield finished(*previous)


def finished(step: int, loss: mx.array, norm: mx.array) -> Stepped:
    """Wait for a step; raises TinyLMError if it went wrong."""
    result = Stepped(step, loss.item(), norm.item())
    if not np.isfinite([result.loss, result.grad_norm]).all():
        raise TinyLMError(
            f"step {step}: the loss is {result.loss:.4g}, the norm of its gradient {result.grad_norm:.4g}. {DIVERGED}"
        )
    return result


def validate(state: TrainState, config: TrainConfig, ids: Ids) -> Evaluation:
    """The loss of the kept weights over all of `ids` (N,)."""
    with kept_weights(state) as model:

        def losses(inputs: npt.NDArray[np.int32], targets: npt.NDArray[np.int32]) -> npt.NDArray[np.float32]:
            pairs = [mx.array(inputs), mx.array(targets)]
            streams = lanes(len(inputs))
            rows = []
            for stream, part in zip(streams, shares(len(inputs), len(streams)), strict=True):
                with mx.stream(stream):
                    rows.append(nn.losses.cross_entropy(model(pairs[0][part]), pairs[1][part]))
            return np.array(mx.concatenate(rows))

        return evaluate(losses, ids, min(config.context, len(ids) - 1))
