"""The counter's distributions against the losses that `text.ngrams` measures."""

from __future__ import annotations

import numpy as np
import pytest

from mlx_tinylm.inside import counter
from mlx_tinylm.inside.counter import Counter
from mlx_tinylm.text.ngrams import ngram_losses


@pytest.mark.parametrize(("trained", "held"), [(60, 25), (61, 4), (2, 9), (1, 9), (400, 200)])
@pytest.mark.parametrize("longest", [1, 2, 3, 4])
@pytest.mark.parametrize("table", [0, 1 << 22])
def test_the_losses_are_those_of_the_baselines(
    trained: int, held: int, longest: int, table: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The chances that the counter gives what really comes are those of the n-gram baselines, counted either way."""
    monkeypatch.setattr(counter, "TABLE", table)
    random = np.random.default_rng(trained + held)
    train, held_out = random.integers(0, 5, trained), random.integers(0, 6, held)
    chances = Counter.of(train, 6, longest).probabilities(held_out)
    np.testing.assert_allclose(chances.sum(-1), 1, rtol=1e-6)
    loss = -np.log(chances[np.arange(held - 1), held_out[1:]].astype(np.float64)).mean()
    assert loss == pytest.approx(ngram_losses(train, held_out, 6, longest)[-1], rel=1e-6)


def test_by_hand() -> None:
    """After "b" in "abac", which nothing follows but a: Witten and Bell's rule with a calculator."""
    found = Counter.of(np.array([0, 1, 0, 2]), 3).after([1])
    once = (np.array([2, 1, 1]) + 3 / 3) / (4 + 3)  # counts, and a third for each of 3 kinds
    np.testing.assert_allclose(found, (np.array([1, 0, 0]) + 1 * once) / (1 + 1), rtol=1e-6)


def test_nothing_known() -> None:
    """Without a history the single ids count; what was never seen leaves the shorter history as it is."""
    counted = Counter.of(np.array([0, 1, 0, 2]), 4)
    np.testing.assert_array_equal(counted.after([3]), counted.after([]))
    np.testing.assert_array_equal(counted.after([3, 1]), counted.after([1]))
    assert counted.after([]).argmax() == 0


def test_a_long_text_is_counted_by_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """No more of a training text is counted than for the losses of n-gram models, whatever its size."""
    train = np.random.default_rng(0).integers(5, size=300)
    last = Counter.of(train[-100:], 5)
    monkeypatch.setattr(counter, "COUNTED", 100)
    found = Counter.of(train, 5)
    assert np.array_equal(found.probabilities([0, 1, 2]), last.probabilities([0, 1, 2]))
