"""Streams text from a model, whichever back end computes it.

Shapes: V vocabulary.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mlx_tinylm.backend.choose import LanguageModel
from mlx_tinylm.checks import brief, check, settings_of
from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.sample_config import SampleConfig
from mlx_tinylm.sampling import sample
from mlx_tinylm.text.normal_form import in_known_form
from mlx_tinylm.text.tokenizer import Tokenizer, quoted


def stream_generate(
    model: LanguageModel, tokenizer: Tokenizer, prompt: str, config: SampleConfig | None = None, **settings: Any
) -> Iterator[str]:
    """Yield the text that follows `prompt` as it is made, without the prompt.

    `settings` are fields of SampleConfig, such as `max_tokens=200`. Ends after `max_tokens` ids, at an
    end-of-text id, or before a `stop` text. The same seed gives the same text on both back ends.
    Raises TinyLMError for an empty prompt, characters the model does not know, settings out of range, and arguments
    that are something else or in another order.
    """
    _check_arguments(model, tokenizer, prompt, config, settings)
    config = dataclasses.replace(config or SampleConfig(), **settings)
    ids = tokenizer.encode(in_known_form(prompt, tokenizer))
    if config.top_k is not None and config.top_k > model.config.vocab_size:
        raise TinyLMError(
            f"top_k {config.top_k}: there are {model.config.vocab_size} ids to draw from; leave it out to draw from all"
        )
    if not ids:
        raise TinyLMError("the prompt is empty; give the model something to go on, such as a newline")
    stops = tuple(in_known_form(text, tokenizer) for text in config.stops)
    for text in stops:
        if unknown := tokenizer.unknown_characters(text):
            raise TinyLMError(
                f"the stop text {quoted(text)} never comes: the model does not know {quoted(unknown)}; leave it out"
            )
    detokenizer = tokenizer.detokenizer()
    pieces = (detokenizer.add(id) for id in generate_ids(model, ids, config))
    return until(pieces, stops) if stops else pieces


def _check_arguments(
    model: object, tokenizer: object, prompt: object, config: object, settings: Mapping[str, object]
) -> None:
    """Raise TinyLMError for what no setting is about, with what was meant."""
    order = "stream_generate(model, tokenizer, prompt), the first two from load()"
    swapped = isinstance(model, Tokenizer) and hasattr(tokenizer, "next_logits")
    check(not swapped, f"the model and the tokenizer are in each other's place: {order}")
    check(hasattr(model, "next_logits"), f"the model is {brief(model)}: {order}")
    check(isinstance(tokenizer, Tokenizer), f"the tokenizer is {brief(tokenizer)}: {order}")
    check(isinstance(prompt, str), f"the prompt must be text, not {brief(prompt)}")
    check(config is None or isinstance(config, SampleConfig), f"config must be a SampleConfig, not {brief(config)}")
    if unknown := sorted(settings.keys() - settings_of(SampleConfig).keys()):
        raise TinyLMError(f"no setting {brief(unknown[0])}; there are {', '.join(settings_of(SampleConfig))}")


def generate(
    model: LanguageModel, tokenizer: Tokenizer, prompt: str, config: SampleConfig | None = None, **settings: Any
) -> str:
    """The text that `stream_generate` yields, in one piece."""
    return "".join(stream_generate(model, tokenizer, prompt, config, **settings))


def generate_ids(model: LanguageModel, prompt: Sequence[int], config: SampleConfig) -> Iterator[int]:
    """Yield ids that follow `prompt`; the next step is already dispatched when an id is handed out."""
    check_ids(prompt, model.config.vocab_size)
    context = model.config.context
    slides = model.config.family == "qwen3"  # rotary positions: the cache drops the oldest by itself
    capacity = min(context, len(prompt) + config.max_tokens)
    suppressed = np.array(model.config.suppressed, np.int64)
    random = np.random.default_rng(config.seed)
    ids = list(prompt)
    window = ids[-context:]
    cache = model.new_cache(capacity)
    logits = model.next_logits(window, cache)
    used = len(window)
    for left in range(config.max_tokens - 1, -1, -1):
        u = float(random.random(dtype=np.float32))
        id = sample(_finite(np.asarray(logits)), u, config, ids, suppressed)
        if id in model.config.eos_ids:
            return
        ids.append(id)
        if left and used == capacity and not slides:
            # Learned positions end here: read the last half window again, from position 0, and go on.
            window = ids[-max(1, context // 2) :]
            cache = model.new_cache(capacity)
            logits = model.next_logits(window, cache)
            used = len(window)
        elif left:
            logits = model.next_logits([id], cache)
            used += 1
        yield id


def _finite(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    if not np.isfinite(logits).all():
        raise TinyLMError(NOT_FINITE)
    return logits


NOT_FINITE = "the model's output is not a finite number; its weights are damaged, train it again"


def check_ids(ids: Sequence[int], vocab_size: int) -> None:
    """Raise TinyLMError unless every id has a row in the embedding: MLX reads garbage past its end."""
    if wrong := [id for id in ids if not 0 <= id < vocab_size]:
        raise TinyLMError(f"id {wrong[0]} is outside the vocabulary of {vocab_size}")


def until(pieces: Iterator[str], stops: Sequence[str]) -> Iterator[str]:
    """Pass pieces on until one of the texts `stops` is whole; what could be the beginning of one is held back.

    Of two that end with the same character the longer counts, so how the text is cut into pieces makes no difference.
    """
    held = ""
    for piece in pieces:
        held += piece
        found = [(place + len(stop), place) for stop in stops if (place := held.find(stop)) >= 0]
        if found:
            _, place = min(found)
            yield held[:place]
            return
        keep = max(_overlap(held, stop) for stop in stops)
        yield held[: len(held) - keep]
        held = held[len(held) - keep :]
    yield held


def _overlap(text: str, stop: str) -> int:
    """How many characters at the end of `text` are the beginning of `stop`, which is not in it."""
    return next(n for n in range(min(len(stop) - 1, len(text)), -1, -1) if stop.startswith(text[len(text) - n :]))
