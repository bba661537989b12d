"""The windows that make up the batch of a step, and the seed of its dropout.

Shapes: A accumulated batches, B batch, T context.
"""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt

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


def dropout_seed(seed: int, step: int, share: int = 0) -> int:
    """What MLX's generator is set to before a share of the batch of step number `step`."""
    return int(np.random.SeedSequence([seed, step, share]).generate_state(1)[0])
