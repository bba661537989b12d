"""Logits to the next id: each filter against brute force, and the whole chain against float64."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.sample_config import SampleConfig
from mlx_tinylm.sampling import keep_min_p, keep_top_k, keep_top_p, penalise, probabilities, sample

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


# The filters by the book, in float64: which ids stay.


def top_k(logits: Any, k: int) -> set[int]:
    return set(ranked(logits)[:k])


def top_p(logits: Any, p: float) -> set[int]:
    chances, result = softmax(logits), []
    for id in ranked(logits):
        result.append(id)
        total = math.fsum(chances[i] for i in result)
        assume(abs(total - p) > 1e-5)  # float32 may see it the other way round
        if total >= p:
            break
    return set(result)


def min_p(logits: Any, p: float) -> set[int]:
    ratios = [math.exp(float(x) - max(float(y) for y in logits)) for x in logits]
    assume(all(ratio == 1 or abs(ratio - p) > 1e-5 * p for ratio in ratios))
    return {id for id, ratio in enumerate(ratios) if ratio >= p}


def penalised(logits: Any, recent: list[int], penalty: float) -> list[float]:
    scores = [float(x) for x in logits]
    return [x if id not in recent else x / penalty if x > 0 else x * penalty for id, x in enumerate(scores)]


@pytest.mark.parametrize(
    ("ours", "theirs", "settings_"),
    [
        (keep_top_k, top_k, st.integers(1, 20)),
        (keep_top_p, top_p, st.floats(0.001, 0.9999)),
        (keep_min_p, min_p, st.floats(0, 1)),
    ],
)
@settings(max_examples=100, deadline=None)
@given(logits=logit_arrays, data=st.data())
def test_filters(ours: Any, theirs: Any, settings_: Any, logits: Any, data: st.DataObject) -> None:
    """Exactly the ids that the book keeps stay, of equals the first ones, with their logits as they were."""
    setting = data.draw(settings_)
    result = ours(logits, setting)
    assert kept(result) == theirs(logits, setting)
    assert all(result[id] == logits[id] for id in kept(result))


def test_the_ends_of_top_p() -> None:
    """The smallest p keeps the likeliest id; 1 keeps all, though float32 chances of many ids sum to more than 1."""
    for p in (1e-300, 1e-9, 0.2):
        assert kept(keep_top_p(np.zeros(5, np.float32), p)) == {0}
        assert kept(keep_top_p(np.array([0, 3, 1], np.float32), p)) == {1}
    logits = np.random.default_rng(0).normal(0, 2, 50_000).astype(np.float32)
    assert probabilities(logits).sum(dtype=np.float64) > 1
    assert len(kept(keep_top_p(logits, 1.0))) == 50_000


@settings(max_examples=100, deadline=None)
@given(logit_arrays, st.floats(0.1, 10), st.lists(st.integers(0, 11), max_size=8))
def test_penalty(logits: Any, penalty: float, recent: list[int]) -> None:
    """Ids seen lately get their logit divided where positive and multiplied where negative, once each."""
    recent = [id % len(logits) for id in recent]
    before = logits.copy()
    assert penalise(logits, recent, penalty).tolist() == pytest.approx(penalised(before, recent, penalty), rel=1e-6)
    assert (logits == before).all()  # the caller's logits are left alone


def distribution(logits: Any, config: SampleConfig, recent: list[int]) -> list[float]:
    """The chances of each id by the book: penalty, temperature, top-k, top-p, min-p."""
    scores = [x / config.temperature for x in penalised(logits, recent[-20:], config.repetition_penalty or 1.0)]
    gaps = np.diff(sorted(scores))
    assume(((gaps == 0) | (gaps > 1e-5)).all())  # float32 may see equals where there are none
    inside = sorted(top_k(scores, config.top_k or len(scores)))
    if config.top_p is not None:
        inside = [inside[place] for place in top_p([scores[id] for id in inside], config.top_p)]
    allowed = set(inside) & min_p(scores, config.min_p or 0.0)
    weights = [math.exp(score - max(scores)) if id in allowed else 0.0 for id, score in enumerate(scores)]
    return [weight / math.fsum(weights) for weight in weights]


configs = st.builds(
    SampleConfig,
    temperature=st.floats(0.2, 3),
    top_k=st.none() | st.integers(1, 12),
    top_p=st.none() | st.floats(0.05, 0.99),
    min_p=st.none() | st.floats(0.001, 0.9),
    repetition_penalty=st.none() | st.floats(0.3, 3),
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


def test_the_penalty_in_the_chain() -> None:
    """It looks at the twenty latest ids and comes first: top-k counts after it, the temperature keeps its signs."""
    logits = np.array([2.0, 1.5, -1.0], np.float32)
    assert sample(logits, 0.0, SampleConfig(top_k=1, repetition_penalty=2.0), [0]) == 1
    assert sample(logits, 0.0, SampleConfig(temperature=0, repetition_penalty=0.1), [1]) == 1
    config = SampleConfig(temperature=0, repetition_penalty=2.0)
    assert sample(logits, 0.0, config, [0, *[2] * 19]) == 1
    assert sample(logits, 0.0, config, [0, *[2] * 20]) == 0


@settings(max_examples=50, deadline=None)
@given(logit_arrays, st.floats(0, LARGEST_DRAW))
def test_temperature_zero(logits: Any, u: float) -> None:
    """Temperature 0 takes the first of the largest logits, whatever is drawn and filtered."""
    config = SampleConfig(temperature=0, top_k=3, top_p=0.5, min_p=0.1)
    assert sample(logits, u, config) == ranked(logits)[0]


def test_extreme_temperatures() -> None:
    """One too small for float32 takes the likeliest id, as 0 does; one too large makes all equal; none warns."""
    far, near = np.array([-3e38, 10.0, 3e38, 0.0], np.float32), np.arange(4, dtype=np.float32)
    for temperature in (5e-324, 1e-300, 1e-46, 1e-45, 1e-30, 1e-6):
        logits = np.array([-3e38, 1.0, 3.0, 2.999, -1.0], np.float32)
        assert {sample(logits, u, SampleConfig(temperature=temperature)) for u in (0.0, 0.5, LARGEST_DRAW)} == {2}
    for temperature, logits in ((1e30, near), (3.5e38, near), (1e39, near), (1.7e308, far)):
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


@settings(max_examples=200, deadline=None)
@given(
    logits=logit_arrays,
    config=configs
    | st.builds(SampleConfig, temperature=st.just(0), repetition_penalty=st.none() | st.floats(0.1, 1e300)),
    recent=st.lists(st.integers(0, 11), max_size=8),
    draw=st.integers(0, 2**24 - 1),
    data=st.data(),
)
def test_suppressed(logits: Any, config: SampleConfig, recent: list[int], draw: int, data: st.DataObject) -> None:
    """Suppressed ids are never drawn, however likely, and the others are drawn as if those were not there."""
    ids, recent = range(len(logits)), [id % len(logits) for id in recent]
    suppressed = data.draw(st.sets(st.sampled_from(ids), max_size=len(logits) - 1))
    left = [id for id in ids if id not in suppressed]
    before = logits.copy()
    found = sample(logits, draw / 2**24, config, recent, sorted(suppressed))
    assert (logits == before).all()
    places = [left.index(id) for id in recent[-20:] if id in left]
    assert found == left[sample(logits[left], draw / 2**24, config, places)]


@pytest.mark.parametrize("u", [0.0, 0.5, LARGEST_DRAW])
@pytest.mark.parametrize("settings", [{}, {"top_k": 2}, {"temperature": 0}, {"temperature": 1e-300}, {"min_p": 0.0}])
def test_suppressed_when_nothing_else_is_likely(settings: dict[str, Any], u: float) -> None:
    """Where all that is left has the smallest logits there are, and a penalty pushes them down, one of those comes."""
    largest = np.finfo(np.float32).max
    logits = np.array([5, -largest, -largest, 5], np.float32)
    config = SampleConfig(repetition_penalty=1e300, **settings)
    assert sample(logits, u, config, [0, 1, 2, 3], [0, 3]) in (1, 2)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_any_float_type(dtype: Any) -> None:
    """Logits of any precision are sampled as float32, and those of the caller do not change, whatever is applied."""
    logits = np.array([0.0, 4.0, 1.0], dtype)
    config = SampleConfig(top_k=2, top_p=0.9, min_p=0.1, repetition_penalty=2.0)
    assert sample(logits, 0.3, config, [0, 2]) == 1
    assert logits.tolist() == [0.0, 4.0, 1.0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_tokens": 0}, "max_tokens must be a whole number from 1 to 10,000,000, not 0"),
        ({"temperature": -0.1}, "temperature must be a number at least 0, not -0.1"),
        ({"temperature": None}, "temperature must be a number at least 0, not None"),
        ({"top_k": 0}, "top_k must be a whole number from 1 to 10,000,000, not 0"),
        ({"top_p": 0.0}, "top_p must be a number above 0 and at most 1, not 0.0"),
        ({"min_p": 1.1}, "min_p must be a number at least 0 and at most 1, not 1.1"),
        ({"repetition_penalty": 0}, "repetition_penalty must be a number above 0, not 0"),
        ({"seed": 2**63}, "seed must be a whole number from 0 to 9,223,372,036,854,775,807, not 9223372036854775808"),
        ({"stop": ""}, "the stop text is empty; leave it out to go on to max_tokens"),
    ],
)
def test_limits(settings: dict[str, Any], message: str) -> None:
    """Each setting out of its range is refused with the range."""
    with pytest.raises(TinyLMError) as error:
        SampleConfig(**settings)
    assert str(error.value) == message
