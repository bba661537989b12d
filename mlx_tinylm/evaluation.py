"""How good a model is: the mean loss over a whole split, every target counted once.

Shapes: N ids, B batch, T time, V vocabulary.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mlx_tinylm.backend.choose import LanguageModel, load_model
from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.files import read_json
from mlx_tinylm.generation import NOT_FINITE, generate
from mlx_tinylm.memorised import verbatim_share
from mlx_tinylm.model_folder.folder import open_folder
from mlx_tinylm.run_folder.record import TEXT
from mlx_tinylm.sampling import SampleConfig
from mlx_tinylm.text.corpus import DEFAULT_CORPUS, NAMED, open_corpus
from mlx_tinylm.text.ids import Dataset, encode_corpus
from mlx_tinylm.text.ngrams import ngram_losses

Losses = Callable[[npt.NDArray[np.int32], npt.NDArray[np.int32]], npt.NDArray[np.float32]]
LOGITS_AT_ONCE = 1 << 24  # numbers; bounds the memory where the vocabulary is large
SAMPLES, SAMPLE_CHARACTERS = 5, 1000  # what is looked for in the training text
LONGEST_WINDOW = 4096  # ids; attention needs memory for the square, and a config.json may claim any context


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
    """`evaluate` for a loaded model on either back end; raises TinyLMError where its output is not finite."""
    context = min(model.config.context, LONGEST_WINDOW, max(1, len(ids) - 1))
    batch_size = max(1, min(16, LOGITS_AT_ONCE // (context * model.config.vocab_size)))

    def losses(inputs: npt.NDArray[np.int32], targets: npt.NDArray[np.int32]) -> npt.NDArray[np.float32]:
        logits = model.logits(inputs)
        if not np.isfinite(logits).all():
            raise TinyLMError(NOT_FINITE)
        return cross_entropy(logits, targets)

    return evaluate(losses, ids, context, batch_size, characters)


def evaluate_text(
    weights: Path, data: Sequence[str], backend: str, baselines: bool = False, memorised: bool = False
) -> dict[str, Any]:
    """Evaluate a model folder: on the held-out tenth of a named corpus, or on the whole of other text.

    Without `data` it is the text the model was trained on, and there the held-out tenth. `baselines` adds the losses
    of n-gram models of the other nine tenths, `memorised` the share of what the model writes that stands there.
    """
    held_out = not data or all(item in NAMED for item in data)
    if (baselines or memorised) and not held_out:
        raise TinyLMError("--baselines and --memorised need the text the model was trained on; leave out --data")
    folder = open_folder(weights)
    model = load_model(folder, backend)
    corpus = open_corpus(data or recorded_data(weights))
    if not data and _recorded(weights).get("sha256", corpus.sha256) != corpus.sha256:
        raise TinyLMError(
            f"{corpus.name}: has changed since the model in {weights} was trained on it; give a text with --data"
        )
    tokenizer = folder.tokenizer
    dataset = Dataset(encode_corpus(corpus, tokenizer))
    ids = dataset.validation if held_out else dataset.ids
    characters = len(ids) - 1 if tokenizer.alphabet is not None else len(tokenizer.decode(ids[1:].tolist()))
    result = evaluate_model(model, ids, characters)
    facts = {
        "weights": str(weights),
        "text": corpus.name,
        "part": "held-out tenth" if held_out else "all",
        "backend": model.backend,
        "targets": result.targets,
        "loss": result.loss,
        "perplexity": result.perplexity,
        "bits_per_char": result.bits_per_char,
    }
    if baselines:
        losses = ngram_losses(dataset.train, dataset.validation, folder.config.vocab_size)
        facts |= {f"{n}_gram_loss": loss for n, loss in enumerate(losses, start=1)}
    if memorised:
        settings = SampleConfig(max_tokens=SAMPLE_CHARACTERS)
        samples = [generate(model, tokenizer, tokenizer.opening, settings, seed=seed) for seed in range(SAMPLES)]
        facts["memorised"] = verbatim_share(tokenizer.decode(dataset.train.tolist()), samples)
    return facts


def recorded_data(weights: Path) -> list[str]:
    """What the model in a folder was trained on, or the default corpus where that is not recorded.

    Raises TinyLMError where it is neither a named corpus nor files that are still there.
    """
    data = _recorded(weights).get("data", [DEFAULT_CORPUS])
    data = [str(weights / TEXT) if item == TEXT else str(item) for item in data]
    for item in data:
        if item not in NAMED and not os.path.isfile(item) and not os.path.isdir(item):  # a pipe or "-" would wait
            name = repr(item[:200])
            raise TinyLMError(f"{weights}: the text it was trained on, {name}, is not here; give a text with --data")
    return data


def _recorded(weights: Path) -> dict[str, Any]:
    """What train.json says of the text; nothing where there is none, as in weights that were exported."""
    try:
        raw = read_json(weights / "train.json")
        found: dict[str, Any] = {"data": list(raw["data"])}
    except (TinyLMError, KeyError, TypeError):
        return {}
    corpus = raw.get("corpus")
    return found | ({"sha256": corpus["sha256"]} if isinstance(corpus, dict) and "sha256" in corpus else {})


def cross_entropy(logits: npt.NDArray[np.float32], targets: npt.NDArray[np.int32]) -> npt.NDArray[np.float32]:
    """(B, T, V) and (B, T) -> (B, T) nats"""
    with np.errstate(over="ignore"):  # minus infinity, whose exponential is the right 0
        shifted = logits - logits.max(axis=-1, keepdims=True)
    chosen = np.take_along_axis(shifted, targets[..., None], axis=-1)[..., 0]
    losses: npt.NDArray[np.float32] = np.log(np.exp(shifted).sum(axis=-1)) - chosen
    return losses
