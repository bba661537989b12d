"""Ids and text as they are made: the cache, its end, stops, guards, and both back ends alike."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from conftest import random_folder
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_tinylm.backend.choose import load
from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.generation import check_ids, generate, generate_ids, stream_generate, until
from mlx_tinylm.model_folder.config import GPT2Config, ModelConfig, Qwen3Config
from mlx_tinylm.sample_config import SampleConfig
from mlx_tinylm.sampling import sample
from mlx_tinylm.text.tokenizer import Tokenizer

GPT2 = GPT2Config(vocab_size=27, context=8, width=16, layers=2, heads=2)
# One layer: its keys depend on nothing but their own id, so a window that slid is a window read anew.
QWEN3 = Qwen3Config(vocab_size=27, context=8, width=16, layers=1, heads=2, kv_heads=1, head_dim=8, hidden=20)
every_family = pytest.mark.parametrize("config", [GPT2, QWEN3], ids=lambda config: config.family)
every_backend = pytest.mark.parametrize("backend", ["mlx", "numpy"])
DRAWN = SampleConfig(temperature=1.0, max_tokens=40, seed=3)
PROMPT = [3, 1, 4]
LETTERS = Tokenizer.from_alphabet("abcdefghijklmnopqrstuvwxyz")


@every_family
@every_backend
@pytest.mark.parametrize("context", [8, 9, 2, 1])
@pytest.mark.parametrize("prompt", [PROMPT, [*range(8)], [*range(20)]], ids=len)
def test_past_the_context(config: ModelConfig, backend: str, context: int, prompt: list[int], tmp_path: Path) -> None:
    """However far the text has gone, each id is the one that a full pass without a cache gives for its window.

    With rotary positions that is the last `context` ids; where learned positions end, the last half window is read
    from position 0 and generation goes on from there.
    """
    folder = random_folder(tmp_path, replace(config, context=context), seed=2)
    model = load(folder, backend)[0]
    random = np.random.default_rng(DRAWN.seed)
    ids, window = list(prompt), prompt[-context:]
    for _ in range(DRAWN.max_tokens):
        if len(window) > context:
            window = ids[-context:] if config.family == "qwen3" else ids[-max(1, context // 2) :]
        logits = model.logits(np.array([window]))[0, -1]
        ids.append(sample(logits, float(random.random(dtype=np.float32)), DRAWN))
        window = [*window, ids[-1]]
    assert list(generate_ids(model, prompt, DRAWN)) == ids[len(prompt) :]


class Scripted:
    """A model that wants to write a given sequence of ids and records what it is asked."""

    backend = "numpy"

    def __init__(self, script: Sequence[int], context: int = 100, eos_ids: tuple[int, ...] = ()) -> None:
        self.config = replace(GPT2, context=context, eos_ids=eos_ids)
        self.script = itertools.cycle(script)
        self.calls: list[list[int]] = []
        self.capacities: list[int] = []

    def new_cache(self, capacity: int) -> str:
        self.capacities.append(capacity)
        return "cache"

    def next_logits(self, ids: Sequence[int], cache: Any) -> npt.NDArray[np.float32]:
        assert cache == "cache"
        self.calls.append(list(ids))
        return np.eye(self.config.vocab_size, dtype=np.float32)[next(self.script)] * 100

    def logits(self, ids: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        raise NotImplementedError


def test_one_pass_for_the_prompt_then_one_id_a_step() -> None:
    """The prompt is read at once, each id before it is handed out, and the last, which nothing follows, not at all."""
    model = Scripted([7, 8, 9])
    ids = generate_ids(model, PROMPT, SampleConfig(max_tokens=4))
    assert next(ids) == 7
    assert model.calls == [PROMPT, [7]]
    assert list(ids) == [8, 9, 7]
    assert model.calls == [PROMPT, [7], [8], [9]]
    assert model.capacities == [7]
    assert list(generate_ids(Scripted([7]), PROMPT, SampleConfig(max_tokens=1))) == [7]


def test_reading_again_past_the_context() -> None:
    """A cache of the context's size is filled to its end, then half a window is read into a fresh one."""
    model = Scripted([7, 8, 9], context=4)
    assert len(list(generate_ids(model, [0, 1, 2, 3, 4, 5], SampleConfig(max_tokens=7)))) == 7
    assert model.calls == [[2, 3, 4, 5], [5, 7], [8], [9], [9, 7], [8], [9]]
    assert model.capacities == [4, 4, 4]


@pytest.mark.parametrize("eos_ids", [(9,), (20, 9)])
def test_end_of_text_stops(eos_ids: tuple[int, ...]) -> None:
    """Any of the end-of-text ids ends the text and is not part of it; in the prompt it is an id like any other."""
    model = Scripted([7, 8, 9, 7], eos_ids=eos_ids)
    assert list(generate_ids(model, [9, 9], SampleConfig())) == [7, 8]
    assert list(generate_ids(Scripted([9], eos_ids=eos_ids), PROMPT, SampleConfig())) == []


