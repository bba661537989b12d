"""Ids and text as they are made: the cache, its end, stops, guards, and both back ends alike."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from conftest import random_folder
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_tinylm.backend.choose import LanguageModel, load
from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.generation import check_ids, generate, generate_ids, stream_generate, until
from mlx_tinylm.model_folder.config import GPT2Config, ModelConfig, Qwen3Config
from mlx_tinylm.sampling import SampleConfig, sample
from mlx_tinylm.text.tokenizer import Tokenizer

GPT2 = GPT2Config(vocab_size=27, context=8, width=16, layers=2, heads=2)
# One layer: its keys depend on nothing but their own id, so a window that slid is a window read anew.
QWEN3 = Qwen3Config(vocab_size=27, context=8, width=16, layers=1, heads=2, kv_heads=1, head_dim=8, hidden=20)
every_family = pytest.mark.parametrize("config", [GPT2, QWEN3], ids=lambda config: config.family)
every_backend = pytest.mark.parametrize("backend", ["mlx", "numpy"])
DRAWN = SampleConfig(temperature=1.0, max_tokens=40, seed=3)
PROMPT = [3, 1, 4]


def opened(folder: Path, config: ModelConfig, backend: str) -> LanguageModel:
    return load(random_folder(folder, config, seed=2), backend)[0]


def draws() -> Iterator[float]:
    """What DRAWN draws."""
    random = np.random.default_rng(3)
    while True:
        yield float(random.random(dtype=np.float32))


def uncached(model: LanguageModel, window: Sequence[int], u: float) -> int:
    """The id that follows a window, from a full forward pass without a cache."""
    return sample(model.logits(np.array([window]))[0, -1], u, DRAWN)


@every_backend
@pytest.mark.parametrize("context", [8, 9, 2, 1])
@pytest.mark.parametrize("prompt", [PROMPT, [*range(8)], [*range(20)]], ids=len)
def test_gpt2_reads_half_a_window_again(backend: str, context: int, prompt: list[int], tmp_path: Path) -> None:
    """Where learned positions end, the last half window is read from position 0 and generation goes on."""
    model = opened(tmp_path, replace(GPT2, context=context), backend)
    ids, window = list(prompt), prompt[-context:]
    for u in itertools.islice(draws(), 40):
        if len(window) > context:
            window = ids[-max(1, context // 2) :]
        ids.append(uncached(model, window, u))
        window = [*window, ids[-1]]
    assert list(generate_ids(model, prompt, DRAWN)) == ids[len(prompt) :]


@every_backend
@pytest.mark.parametrize("context", [8, 9, 2, 1])
@pytest.mark.parametrize("prompt", [PROMPT, [*range(8)], [*range(20)]], ids=len)
def test_qwen3_slides_its_window(backend: str, context: int, prompt: list[int], tmp_path: Path) -> None:
    """With rotary positions each id follows from the last `context` ids, however far the text has gone."""
    model = opened(tmp_path, replace(QWEN3, context=context), backend)
    ids = list(prompt)
    for u in itertools.islice(draws(), 40):
        ids.append(uncached(model, ids[-context:], u))
    assert list(generate_ids(model, prompt, DRAWN)) == ids[len(prompt) :]


@every_family
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_both_back_ends_write_the_same(config: ModelConfig, temperature: float, tmp_path: Path) -> None:
    """The same seed gives the same text on MLX and NumPy, several contexts long; another seed another one."""
    folder = random_folder(tmp_path, replace(config, eos_ids=(26,)))
    settings = SampleConfig(max_tokens=60, temperature=temperature, top_k=20, repetition_penalty=1.1, seed=5)
    texts = [generate(*load(folder, backend), "#!", settings) for backend in ("mlx", "numpy")]
    assert texts[0] == texts[1] != ""
    if temperature:
        assert generate(*load(folder, "numpy"), "#!", settings, seed=6) != texts[0]


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
    """The prompt is read at once, each new id by itself, and the last one, which nothing follows, not at all."""
    model = Scripted([7, 8, 9])
    assert list(generate_ids(model, PROMPT, SampleConfig(max_tokens=4))) == [7, 8, 9, 7]
    assert model.calls == [PROMPT, [7], [8], [9]]
    assert model.capacities == [7]


def test_the_next_step_is_on_its_way() -> None:
    """When an id is handed out, the model has already been asked for the one after it."""
    model = Scripted([7, 8, 9])
    ids = generate_ids(model, PROMPT, SampleConfig(max_tokens=4))
    assert next(ids) == 7
    assert model.calls == [PROMPT, [7]]


def test_reading_again_past_the_context() -> None:
    """A cache of the context's size is filled to its end, then half a window is read into a fresh one."""
    model = Scripted([7, 8, 9], context=4)
    assert len(list(generate_ids(model, [0, 1, 2, 3, 4, 5], SampleConfig(max_tokens=7)))) == 7
    assert model.calls == [[2, 3, 4, 5], [5, 7], [8], [9], [9, 7], [8], [9]]
    assert model.capacities == [4, 4, 4]


