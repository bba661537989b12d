"""What a loss means: the cross-entropy of n-gram models on the same split.

Shapes: N ids of the training text, M ids of the held-out text.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from mlx_tinylm.text.ids import Ids
from mlx_tinylm.watch import Watch, unwatched

COUNTED = 2_000_000  # ids at the end of the training text: more take memory and change little


def ngram_losses(
    train: Ids,
    held_out: Ids,
    vocab_size: int,
    longest: int = 5,
    watch: Watch = unwatched,
) -> list[float]:
    """Nats an id of the 1-gram to the `longest`-gram model of `train` (N,) on `held_out` (M,).

    Of a long training text the last COUNTED ids are counted, and no n-gram that does not fit into 63 bits.

    Each backs off to the next shorter one by Witten and Bell's rule (1991, method C): the more different ids have
    followed a history, the more weight the shorter history gets. Every id of `held_out` but the first is predicted.
    `watch` is called before each of them, and at the end, with how many are done and how many there are.
    """
    train, targets = train[-COUNTED:], len(held_out) - 1
    longest = min(longest, int(63 / math.log2(max(vocab_size, 2))))
    chance: npt.NDArray[np.float64] = np.full(targets, 1 / vocab_size)
    losses: list[float] = []
    for n in range(1, longest + 1):
        watch(n - 1, longest)
        whole = targets - max(n - 2, 0)  # the first targets have no whole history: they keep the shorter model's chance
        if whole < 1 or len(train) < n:  # so short a text has no history of this length
            losses.append(losses[-1])
            continue
        grams, gram_counts = np.unique(gram_keys(train, n, vocab_size), return_counts=True)
        histories, first = np.unique(grams // vocab_size, return_index=True)  # grams are sorted by history
        seen_after = np.add.reduceat(gram_counts, first)
        kinds_after = np.diff(np.append(first, len(grams)))
        wanted = gram_keys(held_out, n, vocab_size)[-whole:]
        count = _look_up(grams, gram_counts, wanted)
        total = _look_up(histories, seen_after, wanted // vocab_size)
        kinds = _look_up(histories, kinds_after, wanted // vocab_size)
        known = total > 0
        part = chance[-len(wanted) :]
        part[known] = (count[known] + kinds[known] * part[known]) / (total[known] + kinds[known])
        losses.append(float(-np.log(chance).mean()))
    watch(longest, longest)
    return losses


def gram_keys(ids: Ids, n: int, vocab_size: int) -> npt.NDArray[np.int64]:
    """(N,) -> (N - n + 1,), each run of n ids as one number."""
    keys = np.zeros(len(ids) - n + 1, np.int64)
    for i in range(n):
        keys = keys * vocab_size + ids[i : len(ids) - n + 1 + i]
    return keys


def _look_up(known: npt.NDArray[np.int64], values: npt.NDArray[Any], wanted: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
    """The value of each wanted key, 0 where it is not known; `known` is sorted."""
    places = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
    return np.where(known[places] == wanted, values[places], 0)
