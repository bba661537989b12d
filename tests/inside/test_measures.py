"""Measures on constructed input, where the answer is known by hand."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from conftest import random_folder
from tiny_models import QWEN3

from mlx_tinylm.backend.choose import load
from mlx_tinylm.inside import measures
from mlx_tinylm.inside.measures import KINDS, head_scores, lens, named_heads, places, surprise
from mlx_tinylm.inside.trace import trace
from mlx_tinylm.mean_loss import evaluate
from mlx_tinylm.sampling import probabilities

TEXT = "ab\ncabd\nabc"  # a newline is 0, the letters are 1 to 4
IDS = ["\nabcd".index(character) for character in TEXT]


def test_probabilities_of_large_logits() -> None:
    """Logits of any size give probabilities that add up to 1, and equal differences equal ratios."""
    found = probabilities(np.array([[1000.0, 1000.0 + math.log(3)], [-np.inf, 0]], np.float32))
    np.testing.assert_allclose(found, [[0.25, 0.75], [0, 1]], atol=1e-4)


def test_surprise_by_hand() -> None:
    """Surprise is -ln of what the position before said; the first id has none."""
    logits = np.log(np.array([[0.5, 0.25, 0.25], [0.1, 0.2, 0.7], [1, 1, 1]], np.float32))
    found = surprise(logits, np.array([2, 1, 0], np.int32))
    assert math.isnan(found[0])
    np.testing.assert_allclose(found[1:], [math.log(4), math.log(10)], rtol=1e-6)
    assert np.isnan(surprise(logits[:1], np.array([2], np.int32))).all()


def test_the_mean_surprise_is_what_eval_measures(tmp_path: Path) -> None:
    """The mean of a text no longer than the context is the loss that `evaluate` gives, on both back ends."""
    ids = np.array([3, 0, 7, 7, 11, 2, 9, 1], np.int32)
    for backend in ("mlx", "numpy"):
        model, _ = load(random_folder(tmp_path, QWEN3), backend)
        assert np.nanmean(surprise(trace(model, ids).logits, ids)) == pytest.approx(evaluate(model, ids).loss, rel=1e-5)


def test_the_lens_by_hand() -> None:
    """Ranks count from 0, ties go to the lower id, the last position has nothing to come, and 5 places are filled."""
    stages = [
        np.log(np.array([[0.1, 0.2, 0.7], [0.4, 0.4, 0.2]], np.float32)),
        np.log(np.array([[0.6, 0.3, 0.1], [0.2, 0.3, 0.5]], np.float32)),
    ]
    found = lens(stages, np.array([2, 1], np.int32))
    assert found.rank.tolist() == [[1, -1], [1, -1]]
    assert found.top.tolist() == [[[2, 1, 0, -1, -1], [0, 1, 2, -1, -1]], [[0, 1, 2, -1, -1], [2, 1, 0, -1, -1]]]
    np.testing.assert_allclose(found.top_p[0, 0], [0.7, 0.2, 0.1, 0, 0], rtol=1e-5)
    assert found.ranks is not None
    assert found.ranks.tolist() == [[[2, 1, 0], [0, 1, 2]], [[0, 1, 2], [2, 1, 0]]]


def test_the_lens_of_a_large_vocabulary() -> None:
    """Where ranks do not fit a byte only the likeliest ids and the rank of the one to come are kept."""
    assert lens([np.zeros((2, 300), np.float32)], np.array([0, 217], np.int32)).rank.tolist() == [[217, -1]]  # a tie
    logits = np.random.default_rng(0).standard_normal((4, 300)).astype(np.float32)
    found = lens([logits], np.array([5, 299, 0, 17], np.int32))
    assert found.ranks is None
    expected = [int((logits[t] > logits[t, id]).sum()) for t, id in enumerate([299, 0, 17])]
    assert found.rank[0].tolist() == [*expected, -1]
    assert max(expected) > 5
    assert found.top[0, :, 0].tolist() == logits.argmax(-1).tolist()


def test_places_by_hand() -> None:
    """Who would look at whom in a text of three lines, read off it with a finger."""
    found = {name: [np.flatnonzero(row).tolist() for row in mask] for name, mask in places(IDS, [0]).items()}
    # TEXT:                    a   b    \n   c    a    b    d    \n      a    b     c
    assert found["previous"] == [[], [0], [1], [2], [3], [4], [5], [6], [7], [8], [9]]
    assert found["line_start"] == [[], [], [], [], [], [2, 3], [2, 3], [2, 3], [], [], [7, 8]]
    assert found["same_before"] == [[], [], [], [], [0], [1], [], [2], [0, 4], [1, 5], [3]]
    assert found["induction"] == [[], [], [], [], [1], [2], [], [3], [1, 5], [2, 6], [4]]


def test_a_double_letter_is_the_one_just_before() -> None:
    """The id just before counts as that, and not as the same id before or as what followed it."""
    found = {name: np.argwhere(mask).tolist() for name, mask in places([1, 1, 1, 2], [0]).items()}
    assert found["previous"] == [[1, 0], [2, 1], [3, 2]]
    assert found["same_before"] == [[2, 0]]
    assert found["induction"] == []


def test_a_newline_ends_its_own_line() -> None:
    """A newline belongs to the line that it ends: its start is that line's, not its own place."""
    assert np.flatnonzero(places(IDS, [0])["line_start"][7]).tolist() == [2, 3]