def test_suppressed_ids_are_never_written() -> None:
    """An id that the model's folder rules out is not drawn, even if it is all that the model wants and would end it."""
    for settings_ in ({"temperature": 0}, {"temperature": 1.0, "top_k": 3, "repetition_penalty": 0.5}):
        model = Scripted([9], eos_ids=(9,))
        model.config = replace(model.config, suppressed=(9, 20))
        ids = list(generate_ids(model, [9, 20], SampleConfig(max_tokens=50, seed=1, **settings_)))
        assert len(ids) == 50
        assert not {9, 20} & set(ids)


def test_the_penalty_looks_at_prompt_and_text() -> None:
    """Ids of the prompt, and those just written, count as seen."""
    model = Scripted([7])
    model.next_logits = lambda ids, cache: np.array([0, 0, 0, 1.0, 0.9, 0.8], np.float32)  # type: ignore[method-assign]
    config = SampleConfig(temperature=0, repetition_penalty=2.0, max_tokens=3)
    assert list(generate_ids(model, [3], config)) == [4, 5, 3]


def test_seeds() -> None:
    """A seed repeats its text; without one each text is its own."""

    def text(seed: int | None) -> list[int]:
        model = Scripted([0])
        model.next_logits = lambda ids, cache: np.zeros(27, np.float32)  # type: ignore[method-assign]
        return list(generate_ids(model, PROMPT, SampleConfig(max_tokens=30, seed=seed)))

    assert text(1) == text(1)
    assert text(1) != text(2)
    assert text(None) != text(None)


# Guards


@pytest.mark.parametrize("wrong", [-1, 27, 10**12])
def test_ids_are_guarded(wrong: int) -> None:
    """An id without a row in the embedding is refused before the model sees it."""
    model = Scripted([7])
    with pytest.raises(TinyLMError, match=f"id {wrong} is outside the vocabulary of 27"):
        next(generate_ids(model, [0, wrong, 1], SampleConfig()))
    assert model.calls == []
    check_ids(range(27), 27)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_output_that_is_no_number(value: float) -> None:
    """One logit that is not finite ends generation with a reason."""
    model = Scripted([7])
    model.next_logits = lambda ids, cache: np.array([0, value, 1], np.float32)  # type: ignore[method-assign]
    with pytest.raises(TinyLMError, match="the model's output is not a finite number; its weights are damaged"):
        next(generate_ids(model, [0], SampleConfig()))


@pytest.mark.parametrize(
    ("prompt", "settings", "message"),
    [
        ("", {}, "the prompt is empty; give the model something to go on, such as a newline"),
        ("é", {}, "the model does not know 'é'"),
        ("a", {"temperature": -1}, "temperature must be a number at least 0, not -1"),
        ("a", {"top_k": 28}, "top_k 28: there are 27 ids to draw from; leave it out to draw from all"),
    ],
)
def test_refused_at_the_call(prompt: str, settings: dict[str, Any], message: str) -> None:
    """What cannot be is refused at the call, not at the first piece."""
    with pytest.raises(TinyLMError, match=message):
        stream_generate(Scripted([0]), LETTERS, prompt, **settings)


MODEL: Any = Scripted([0])
NO_TEXTS = r"stop must be text, or a list of texts, not "
ORDER = r"stream_generate\(model, tokenizer, prompt\), the first two from load\(\)"


@pytest.mark.parametrize(
    ("arguments", "settings", "message"),
    [
        ((MODEL, LETTERS, None), {}, "the prompt must be text, not None"),
        ((MODEL, LETTERS, 5), {}, "the prompt must be text, not 5"),
        ((MODEL, LETTERS, [1, 2]), {}, r"the prompt must be text, not \[1, 2\]"),
        ((MODEL, LETTERS, b"a"), {}, "the prompt must be text, not b'a'"),
        ((LETTERS, MODEL, "a"), {}, f"the model and the tokenizer are in each other's place: {ORDER}"),
        (((MODEL, LETTERS), "a", "b"), {}, f"the model is .*: {ORDER}"),
        (("weights/shakespeare", LETTERS, "a"), {}, f"the model is 'weights/shakespeare': {ORDER}"),
        ((MODEL, None, "a"), {}, f"the tokenizer is None: {ORDER}"),
        ((MODEL, LETTERS, "a", 0.5), {}, "config must be a SampleConfig, not 0.5"),
        ((MODEL, LETTERS, "a", {"seed": 1}), {}, "config must be a SampleConfig, not {'seed': 1}"),
        ((MODEL, LETTERS, "a"), {"max_length": 5}, "no setting 'max_length'; there are max_tokens, temperature, "),
        ((MODEL, LETTERS, "a"), {"stop": ["a", 1]}, f"{NO_TEXTS}.*'a', 1"),
        ((MODEL, LETTERS, "a"), {"stop": 1}, f"{NO_TEXTS}1"),
        ((MODEL, LETTERS, "a"), {"stop": ["a", ""]}, "the stop text is empty; leave it out to go on to max_tokens"),
        ((MODEL, LETTERS, "a"), {"stop": "abé"}, "the stop text 'abé' never comes: the model does not know 'é'"),
        (
            (MODEL, LETTERS, "a"),
            {"stop": ("b", "A\n")},
            "the stop text 'A.n' never comes: the model does not know '.nA'",
        ),
        ((MODEL, LETTERS, "a"), {"temperature": np.ones(2)}, "temperature must be a number at least 0, not array"),
        ((MODEL, LETTERS, "a"), {"seed": None, "max_tokens": np.float32(3)}, "max_tokens must be a whole number"),
    ],
)
@pytest.mark.parametrize("function", [generate, stream_generate])
def test_wrong_arguments(function: Any, arguments: Any, settings: dict[str, Any], message: str) -> None:
    """Whatever stands in the place of a model, a tokenizer, a text or a number is one line that says what is meant."""
    with pytest.raises(TinyLMError, match=f"^{message}") as error:
        function(*arguments, **settings)
    assert len(str(error.value)) < 300
    assert str(error.value).isprintable()


