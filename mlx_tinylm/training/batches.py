"""The windows that make up the batch of a step, and the keys of their dropout: functions of the seed and the step.

Shapes: A accumulated batches, B batch, T context, P places of dropout, N ids of the training text.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mlx_tinylm.model_folder.config import dropout_places
from mlx_tinylm.run_folder.settings import TrainConfig
from mlx_tinylm.text.ids import Ids
from mlx_tinylm.text.pair_ids import Pairs

SHUFFLED = 1 << 20  # windows at most whose order is drawn at once, which takes 8 bytes of memory each
ROUNDS = 6  # of the network that orders more; four make it pseudo-random (Luby and Rackoff 1988)


@dataclass(frozen=True)
class Batch:
    """What one step reads."""

    windows: npt.NDArray[np.int32]  # (A, B, T + 1)
    # (A, B, T): what each target counts in the loss, 1 in all; None where all count the same.
    weights: npt.NDArray[np.float32] | None = None


def step_batch(config: TrainConfig, step: int, text: Ids | Pairs) -> Batch:
    """The windows of step number `step`, read from the ids of the training text (N,), wherever they lie."""
    if isinstance(text, Pairs):
        return _pair_batch(config, step, text)
    A, T = config.grad_accumulation_steps, config.context
    offsets = batch_offsets(config.seed, step, len(text), A * config.batch_size, T)
    windows = np.stack([text[offset : offset + T + 1] for offset in offsets]).astype(np.int32)
    return Batch(windows.reshape(A, config.batch_size, T + 1))


def _pair_batch(config: TrainConfig, step: int, pairs: Pairs) -> Batch:
    """Pairs in windows of one each: an epoch visits every pair once, in a fresh random order.

    The targets of the whole step that count, those of completions if prompts are masked, count the same.
    """
    A, B, T = config.grad_accumulation_steps, config.batch_size, config.context
    places = np.empty(A * B, np.int64)
    for i in range(A * B):
        epoch, place = divmod(step * A * B + i, len(pairs))
        places[i] = _order(config.seed, epoch, len(pairs))(place)
    windows, counts = pairs.windows(places, T, prompts=not config.mask_prompt)
    weights = counts.astype(np.float32) / np.float32(counts.sum())
    return Batch(windows.reshape(A, B, T + 1), weights.reshape(A, B, T))


def batch_offsets(seed: int, step: int, length: int, batch_size: int, context: int) -> npt.NDArray[np.int64]:
    """Where the windows of a step's batch begin: (B,) int64, a pure function of its arguments.

    An epoch cuts the text of `length` ids into neighbouring windows at a fresh random offset and visits
    each once in a fresh random order, so every character is seen equally often. `step` counts batches.
    """
    windows, slack = _windows(length, context)
    first = step * batch_size
    offsets = np.empty(batch_size, np.int64)
    for i in range(batch_size):
        epoch, place = divmod(first + i, windows)
        shift, order = _epoch(seed, epoch, windows, slack)
        offsets[i] = shift + order(place) * context
    return offsets


def _windows(length: int, context: int) -> tuple[int, int]:
    """How many windows of context + 1 ids an epoch visits, and the largest offset that leaves room for them."""
    if length < context + 1:
        raise ValueError(f"{length} ids are too few for a window of {context + 1}")
    windows = max(1, (length - 1) // context - 1)
    return windows, length - 1 - windows * context


@functools.lru_cache(maxsize=2)
def _epoch(seed: int, epoch: int, windows: int, slack: int) -> tuple[int, Callable[[int], int]]:
    random = np.random.default_rng([seed, epoch])
    shift = int(random.integers(slack + 1))
    return shift, random_order(random, windows)


@functools.lru_cache(maxsize=2)
def _order(seed: int, epoch: int, count: int) -> Callable[[int], int]:
    return random_order(np.random.default_rng([seed, epoch]), count)


def random_order(random: np.random.Generator, count: int) -> Callable[[int], int]:
    """A random permutation of 0 .. count - 1, as a function; however many they are, it takes little memory."""
    if count <= SHUFFLED:
        drawn = random.permutation(count)
        return lambda place: int(drawn[place])
    half = (count.bit_length() + 1) // 2  # bits
    keys = [int(key) for key in random.integers(1 << 32, size=ROUNDS)]

    def order(place: int) -> int:
        # A Feistel network permutes the numbers of 2 x `half` bits, fewer than 4 x count. One that comes out too
        # large goes in again, until it comes back into range (cycle walking: Black and Rogaway 2002, section 3).
        while True:
            left, right = divmod(place, 1 << half)
            for key in keys:
                left, right = right, left ^ (_mixed(right ^ key) & ((1 << half) - 1))
            place = left << half | right
            if place < count:
                return place

    return order


def _mixed(number: int) -> int:
    """64 bits in which every bit of `number` has a say: the finaliser of splitmix64 (Steele et al. 2014)."""
    number = (number ^ number >> 30) * 0xBF58476D1CE4E5B9 & (1 << 64) - 1
    number = (number ^ number >> 27) * 0x94D049BB133111EB & (1 << 64) - 1
    return number ^ number >> 31


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
