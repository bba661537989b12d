"""A whole text by surprise, as `eval` reads it, and held-out text to guess at.

Shapes: N ids, B batch, T time, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mlx_tinylm.backend.choose import LanguageModel
from mlx_tinylm.backend.numpy_model import cross_entropy
from mlx_tinylm.checks import check
from mlx_tinylm.generation import NOT_FINITE, check_ids
from mlx_tinylm.inside.measures import TOP, Array
from mlx_tinylm.inside.subject import Subject
from mlx_tinylm.inside.writing import brief
from mlx_tinylm.mean_loss import text_windows
from mlx_tinylm.sampling import probabilities
from mlx_tinylm.text.tokenizer import Tokenizer

EXPECTED = 3  # candidates that are kept for each position of a text
WINDOW = 160  # ids to guess at
Candidates = list[list[float]]  # [id, probability] of each


def surprises(model: LanguageModel, tokenizer: Tokenizer, ids: Sequence[int]) -> Generator[None, None, dict[str, Any]]:
    """The loss of each of `ids` (N,), in the windows of `eval`; stops for a moment after each batch.

    Returns ids; nats (N,), the first None; top, for each position what was expected there, the first None; and of
    `eval` mean, bits_per_char and targets. Raises TinyLMError where there is nothing to predict.
    """
    check_ids(ids, model.config.vocab_size)
    nats: list[float | None] = [None]
    top: list[Candidates | None] = [None]
    total = 0.0
    for inputs, wanted, counts in text_windows(model, np.asarray(ids, np.int32)):
        losses, logits = _read(model, inputs, wanted, int(counts.sum()))
        check(bool(np.isfinite(losses).all()), NOT_FINITE)
        total += float(losses.sum(dtype=np.float64))
        nats += losses.tolist()
        top += likeliest(logits, EXPECTED)
        yield
    targets = len(ids) - 1
    characters = targets if tokenizer.alphabet is not None else max(1, len(tokenizer.decode(list(ids[1:]))))
    mean = total / targets
    bits = mean * targets / characters / math.log(2)
    return {"ids": list(ids), "nats": nats, "top": top, "mean": mean, "bits_per_char": bits, "targets": targets}


def _read(
    model: LanguageModel, inputs: npt.NDArray[np.int32], wanted: npt.NDArray[np.int32], count: int
) -> tuple[Array, Array]:
    """(B, T) twice -> the losses (count,) that `eval` adds up, and the logits (count, V) behind them."""
    rows = math.ceil(count / inputs.shape[1])
    if model.backend == "numpy":  # a window is read by itself, so that the padding below the last can be left out
        logits = model.logits(inputs[:rows])
        losses = np.stack([cross_entropy(*each) for each in zip(logits, wanted[:rows], strict=True)])
    else:
        losses, logits = model.losses(inputs, wanted), model.logits(inputs)
    return losses.reshape(-1)[:count], logits.reshape(-1, logits.shape[-1])[:count]


def likeliest(logits: Array, count: int) -> list[Candidates]:
    """(N, V) -> for each row the [id, probability] of the likeliest, the lower id first of equal ones."""
    return chosen(probabilities(logits), count)


def chosen(chances: Array, count: int) -> list[Candidates]:
    """The same of probabilities (N, V)."""
    order = np.argsort(-chances, axis=-1, kind="stable")[:, :count]
    found = np.take_along_axis(chances, order, -1)
    return [
        [[id, brief(p)] for id, p in zip(*row, strict=True)] for row in zip(order.tolist(), found.tolist(), strict=True)
    ]


def held_out(subject: Subject, seed: int) -> dict[str, Any]:
    """A window of held-out text (T,), the same for one seed; it begins with a line where there is one.

    `model` and `counter` (T - 1) are the probabilities that each id had, given all before it; `model_top` and
    `counter_top` what was likeliest. Raises TinyLMError where the text is not here.
    """
    data = subject.dataset
    if data is None or len(data.validation) < 2:
        check(False, "the text that this model was trained on is not here, so there is no held-out text to guess at")
    assert data is not None
    length = min(WINDOW, subject.longest, len(data.validation))
    last = len(data.validation) - length
    start = int(np.random.default_rng(seed).integers(0, last + 1))
    around = data.validation[start : min(start + length, last + 1)].tolist()
    lines = (start + i + 1 for i, id in enumerate(around) if "\n" in subject.vocabulary[id])
    start = min(next(lines, start), last)
    ids = data.validation[start : start + length].astype(np.int32)
    answer: dict[str, Any] = {"ids": ids.tolist(), "counter": None, "counter_top": None}
    answer |= _told("model", probabilities(subject.model.logits(ids[None])[0]), ids)
    return answer | _told("counter", subject.counter.probabilities(ids), ids) if subject.counter else answer


def _told(who: str, chances: Array, ids: npt.NDArray[np.int32]) -> dict[str, Any]:
    given = chances[np.arange(len(ids) - 1), ids[1:]]
    return {who: [brief(p) for p in given.tolist()], f"{who}_top": chosen(chances[:-1], TOP)}
