"""Logits to the next id: each filter against brute force, and the whole chain against float64."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from mlx_tinylm.sampling import SampleConfig, keep_min_p, keep_top_k, keep_top_p, penalise, probabilities, sample

logit_arrays = arrays.arrays(
    np.float32, st.integers(1, 12), elements=st.floats(-20, 20, width=32).map(lambda x: round(x, 2))
)
LARGEST_DRAW = 1 - 2**-24  # of a float32 in [0, 1)


def kept(logits: Any) -> set[int]:
    return set(np.flatnonzero(np.asarray(logits) > -np.inf).tolist())


def softmax(logits: Any) -> list[float]:
    top = max(float(x) for x in logits)
    weights = [math.exp(float(x) - top) for x in logits]
    return [weight / math.fsum(weights) for weight in weights]


def ranked(logits: Any) -> list[int]:
    """Ids, the likeliest first; of equals the first one first."""
    return sorted(range(len(logits)), key=lambda id: (-float(logits[id]), id))


def brute_top_p(logits: Any, p: float) -> set[int]:
    chances, result = softmax(logits), []
    for id in ranked(logits):
        result.append(id)
        total = math.fsum(chances[i] for i in result)
        assume(abs(total - p) > 1e-5)  # float32 may see it the other way round
        if total >= p:
            break
    return set(result)


@settings(max_examples=100, deadline=None)
@given(logit_arrays, st.integers(1, 20))
def test_top_k(logits: Any, k: int) -> None:
    """Exactly the k largest logits stay as they are, of equals the first ones; k past their number keeps all."""
    result = keep_top_k(logits, k)
    assert kept(result) == set(ranked(logits)[:k])
    assert all(result[id] == logits[id] for id in kept(result))


@settings(max_examples=100, deadline=None)
@given(logit_arrays, st.floats(0.001, 0.9999))
def test_top_p(logits: Any, p: float) -> None:
    """The fewest likeliest ids that reach p together stay as they are."""
    result = keep_top_p(logits, p)
    assert kept(result) == brute_top_p(logits, p)
    assert all(result[id] == logits[id] for id in kept(result))


@pytest.mark.parametrize("p", [1e-300, 1e-9, 0.2])
def test_top_p_keeps_one_at_least(p: float) -> None:
    """However small p is, the likeliest id stays."""
    assert kept(keep_top_p(np.zeros(5, np.float32), p)) == {0}
    assert kept(keep_top_p(np.array([0, 3, 1], np.float32), p)) == {1}


def test_top_p_of_one_drops_nothing() -> None:
    """p = 1 keeps every id, though the float32 chances of a large vocabulary sum to a little more than 1."""
    logits = np.random.default_rng(0).normal(0, 2, 50_000).astype(np.float32)
    assert probabilities(logits).sum(dtype=np.float64) > 1
    assert len(kept(keep_top_p(logits, 1.0))) == 50_000


@settings(max_examples=100, deadline=None)
@given(logit_arrays, st.floats(0, 1))
def test_min_p(logits: Any, p: float) -> None:
    """An id stays exactly if it is at least p times as likely as the likeliest."""
    chances = softmax(logits)
    for chance in chances:
        assume(chance == max(chances) or abs(chance - p * max(chances)) > 1e-5 * p * max(chances))
    result = keep_min_p(logits, p)
    assert kept(result) == {id for id, chance in enumerate(chances) if chance >= p * max(chances)}
    assert all(result[id] == logits[id] for id in kept(result))


@settings(max_examples=100, deadline=None)
@given(logit_arrays, st.floats(0.1, 10), st.lists(st.integers(0, 11), max_size=8))
def test_penalty(logits: Any, penalty: float, recent: list[int]) -> None:
    """Ids seen lately get their logit divided where positive and multiplied where negative, once each."""
    recent = [id % len(logits) for id in recent]
    before = logits.copy()
    result = penalise(logits, recent, penalty)
    for id, logit in enumerate(before.tolist()):
        expected = logit if id not in recent else logit / penalty if logit > 0 else logit * penalty
        assert result[id] == pytest.approx(expected, rel=1e-6)
    assert (logits == before).all()  # the caller's logits are left alone


@settings(max_examples=50, deadline=None)
@given(logit_arrays)
def test_probabilities(logits: Any) -> None:
    """Softmax, in float32."""
    result = probabilities(logits)
    assert result.dtype == np.float32
    assert result.tolist() == pytest.approx(softmax(logits), abs=1e-6)


def distribution(logits: Any, config: SampleConfig, recent: list[int]) -> list[float]:
    """The chances of each id in float64 by the book: penalty, temperature, top-k, top-p, min-p."""
    scores = [float(x) for x in logits]
    if config.repetition_penalty is not None:
        for id in set(recent[-20:]):
            scores[id] = (
                scores[id] / config.repetition_penalty if scores[id] > 0 else scores[id] * config.repetition_penalty
            )
    scores = [score / config.temperature for score in scores]
    gaps = np.diff(sorted(scores))
    assume(((gaps == 0) | (gaps > 1e-5)).all())  # float32 may see equals where there are none
    allowed = set(ranked(scores)[: config.top_k])
    if config.top_p is not None:
        inside = sorted(allowed)
        allowed = {inside[place] for place in brute_top_p([scores[id] for id in inside], config.top_p)}
    if config.min_p is not None:
        top = max(scores)
        for id in list(allowed):
            ratio = math.exp(scores[id] - top)
            assume(abs(ratio - config.min_p) > 1e-5)
            if ratio < config.min_p:
                allowed.remove(id)
    weights = [math.exp(score - max(scores)) if id in allowed else 0.0 for id, score in enumerate(scores)]
    return [weight / math.fsum(weights) for weight in weights]


optional = st.none
configs = st.builds(
    SampleConfig,
    temperature=st.floats(0.2, 3),
    top_k=optional() | st.integers(1, 12),
    top_p=optional() | st.floats(0.05, 0.99),
    min_p=optional() | st.floats(0.001, 0.9),
    repetition_penalty=optional() | st.floats(0.3, 3),
)


@settings(max_examples=200, deadline=None)
@given(logit_arrays, configs, st.lists(st.integers(0, 11), max_size=30), st.integers(0, 2**24 - 1))
def test_the_whole_chain(logits: Any, config: SampleConfig, recent: list[int], draw: int) -> None:
    """For every setting and draw the id is the one where the float64 distribution function passes the draw."""
    recent = [id % len(logits) for id in recent]
    u = draw / 2**24
    chances = distribution(logits, config, recent)
    sums = np.cumsum(chances)
    assume(np.abs(sums[:-1] - u).min(initial=1) > 1e-5)
    expected = int(np.searchsorted(sums, u * sums[-1], side="right"))
    assert sample(logits, u, config, recent) == expected


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        # three ids have .9 together, but .81 once temperature 3 has flattened them
        ({"temperature": 3.0}, {"top_p": 0.85}, {0, 1, 2, 3}),
        # of the two likeliest the first has .57, which reaches .5 alone; of all four it has .4, which does not
        ({"top_k": 2}, {"top_p": 0.5}, {0}),
        # top-p first keeps two; min-p first would leave the same two, of which the first alone has .57
        ({"top_p": 0.5}, {"min_p": 0.6}, {0, 1}),
        # the temperature comes before min-p too
        ({"temperature": 3.0}, {"min_p": 0.5}, {0, 1, 2, 3}),
    ],
)
def test_order_of_filters(first: dict[str, Any], second: dict[str, Any], expected: set[int]) -> None:
    """Each setting acts on what the one before it left: the other order would give another set."""
    logits = np.log(np.array([0.4, 0.3, 0.2, 0.1], np.float32))
    config = SampleConfig(**({"temperature": 1.0} | first | second))
    assert {sample(logits, u, config) for u in np.linspace(0, LARGEST_DRAW, 100)} == expected


def test_penalty_comes_before_everything() -> None:
    """A penalised id can fall out of the top k, and the temperature does not change which sign its logit has."""
    logits = np.array([2.0, 1.5, -1.0], np.float32)
    assert sample(logits, 0.0, SampleConfig(top_k=1, repetition_penalty=2.0), [0]) == 1
    assert sample(logits, 0.0, SampleConfig(temperature=0, repetition_penalty=2.0), [0]) == 1
    assert sample(logits, 0.0, SampleConfig(temperature=0, repetition_penalty=0.1), [1]) == 1


def test_penalty_looks_back_twenty_ids() -> None:
    """Only the twenty latest ids are penalised."""
    logits = np.array([1.0, 0.9, 0.0], np.float32)
    config = SampleConfig(temperature=0, repetition_penalty=2.0)
    assert sample(logits, 0.0, config, [0, *[2] * 19]) == 1
    assert sample(logits, 0.0, config, [0, *[2] * 20]) == 0


@settings(max_examples=50, deadline=None)
@given(logit_arrays, st.floats(0, LARGEST_DRAW))
def test_temperature_zero(logits: Any, u: float) -> None:
    """Temperature 0 takes the first of the largest logits, whatever is drawn and filtered."""
    config = SampleConfig(temperature=0, top_k=3, top_p=0.5, min_p=0.1)
    assert sample(logits, u, config) == ranked(logits)[0]


@pytest.mark.parametrize("temperature", [5e-324, 1e-300, 1e-46, 1e-45, 1e-30, 1e-6])
@pytest.mark.parametrize("u", [0.0, 0.5, LARGEST_DRAW])
def test_temperatures_near_zero(temperature: float, u: float) -> None:
    """A temperature too small for float32 takes the likeliest id, as 0 does, without a warning."""
    logits = np.array([-3e38, 1.0, 3.0, 2.999, -1.0], np.float32)
    assert sample(logits, u, SampleConfig(temperature=temperature)) == 2


@pytest.mark.parametrize("temperature", [1e30, 3.5e38, 1e39, 1.7e308])
def test_huge_temperatures(temperature: float) -> None:
    """A temperature too large for float32 makes all ids equally likely."""
    logits = np.array([-3e38, 10.0, 3e38, 0.0], np.float32) if temperature > 1e100 else np.arange(4, dtype=np.float32)
    config = SampleConfig(temperature=temperature)
    assert [sample(logits, u, config) for u in (0.1, 0.3, 0.6, 0.9)] == [0, 1, 2, 3]


@pytest.mark.parametrize("penalty", [5e-324, 1e-300, 1e-40, 1e40, 1e300])
def test_extreme_penalties(penalty: float) -> None:
    """A penalty too large or too small for float32 neither warns nor makes a number that is none."""
    logits = np.array([2.0, 0.0, -1.0, 1.0], np.float32)
    config = SampleConfig(repetition_penalty=penalty, temperature=0)
    assert np.isfinite(penalise(logits, [0, 1, 2], penalty)).all()
    assert sample(logits, 0.5, config, [0, 1, 2]) == (0 if penalty < 1 else 3)
    sample(logits, 0.5, SampleConfig(repetition_penalty=penalty), [0, 1, 2])


def test_ids_of_no_probability_are_never_drawn() -> None:
    """Neither the smallest nor the largest draw hits an id whose probability is zero."""
    logits = np.array([-500.0, 0.0, -500.0, 0.5, -500.0], np.float32)
    for config in (SampleConfig(temperature=1), SampleConfig(temperature=1, top_k=2)):
        assert sample(logits, 0.0, config) == 1
        assert sample(logits, LARGEST_DRAW, config) == 3


def test_one_id() -> None:
    """A vocabulary of one id leaves no choice."""
    config = SampleConfig(top_k=5, top_p=0.1, min_p=1.0, repetition_penalty=2.0)
    assert sample(np.array([-7.0], np.float32), LARGEST_DRAW, config, [0, 0]) == 0


def test_statistics_of_draws() -> None:
    """4,000 seeded draws meet the wanted chances within four standard deviations."""
    chances = np.array([0.5, 0.25, 0.15, 0.08, 0.02])
    logits = np.log(chances).astype(np.float32)
    random = np.random.default_rng(0)
    draws = 4000
    ids = [sample(logits, float(random.random(dtype=np.float32)), SampleConfig(temperature=1)) for _ in range(draws)]
    found = np.bincount(ids, minlength=5) / draws
    assert (np.abs(found - chances) < 4 * np.sqrt(chances * (1 - chances) / draws)).all()


def test_logits_are_left_alone() -> None:
    """The caller's logits do not change, whatever is applied."""
    logits = np.array([1.0, 2.0, 3.0], np.float32)
    sample(logits, 0.3, SampleConfig(top_k=2, top_p=0.9, min_p=0.1, repetition_penalty=2.0), [0, 1, 2])
    assert logits.tolist() == [1.0, 2.0, 3.0]


def test_any_float_type() -> None:
    """Logits in half or double precision are sampled as float32."""
    for dtype in (np.float16, np.float64):
        assert sample(np.array([0.0, 4.0, 1.0], dtype), 0.5, SampleConfig()) == 1
