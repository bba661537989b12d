"""How good a model is: the mean loss over a whole split, every target counted once.

Shapes: N ids, B batch, T time, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mlx_tinylm.corpus import DEFAULT_CORPUS, NAMED, open_corpus
from mlx_tinylm.dataset import Dataset, encode_corpus
from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.files import read_json
from mlx_tinylm.generation import LanguageModel, load_model
from mlx_tinylm.weights import open_folder

Losses = Callable[[npt.NDArray[np.int32], npt.NDArray[np.int32]], npt.NDArray[np.float32]]
LOGITS_AT_ONCE = 1 << 24  # numbers; bounds the memory where the vocabulary is large


@dataclass(frozen=True)
class Evaluation:
    """The mean cross-entropy of `targets` predictions, in nats an id."""

    loss: float
    targets: int
    characters: int

    @property
    def perplexity(self) -> float:
        return math.exp(min(self.loss, 700.0))

    @property
    def bits_per_char(self) -> float:
        return self.loss * self.targets / self.characters / math.log(2)


def evaluate(
    losses: Losses,
    ids: npt.NDArray[Any],
    context: int,
    batch_size: int = 16,
    characters: int | None = None,
) -> Evaluation:
    """Mean loss over non-overlapping windows of `context`; the last one may be shorter.

    `losses` maps inputs and targets (B, T) to the loss of each target (B, T) in nats; every call has the
    same shape, padding is left out of the mean. `characters` is how many characters the targets stand for.
    """
    targets = len(ids) - 1
    if targets < 1:
        raise TinyLMError("the text is too short to evaluate: a model predicts from the second character on")
    windows = math.ceil(targets / context)
    padded = np.zeros(windows * context + 1, np.int32)
    padded[: len(ids)] = ids
    inputs, wanted = padded[:-1].reshape(windows, context), padded[1:].reshape(windows, context)
    total, left = 0.0, targets
    for first in range(0, windows, batch_size):
        rows = min(batch_size, windows - first)
        batch = np.zeros((2, batch_size, context), np.int32)
        batch[0, :rows], batch[1, :rows] = inputs[first : first + rows], wanted[first : first + rows]
        values = losses(batch[0], batch[1])[:rows].reshape(-1)[:left]
        total += float(values.sum(dtype=np.float64))
        left -= values.size
    return Evaluation(total / targets, targets, characters or targets)


def evaluate_model(model: LanguageModel, ids: npt.NDArray[Any], characters: int | None = None) -> Evaluation:
    """`evaluate` for a loaded model on either back end."""
    context = min(model.config.context, max(1, len(ids) - 1))
    batch_size = max(1, min(16, LOGITS_AT_ONCE // (context * model.config.vocab_size)))
    return evaluate(
        lambda inputs, targets: cross_entropy(model.logits(inputs), targets),
        ids,
        context,
        batch_size,
        characters,
    )


def evaluate_text(weights: Path, data: Sequence[str], backend: str) -> dict[str, Any]:
    """Evaluate a model folder: on the held-out tenth of a named corpus, or on the whole of other text.

    Without `data` it is the text the model was trained on, and there the held-out tenth.
    """
    folder = open_folder(weights)
    model = load_model(folder, backend)
    trained_on = recorded_data(weights)
    corpus = open_corpus(data or trained_on)
    held_out = not data or all(item in NAMED for item in data)
    tokenizer = folder.tokenizer
    dataset = Dataset(encode_corpus(corpus, tokenizer))
    ids = dataset.validation if held_out else dataset.ids
    characters = len(ids) - 1 if tokenizer.alphabet is not None else len(tokenizer.decode(ids.tolist()))
    result = evaluate_model(model, ids, characters)
    return {
        "weights": str(weights),
        "text": corpus.name,
        "part": "held-out tenth" if held_out else "all",
        "backend": model.backend,
        "targets": result.targets,
        "loss": result.loss,
        "perplexity": result.perplexity,
        "bits_per_char": result.bits_per_char,
    }


def recorded_data(weights: Path) -> list[str]:
    """What the model in a folder was trained on, or the default corpus where that is not recorded."""
    try:
        data = read_json(weights / "train.json")["data"]
        return [str(item) for item in data]
    except (TinyLMError, KeyError, TypeError):
        return [DEFAULT_CORPUS]


def cross_entropy(logits: npt.NDArray[np.float32], targets: npt.NDArray[np.int32]) -> npt.NDArray[np.float32]:
    """(B, T, V) and (B, T) -> (B, T) nats"""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    chosen = np.take_along_axis(shifted, targets[..., None], axis=-1)[..., 0]
    losses: npt.NDArray[np.float32] = np.log(np.exp(shifted).sum(axis=-1)) - chosen
    return losses