def test_numbers_of_numpy() -> None:
    """NumPy's numbers as settings write the text that Python's do."""
    settings_ = {"max_tokens": 7, "temperature": 0.5, "seed": 3, "top_k": 9, "min_p": 0.25, "repetition_penalty": 1.5}
    of_numpy = {name: (np.int64 if type(value) is int else np.float32)(value) for name, value in settings_.items()}
    assert generate(Scripted(range(20)), LETTERS, "a", **of_numpy) == generate(
        Scripted(range(20)), LETTERS, "a", **settings_
    )


# Text


def test_a_prompt_in_another_normal_form() -> None:
    """An e with an accent behind it is the accented letter that the model knows, in a prompt and where it stops."""
    tokenizer = Tokenizer.from_alphabet("ab\u00e9")
    model: Any = Scripted([0, 1, 2, 0])
    settings: dict[str, Any] = {"max_tokens": 4, "temperature": 0.0}
    assert "".join(stream_generate(model, tokenizer, "be\u0301", **settings)) == "ab\u00e9a"
    assert model.calls[0] == [1, 2]
    model = Scripted([0, 1, 2, 0])
    assert "".join(stream_generate(model, tokenizer, "a", stop="e\u0301", **settings)) == "ab"


def test_stop_is_not_written() -> None:
    """Each character comes by itself, without the prompt; a stop text ends it before, and need not come at all."""
    for stop, text in ((None, "hellothere"), ("lot", "hel"), ("h", ""), ("there", "hello"), ("therex", "hellothere")):
        model = Scripted(LETTERS.encode("hellothere"))
        pieces = list(stream_generate(model, LETTERS, "x", max_tokens=10, top_k=27, stop=stop))
        assert "".join(pieces) == text
        if stop is None:
            assert pieces == list(text)


@pytest.mark.parametrize(
    ("stop", "text"),
    [
        (["the", "lo"], "hel"),  # whichever comes first
        (("lo", "the"), "hel"),
        (["zz", "the"], "hello"),
        (["ello", "lo", "o"], "h"),  # of those that end together the longest
        (["llothere", "l"], "he"),  # a shorter one that is whole before the longer
        ([], "hellothere"),
        ("x", "hellothere"),
    ],
)
def test_several_stops(stop: Any, text: str) -> None:
    """Of several stop texts the first to be whole ends the text, before its beginning."""
    for stops in (stop, SampleConfig(stop=stop).stop):
        assert generate(Scripted(LETTERS.encode("hellothere")), LETTERS, "x", max_tokens=10, stop=stops) == text


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.text("ab", max_size=4), max_size=12),
    st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=3),
)
def test_stop_in_any_pieces(pieces: list[str], stops: list[str]) -> None:
    """However the text is cut, what comes out is all that precedes the first stop text, and it comes without delay."""
    whole = "".join(pieces)
    consumed, out = "", ""

    def feed() -> Any:
        nonlocal consumed
        for piece in pieces:
            consumed += piece
            yield piece
            # The piece has been dealt with: only what may be the beginning of the stop text is still held back.
            assert any(stop.startswith(consumed[len(out) :]) for stop in stops)

    for piece in until(feed(), stops):
        out += piece
    ends = [end for end in range(len(whole) + 1) if whole[:end].endswith(tuple(stops))]
    left = (
        [whole[: ends[0]].removesuffix(stop) for stop in stops if whole[: ends[0]].endswith(stop)] if ends else [whole]
    )
    assert out == min(left, key=len)


def test_stop_ends_the_model_too() -> None:
    """After the stop text no further step is taken."""
    model = Scripted(LETTERS.encode("abcdefgh"))
    assert "".join(stream_generate(model, LETTERS, "x", stop="cd")) == "ab"
    assert len(model.calls) == 5  # the prompt, a to d


def test_ids_without_a_token_are_silent() -> None:
    """A model with more ids than its tokenizer has tokens writes nothing for those."""
    tokenizer = Tokenizer.from_alphabet("ab")
    assert "".join(stream_generate(Scripted([0, 26, 1, 2]), tokenizer, "a", max_tokens=4)) == "ab"