@pytest.mark.parametrize("count", [1, 2, 500])
def test_max_tokens(count: int) -> None:
    """Exactly as many ids are written as were asked for, and 500 where nothing was said."""
    assert len(list(generate_ids(Scripted([7]), PROMPT, SampleConfig(max_tokens=count)))) == count
    assert len(list(generate_ids(Scripted([7]), PROMPT, SampleConfig()))) == 500


@pytest.mark.parametrize("eos_ids", [(9,), (20, 9)])
def test_end_of_text_stops(eos_ids: tuple[int, ...]) -> None:
    """Any of the end-of-text ids ends the text and is not part of it; in the prompt it is an id like any other."""
    model = Scripted([7, 8, 9, 7], eos_ids=eos_ids)
    assert list(generate_ids(model, [9, 9], SampleConfig())) == [7, 8]
    assert list(generate_ids(Scripted([9], eos_ids=eos_ids), PROMPT, SampleConfig())) == []
    assert len(list(generate_ids(Scripted([7, 8, 9]), PROMPT, SampleConfig()))) == 500


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


@every_backend
def test_prompts_that_cannot_be(backend: str, tmp_path: Path) -> None:
    """An empty prompt and unknown characters are refused at the call, not at the first piece."""
    model, tokenizer = load(random_folder(tmp_path, GPT2), backend)
    with pytest.raises(TinyLMError, match="the prompt is empty"):
        stream_generate(model, tokenizer, "")
    with pytest.raises(TinyLMError, match="the model does not know 'é'"):
        stream_generate(model, tokenizer, "é")
    with pytest.raises(TinyLMError, match="temperature must be a number at least 0, not -1"):
        stream_generate(model, tokenizer, "!", temperature=-1)


def test_back_ends(tmp_path: Path) -> None:
    """A back end is what was asked for; auto is MLX where there is MLX; another name is answered with the list."""
    folder = random_folder(tmp_path, GPT2)
    assert load(folder, "numpy")[0].backend == "numpy"
    assert load(folder, "mlx")[0].backend == "mlx"
    assert load(str(folder))[0].backend == "mlx"
    with pytest.raises(TinyLMError, match="no back end 'torch'; there are auto, mlx and numpy"):
        load(folder, "torch")


# Text


def written(script: str, **settings: Any) -> list[str]:
    """The pieces of a model that wants to write `script`."""
    tokenizer = Tokenizer.from_alphabet("".join(map(chr, range(97, 123))))
    model = Scripted(tokenizer.encode(script))
    return list(stream_generate(model, tokenizer, "x", max_tokens=len(script), **settings))


def test_pieces_are_characters() -> None:
    """Without a stop text each character comes by itself, and the prompt does not come at all."""
    assert written("hello") == list("hello")


def test_stop_is_not_written() -> None:
    """Text ends before the stop text, which may be longer than any piece, and is whole where it never comes."""
    assert "".join(written("hellothere", stop="lot")) == "hel"
    assert "".join(written("hellothere", stop="h")) == ""
    assert "".join(written("hellothere", stop="there")) == "hello"
    assert "".join(written("hellothere", stop="therex")) == "hellothere"


@settings(max_examples=150, deadline=None)
@given(st.lists(st.text("ab", max_size=4), max_size=12), st.text("ab", min_size=1, max_size=4))
def test_stop_in_any_pieces(pieces: list[str], stop: str) -> None:
    """However the text is cut, what comes out is all that precedes the stop text, and it comes without delay."""
    whole = "".join(pieces)
    consumed, out = "", ""

    def feed() -> Any:
        nonlocal consumed
        for piece in pieces:
            consumed += piece
            yield piece
            # The piece has been dealt with: only what may be the beginning of the stop text is still held back.
            assert stop.startswith(consumed[len(out) :])

    for piece in until(feed(), stop):
        out += piece
    assert out == whole.split(stop)[0]


def test_stop_ends_the_model_too() -> None:
    """After the stop text no further step is taken."""
    tokenizer = Tokenizer.from_alphabet("".join(map(chr, range(97, 123))))
    model = Scripted(tokenizer.encode("abcdefgh"))
    assert "".join(stream_generate(model, tokenizer, "x", stop="cd")) == "ab"
    assert len(model.calls) == 5  # the prompt, a to d


def test_ids_without_a_token_are_silent(tmp_path: Path) -> None:
    """A model with more ids than its tokenizer has tokens writes nothing for those."""
    tokenizer = Tokenizer.from_alphabet("ab")
    assert "".join(stream_generate(Scripted([0, 26, 1, 2]), tokenizer, "a", max_tokens=4)) == "ab"
