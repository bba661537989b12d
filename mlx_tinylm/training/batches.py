"""The windows that make up the batch of a step, and the keys of their dropout: functions of the seed and the step.

Shapes: A accumulated batches, B batch, T context, P places of dropout.
"""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt

from mlx_tinylm.model_folder.config import dropout_places
from mlx_tinylm.run_folder.settings import TrainConfig


def batch_offsets(seed: int, step: int, length: int, batch_size: int, context: int) -> npt.NDArray[np.int32]:
    """Where the windows of a step's batch begin: (B,) int32, a pure function of its arguments.

    An epoch cuts the text of `length` ids into neighbouring windows at a fresh random offset and visits
    each once in a fresh random order, so every character is seen equally often. `step` counts batches.
    """
    windows, slack = _windows(length, context)
    first = step * batch_size
    offsets = np.empty(batch_size, np.int32)
    for i in range(batch_size):
        epoch, place = divmod(first + i, windows)
        shift, order = _epoch(seed, epoch, windows, slack)
        offsets[i] = shift + order[place] * context
    return offsets


def _windows(length: int, context: int) -> tuple[int, int]:
    """How many windows of context + 1 ids an epoch visits, and the largest offset that leaves room for them."""
    if length < context + 1:
        raise ValueError(f"{length} ids are too few for a window of {context + 1}")
    windows = max(1, (length - 1) // context - 1)
    return windows, length - 1 - windows * context


@functools.lru_cache(maxsize=2)
def _epoch(seed: int, epoch: int, windows: int, slack: int) -> tuple[int, npt.NDArray[np.int64]]:
    random = np.random.default_rng([seed, epoch])
    return int(random.integers(slack + 1)), random.permutation(windows)


def step_offsets(config: TrainConfig, step: int, length: int) -> npt.NDArray[np.int32]:
    """Where the windows of step number `step` begin: (A, B)."""
    windows = config.grad_accumulation_steps * config.batch_size
    offsets = batch_offsets(config.seed, step, length, windows, config.context)
    return offsets.reshape(config.grad_accumulation_steps, config.batch_size)


def dropout_keys(config: TrainConfig, step: int) -> npt.NDArray[np.uint32] | None:
    """A key for MLX's generator for each window and place of dropout: (A, B, P, 2), None in a run without dropout.

    It depends on the seed, the step, the place, and which of the step's A x B windows it is, and on nothing else: how
    they are accumulated, or spread over streams or machines, does not change a run.
    """
    if not config.dropout:
        return None
    A, B, P = config.grad_accumulation_steps, config.batch_size, dropout_places(config.layers)
    # NumPy promises that these words stay the same in later versions, and that more of them begin with the same.
    words = np.random.SeedSequence([config.seed, step]).generate_state(A * B * P * 2)
    return words.astype(np.uint32, copy=False).reshape(A, B, P, 2)
