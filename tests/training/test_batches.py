"""Which windows make up a step, and the keys of their dropout: pure functions of the settings and the step."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pair_files import numbered, opened, write
from tiny_runs import PLAIN, RICH

from mlx_tinylm.run_folder.settings import TrainConfig
from mlx_tinylm.text.pair_ids import encode_part_of_pairs
from mlx_tinylm.text.tokenizer import Tokenizer
from mlx_tinylm.training import batches
from mlx_tinylm.training.batches import batch_offsets, dropout_keys, step_batch

shapes = st.tuples(st.integers(2, 40), st.integers(1, 200), st.integers(1, 7)).map(
    lambda drawn: (drawn[0], drawn[0] + drawn[1], drawn[2])  # context, length, batch size
)


@settings(max_examples=100, deadline=None)
@given(shapes, st.integers(0, 2**31 - 1), st.integers(0, 10**6))
def test_batches_are_pure_and_in_range(shape: tuple[int, int, int], seed: int, step: int) -> None:
    """The batch of a step depends on its arguments alone, and every window lies in the text."""
    context, length, batch = shape
    offsets = batch_offsets(seed, step, length, batch, context)
    assert (offsets.dtype, offsets.shape) == (np.int64, (batch,))
    assert offsets.min() >= 0
    assert offsets.max() + context + 1 <= length
    for other in (0, 3, step + 1, 10**6):  # what was asked in between does not matter
        batch_offsets(seed + 1, other, length, batch, context)
    assert batch_offsets(seed, step, length, batch, context).tolist() == offsets.tolist()


@settings(max_examples=50, deadline=None)
@given(shapes, st.integers(0, 5))
def test_an_epoch_visits_neighbouring_windows_once(shape: tuple[int, int, int], epoch: int) -> None:
    """Each epoch cuts the text into neighbouring windows and visits each once: no target is read twice in it."""
    context, length, _ = shape
    windows = max(1, (length - 1) // context - 1)
    steps = range(epoch * windows, (epoch + 1) * windows)
    offsets = sorted(int(batch_offsets(5, step, length, 1, context)[0]) for step in steps)
    assert offsets == list(range(offsets[0], offsets[0] + windows * context, context))


@settings(max_examples=50, deadline=None)
@given(shapes, st.integers(2, 5))
def test_batch_size_only_cuts_the_same_sequence(shape: tuple[int, int, int], count: int) -> None:
    """Windows come in the same order whatever the batch size is, epochs' ends inside a batch included."""
    context, length, batch = shape
    one_by_one = [int(batch_offsets(9, i, length, 1, context)[0]) for i in range(count * batch)]
    batches = [batch_offsets(9, i, length, batch, context).tolist() for i in range(count)]
    assert [offset for batch in batches for offset in batch] == one_by_one


def test_every_character_is_seen_equally_often() -> None:
    """Over many epochs each target but those near the ends of the text is read in every single one."""
    context, length, epochs, windows = 4, 50, 300, 11
    seen = Counter[int]()
    for step in range(windows * epochs):
        start = int(batch_offsets(0, step, length, 1, context)[0])
        seen.update(range(start + 1, start + context + 1))
    edge = 2 * context
    assert {seen[target] for target in range(edge, length - edge)} == {epochs}
    assert min(seen[target] for target in range(1, length)) > 0


def test_epochs_and_seeds_differ() -> None:
    """Another epoch and another seed cut the text at another place and go through it in another order."""

    def epoch(seed: int, number: int) -> list[int]:
        return [int(batch_offsets(seed, number * 48 + i, 500, 1, 10)[0]) for i in range(48)]

    orders = [epoch(0, 0), epoch(0, 1), epoch(0, 2), epoch(1, 0), epoch(2, 0)]
    assert len({min(order) for order in orders}) > 2
    assert len({tuple(start - min(order) for start in order) for order in orders}) == 5
    assert all(order != sorted(order) for order in orders)


def test_too_few_ids_for_a_window() -> None:
    """A text that holds no window is the caller's mistake."""
    assert batch_offsets(0, 0, 9, 2, 8).tolist() == [0, 0]
    with pytest.raises(ValueError, match="8 ids are too few for a window of 9"):
        batch_offsets(0, 0, 8, 2, 8)


def split(config: TrainConfig, accumulated: int, batch: int) -> TrainConfig:
    return dataclasses.replace(config, grad_accumulation_steps=accumulated, batch_size=batch)


