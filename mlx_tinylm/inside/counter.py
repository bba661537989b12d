"""What counting says: the whole distribution of an n-gram model, to lay beside a model's.

The same model as in `text.ngrams`, which only asks it for the ids that really come.

Shapes: N ids of the training text, T time, V vocabulary.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mlx_tinylm.text.ids import Ids
from mlx_tinylm.text.ngrams import COUNTED, gram_keys

LONGEST = 3
REMEMBERED = 1 << 22  # probabilities
TABLE = 1 << 22  # so many different grams are counted in a table, more by sorting


@dataclass(frozen=True)
class Counter:
    """How often each gram of 1, 2 ... ids stands in a text."""

    vocab_size: int
    grams: tuple[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]], ...]  # keys in order, and their counts

    @classmethod
    def of(cls, train: Ids, vocab_size: int, longest: int = LONGEST) -> Counter:
        """Count the last ids of a training text (N,), as many as `ngram_losses` does."""
        train = train[-COUNTED:]
        lengths = range(1, min(longest, len(train)) + 1)
        return cls(vocab_size, tuple(_counted(gram_keys(train, n, vocab_size), vocab_size**n) for n in lengths))

    def probabilities(self, ids: Sequence[int] | npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """(T,) -> (T, V): at each position, what comes next; by Witten and Bell's rule (1991, method C)."""
        given = [int(id) for id in ids]
        return np.stack(
            [self._remembered(tuple(given[max(0, t + 2 - len(self.grams)) : t + 1])) for t in range(len(ids))]
        )

    @functools.cached_property
    def _remembered(self) -> Callable[[tuple[int, ...]], npt.NDArray[np.float32]]:
        """`after`, which a text that grows by a character asks nearly the same as before; in 16 MB."""
        return functools.lru_cache(max(16, REMEMBERED // self.vocab_size))(self.after)

    def after(self, history: Sequence[int] | npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """What comes after some ids, of which the last few count: (V,)."""
        V = self.vocab_size
        chance = np.full(V, 1 / V)
        for n, (keys, counts) in enumerate(self.grams):  # n ids of history
            if n > len(history):
                break
            start = 0
            for id in history[len(history) - n :]:
                start = start * V + int(id)
            first, end = np.searchsorted(keys, (start * V, start * V + V))
            if kinds := end - first:
                seen = counts[first:end]
                chance *= kinds
                chance[keys[first:end] - start * V] += seen
                chance /= seen.sum() + kinds
        return chance.astype(np.float32)


def _counted(keys: npt.NDArray[np.int64], different: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    if different > TABLE:
        found, counts = np.unique(keys, return_counts=True)
        return found, counts
    table = np.bincount(keys, minlength=different)
    found = np.flatnonzero(table)
    return found, table[found]
