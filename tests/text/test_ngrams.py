"""n-gram losses against a slow reference."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest

from mlx_tinylm.text import ngrams
from mlx_tinylm.text.ngrams import ngram_losses


def slow_losses(train: list[int], held_out: list[int], vocab_size: int, longest: int) -> list[float]:
    def chance(history: tuple[int, ...], id: int, n: int) -> float:
        if n == 0:
            return 1 / vocab_size
        recent = history[len(history) - n + 1 :]
        shorter = chance(history, id, n - 1)
        if len(history) < n - 1:
            return shorter
        grams = Counter(tuple(train[i : i + n]) for i in range(len(train) - n + 1))
        after = {gram[-1]: count for gram, count in grams.items() if gram[:-1] == recent}
        if not after:
            return shorter
        return (after.get(id, 0) + len(after) * shorter) / (sum(after.values()) + len(after))

    return [
        -sum(math.log(chance(tuple(held_out[:i]), held_out[i], n)) for i in range(1, len(held_out)))
        / (len(held_out) - 1)
        for n in range(1, longest + 1)
    ]


@pytest.mark.parametrize(
    ("trained", "held"), [(60, 25), (61, 24), (62, 26), (60, 2), (60, 3), (60, 4), (60, 5), (3, 9)]
)
def test_the_losses_are_those_of_the_definition(trained: int, held: int) -> None:
    """The vectorised losses equal a direct, slow reading of Witten and Bell's rule, however short the texts are."""
    random = np.random.default_rng(trained + held)
    train, held_out = random.integers(0, 5, trained), random.integers(0, 6, held)
    fast = ngram_losses(train, held_out, 6)
    assert fast == pytest.approx(slow_losses(train.tolist(), held_out.tolist(), 6, 5), rel=1e-12)


def test_longer_histories_help_on_english(english: str) -> None:
    """On real English text each longer history lowers the loss, and none is below what English allows."""
    ids = np.unique(list(english[:200_000]), return_inverse=True)[1]
    losses = ngram_losses(ids[:180_000], ids[180_000:], int(ids.max()) + 1)
    assert losses == sorted(losses, reverse=True)
    assert 1.0 < losses[-1] < losses[0] < math.log(ids.max() + 1)


def test_a_large_vocabulary(monkeypatch: pytest.MonkeyPatch) -> None:
    """N-grams too long for a number of 64 bits are left out, not counted wrongly, and no more text is than told."""
    random = np.random.default_rng(0)
    train, held_out = random.integers(70_000, size=300) // 1000 * 1000, random.integers(70_000, size=40) // 1000 * 1000
    found = ngram_losses(train, held_out, 70_000)
    assert found == pytest.approx(slow_losses(train.tolist(), held_out.tolist(), 70_000, 3), rel=1e-12)
    monkeypatch.setattr(ngrams, "COUNTED", 100)
    assert ngram_losses(train, held_out, 70_000) == ngram_losses(train[-100:], held_out, 70_000) != found