@pytest.mark.parametrize(("accumulated", "batch"), [(2, 2), (4, 1)])
def test_accumulation_only_cuts_the_same_windows_and_keys(accumulated: int, batch: int) -> None:
    """However the windows of a step are accumulated, they are the same windows under the same keys."""
    parts, whole = split(RICH, accumulated, batch), split(RICH, 1, 4)
    text = np.arange(500, dtype=np.uint16)
    cut, uncut = step_batch(parts, 5, text).windows, step_batch(whole, 5, text).windows
    assert cut.shape == (accumulated, batch, parts.context + 1)
    assert cut.reshape(uncut.shape).tolist() == uncut.tolist()
    ours, theirs = dropout_keys(parts, 5), dropout_keys(whole, 5)
    assert ours is not None
    assert theirs is not None
    assert (ours.dtype, ours.shape) == (np.uint32, (accumulated, batch, 3, 2))
    assert ours.reshape(4, 3, 2).tolist() == theirs[0].tolist()


def test_no_two_keys_are_alike() -> None:
    """Each window and place of dropout of each step and seed has a key of its own; without dropout there is none."""
    configs = [dataclasses.replace(RICH, seed=seed, layers=3) for seed in range(20)]
    keys = [keys for config in configs for step in range(20) if (keys := dropout_keys(config, step)) is not None]
    pairs = np.stack(keys).reshape(-1, 2)
    assert len(np.unique(pairs, axis=0)) == len(pairs) == 20 * 20 * 4 * 7
    assert dropout_keys(PLAIN, 0) is None


def test_keys_stay_what_they_are() -> None:
    """A run with dropout goes on as it began under any version of NumPy."""
    keys = dropout_keys(dataclasses.replace(RICH, seed=5), 3)
    assert keys is not None
    assert keys[1, 0, 2].tolist() == [2448643350, 4223543774]


def test_the_order_of_more_windows_than_are_drawn_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each comes once, in an order that the seed decides and that looks random; no list of them is made."""
    monkeypatch.setattr(batches, "SHUFFLED", 0)
    for count in (1, 2, 3, 255, 256, 257, 3000):
        order = batches.random_order(np.random.default_rng(5), count)
        places = [order(i) for i in range(count)]
        assert sorted(places) == list(range(count))
        assert places == [batches.random_order(np.random.default_rng(5), count)(i) for i in range(count)]
        if count == 3000:
            other = batches.random_order(np.random.default_rng(6), count)
            assert abs(np.corrcoef(places, range(count))[0, 1]) < 0.1
            assert abs(np.corrcoef(places[:-1], places[1:])[0, 1]) < 0.1
            assert abs(np.corrcoef(places, [other(i) for i in range(count)])[0, 1]) < 0.1


def test_a_text_of_many_gigabytes() -> None:
    """Windows lie anywhere in a text of 2**40 ids, beyond what 32 bits can count, and are found at once."""
    offsets = np.array([batch_offsets(0, step, 2**40, 16, 256) for step in range(50)])
    assert offsets.dtype == np.int64
    assert len(np.unique(offsets)) == offsets.size
    assert offsets.min() < 2**36
    assert 0.9 * 2**40 < offsets.max() <= 2**40 - 257


def test_batches_of_pairs(tmp_path: Path, own_cache: Path) -> None:
    """An epoch visits each pair once, in another order each time; what counts in a step counts the same, 1 in all."""
    corpus = opened(write(tmp_path / "a.jsonl", *numbered(12)))
    pairs = encode_part_of_pairs(corpus, Tokenizer.from_alphabet(corpus.alphabet, pads=True), "all")
    T = pairs.longest - 1
    config = dataclasses.replace(PLAIN, context=T, batch_size=3, grad_accumulation_steps=2)
    rows = pairs.windows(np.arange(12), T)[0].tolist()
    orders = []
    for epoch in range(3):
        batches = [step_batch(config, 2 * epoch + i, pairs) for i in range(2)]
        for batch in batches:
            assert batch.weights is not None
            assert (batch.windows.shape, batch.weights.shape) == ((2, 3, T + 1), (2, 3, T))
            assert batch.windows.dtype == np.int32
            assert batch.weights.sum() == pytest.approx(1)
            assert len(set(batch.weights[batch.weights > 0].tolist())) == 1
        orders.append([rows.index(row) for batch in batches for row in batch.windows.reshape(6, -1).tolist()])
        assert sorted(orders[-1]) == list(range(12))
        again = step_batch(config, 2 * epoch, pairs)
        assert (again.windows == batches[0].windows).all()
    assert len({tuple(order) for order in orders}) == 3


def test_prompts_weigh_nothing_unless_told(tmp_path: Path, own_cache: Path) -> None:
    """What counts of a pair is its completion and its end, or, unmasked, all but its first id."""
    corpus = opened(write(tmp_path / "a.jsonl", *numbered(2)))
    pairs = encode_part_of_pairs(corpus, Tokenizer.from_alphabet(corpus.alphabet, pads=True), "all")
    for masked, counted in ((True, 2), (False, 10)):
        config = dataclasses.replace(PLAIN, context=20, batch_size=2, mask_prompt=masked)
        weights = step_batch(config, 0, pairs).weights
        assert weights is not None
        assert np.count_nonzero(weights) == 2 * counted
        assert not weights[..., 10:].any()