def looking(name: str, weight: float) -> np.ndarray:
    """Attention (1, 1, T, T) that puts `weight` on the places of a kind, evenly, and the rest on itself."""
    wanted = places(IDS, [0])[name].astype(np.float32)
    counts = wanted.sum(-1, keepdims=True)
    attention = weight * wanted / np.maximum(counts, 1)
    attention += np.diag(1 - attention.sum(-1))
    return attention[None, None]


@pytest.mark.parametrize("name", KINDS)
def test_a_head_that_was_made_for_it_has_its_name(name: str) -> None:
    """A head that always looks where a name says scores 1 and has it; one that does by 0.6 scores 0.6."""
    for weight in (1.0, 0.6):
        scores, even = head_scores(looking(name, weight), IDS, [0])
        assert scores[0, 0, KINDS.index(name)] == pytest.approx(weight)
        (found,) = named_heads(scores, even)
        assert (found.layer, found.head, found.name, found.score) == (0, 0, name, pytest.approx(weight))


def test_a_head_that_looks_everywhere_alike_has_no_name() -> None:
    """An even look scores what is said of an even look, by hand for the id before: the mean of 1/2, 1/3 ..."""
    T = len(IDS)
    alike = (np.tri(T, dtype=np.float32) / np.arange(1, T + 1)[:, None])[None, None]
    scores, even = head_scores(alike, IDS, [0])
    np.testing.assert_allclose(scores[0, 0], even, rtol=1e-5)
    assert even[0] == pytest.approx(sum(1 / t for t in range(2, T + 1)) / (T - 1))
    assert named_heads(scores, even) == []


def test_too_few_places_say_nothing() -> None:
    """In a text without a second line, or with nothing that comes again, a score is no number, and names nothing."""
    scores, even = head_scores(np.eye(4, dtype=np.float32)[None, None], [1, 2, 3, 4], [0])
    assert np.isnan(scores[0, 0]).tolist() == [False, True, True, True]
    assert np.isnan(even).tolist() == [False, True, True, True]
    twice, _ = head_scores(np.eye(5, dtype=np.float32)[None, None], [1, 2, 1, 2, 3], [0])
    assert np.isnan(twice[0, 0]).tolist() == [False, True, True, True]  # two places are too few
    short, _ = head_scores(np.ones((1, 1, 1, 1), np.float32), [1], [0])
    assert np.isnan(short).all()
    assert named_heads(short, np.full(4, np.nan, np.float32)) == []


def test_the_strongest_name_counts() -> None:
    """A head has one name, that of its highest score, and the strongest head comes first."""
    scores = np.array([[[0.5, 0.9, 0.2, 0.1]], [[0.95, 0.1, 0.5, 0.1]], [[0.29, 0.1, 0.1, 0.1]]], np.float32)
    found = named_heads(scores, np.full(4, 0.1, np.float32))
    assert [(head.layer, head.name) for head in found] == [(1, "previous"), (0, "line_start")]
    assert named_heads(scores, np.full(4, 0.94, np.float32)) == []  # an even look does as much


def test_measures_need_no_model() -> None:
    """What is read off a trace is plain NumPy."""
    source = Path(measures.__file__).read_text(encoding="utf-8")
    assert "mlx.core" not in source
    assert "trace import" not in source
