"""The mean loss of a text, every target counted once.

Shapes: N ids, B batch, T time.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from mlx_tinylm.backend.choose import LanguageModel
from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.text.ids import Ids
from mlx_tinylm.text.pair_ids import Pairs
from mlx_tinylm.watch import Watch, unwatched

# (B, T) twice, inputs and targets, and which of these count, (B, T)
Windows: TypeAlias = tuple[npt.NDArray[np.int32], npt.NDArray[np.int32], npt.NDArray[np.bool_]]
BATCH = 16  # windows
LOGITS_AT_ONCE = 1 << 24  # numbers; bounds the memory where the vocabulary is large
LONGEST_WINDOW = 4096  # ids; attention needs memory for the square, and a config.json may claim any context


@dataclass(frozen=True)
class Evaluation:
    """The mean cross-entropy of `targets` predictions, in nats an id; they stand for so much text."""

    loss: float
    targets: int
    characters: int
    bytes: int

    @property
    def perplexity(self) -> float:
        return math.exp(min(self.loss, 700.0))

    @property
    def bits_per_char(self) -> float:
        return self.loss * self.targets / self.characters / math.log(2)

    @property
    def bits_per_byte(self) -> float:
        """The measure that tokenizers of every kind share."""
        return self.loss * self.targets / self.bytes / math.log(2)


def evaluate(
    model: LanguageModel,
    ids: Ids | Pairs,
    context: int | None = None,
    characters: int | None = None,
    bytes: int | None = None,
    watch: Watch = unwatched,
) -> Evaluation:
    """The mean loss of `ids` (N,), read in non-overlapping windows; the last one may be shorter.

    A window is as long as the model's context, unless told; a target stands for one character and byte, unless told.
    Of pairs, each is a window, and the targets are those of completions and of their ends.
    `watch` is called after each batch with the targets done and those there are in all; it may raise to stop.
    A loss that is not finite is returned as it is. Raises TinyLMError where there is nothing to predict.
    """
    if isinstance(ids, Pairs):
        targets, B = ids.targets, windows_at_once(model, ids.longest - 1)
        total = summed_loss(model, pair_windows(ids, B), targets, watch)
        return Evaluation(total / targets, targets, max(1, ids.characters), max(1, ids.bytes))
    targets = len(ids) - 1
    total = summed_loss(model, text_windows(model, ids, context), targets, watch)
    return Evaluation(total / targets, targets, characters or targets, bytes or targets)


def windows_at_once(model: LanguageModel, T: int) -> int:
    """How many windows of T ids make a batch, B."""
    return max(1, min(BATCH, LOGITS_AT_ONCE // (T * model.config.vocab_size)))


def summed_loss(model: LanguageModel, batches: Iterable[Windows], targets: int, watch: Watch) -> float:
    """The sum of the losses of all targets that count, in nats; there are `targets` of these in all `batches`.

    The batches have one shape, so that a model is compiled once; what pads them does not count.
    """
    total, done = 0.0, 0
    for inputs, wanted, counts in batches:
        values = model.losses(inputs, wanted)[counts]
        total += float(values.sum(dtype=np.float64))
        done += values.size
        watch(done, targets)
    return total


def pair_windows(pairs: Pairs, B: int) -> Iterator[Windows]:
    """All pairs in their order, B at a time; the last one stands in, not counted, for what the last batch lacks."""
    for first in range(0, len(pairs), B):
        places = np.arange(first, first + B)
        windows, counts = pairs.windows(places.clip(max=len(pairs) - 1), pairs.longest - 1)
        yield windows[:, :-1], windows[:, 1:], counts & (places < len(pairs))[:, None]


def text_windows(model: LanguageModel, ids: Ids, context: int | None = None) -> Iterator[Windows]:
    """The neighbouring windows of a text (N,), read from wherever it lies as they are asked for.

    Raises TinyLMError where there is nothing to predict.
    """
    if len(ids) < 2:
        raise TinyLMError("the text is too short to evaluate: a model predicts from the second character on")
    T = min(context or min(model.config.context, LONGEST_WINDOW), len(ids) - 1)
    B = windows_at_once(model, T)
    places = np.arange(B * T).reshape(B, T)
    for first in range(0, len(ids) - 1, B * T):
        piece = np.zeros(B * T + 1, np.int32)
        found = ids[first : first + B * T + 1]
        piece[: len(found)] = found
        yield piece[places], piece[places + 1], places < len(found) - 1
