"""How good a model is: the mean loss of a text, every target counted once.

Shapes: N ids, B batch, T time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from mlx_tinylm.backend.choose import LanguageModel, load_model
from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.generation import NOT_FINITE
from mlx_tinylm.memorised import memorised_share
from mlx_tinylm.model_folder.folder import open_folder
from mlx_tinylm.run_folder.training_text import text_at_hand, trained_on, training_text
from mlx_tinylm.text.corpus import Corpus, open_corpus
from mlx_tinylm.text.ids import Dataset, Ids, encode
from mlx_tinylm.text.named_corpora import NAMED
from mlx_tinylm.text.ngrams import ngram_losses
from mlx_tinylm.text.tokenizer import quoted

Watch: TypeAlias = Callable[[int, int], None]  # is told how much is done, and of how much; may raise to stop
WatchStages: TypeAlias = Callable[[str, int, int], None]  # the same, and of what
BATCH = 16  # windows
LOGITS_AT_ONCE = 1 << 24  # numbers; bounds the memory where the vocabulary is large
LONGEST_WINDOW = 4096  # ids; attention needs memory for the square, and a config.json may claim any context


@dataclass(frozen=True)
class Evaluation:
    """The mean cross-entropy of `targets` predictions, in nats an id; they stand for `characters` characters."""

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
    model: LanguageModel,
    ids: Ids,
    context: int | None = None,
    characters: int | None = None,
    watch: Watch = lambda done, total: None,
) -> Evaluation:
    """The mean loss of `ids` (N,), read in non-overlapping windows; the last one may be shorter.

    The model is always asked for a batch of one shape (B, T), and what pads it is left out of the mean. A window
    is as long as the model's context, unless told; a target stands for one character, unless told.
    `watch` is called after each batch with the targets done and those there are in all; it may raise to stop.
    A loss that is not finite is returned as it is. Raises TinyLMError where there is nothing to predict.
    """
    total, done, targets = 0.0, 0, len(ids) - 1
    for inputs, wanted, count in batches(model, ids, context):
        total += float(model.losses(inputs, wanted).reshape(-1)[:count].sum(dtype=np.float64))
        done += count
        watch(done, targets)
    return Evaluation(total / targets, targets, characters or targets)


def batches(
    model: LanguageModel, ids: Ids, context: int | None = None
) -> Iterator[tuple[npt.NDArray[np.int32], npt.NDArray[np.int32], int]]:
    """What `evaluate` reads of `ids` (N,): inputs (B, T), targets (B, T), how many of these count, from the first on.

    Raises TinyLMError where there is nothing to predict.
    """
    left = targets = len(ids) - 1
    if targets < 1:
        raise TinyLMError("the text is too short to evaluate: a model predicts from the second character on")
    T = min(context or min(model.config.context, LONGEST_WINDOW), targets)
    B = max(1, min(BATCH, LOGITS_AT_ONCE // (T * model.config.vocab_size)))
    windows = math.ceil(targets / T)
    padded = np.zeros(windows * T + 1, np.int32)
    padded[: len(ids)] = ids
    inputs, wanted = padded[:-1].reshape(windows, T), padded[1:].reshape(windows, T)
    for first in range(0, windows, B):
        rows = min(B, windows - first)
        batch = np.zeros((2, B, T), np.int32)
        batch[0, :rows], batch[1, :rows] = inputs[first : first + rows], wanted[first : first + rows]
        count = min(left, rows * T)
        left -= count
        yield batch[0], batch[1], count


ALL, HELD_OUT = "all", "held-out tenth"
NEW_TO_IT = f"{HELD_OUT}, as the model was trained on the rest"


@dataclass(frozen=True)
class EvaluationReport:
    """What `eval` says of a model folder."""

    weights: Path
    text: str
    part: str  # of the text: ALL, HELD_OUT or NEW_TO_IT
    backend: str
    evaluation: Evaluation
    # Where they were asked for: in nats, of 1-gram, 2-gram, ... models of the training text; and the part of what
    # the model writes that stands in that text.
    ngram_losses: tuple[float, ...] = ()
    memorised: float | None = None

    def to_json(self) -> dict[str, Any]:
        """One flat object."""
        found: dict[str, Any] = {
            "weights": str(self.weights),
            "text": self.text,
            "part": self.part,
            "backend": self.backend,
            "targets": self.evaluation.targets,
            "loss": self.evaluation.loss,
            "perplexity": self.evaluation.perplexity,
            "bits_per_char": self.evaluation.bits_per_char,
        }
        found |= {f"{n}_gram_loss": loss for n, loss in enumerate(self.ngram_losses, start=1)}
        return found if self.memorised is None else found | {"memorised": self.memorised}

    def rows(self) -> list[tuple[str, Any]]:
        """The same as labels and values."""
        return list(self.to_json().items())


def evaluate_text(
    weights: Path,
    data: Sequence[str],
    backend: str,
    baselines: bool = False,
    memorised: bool = False,
    watch: WatchStages = lambda stage, done, total: None,
) -> EvaluationReport:
    """Evaluate a model folder: on the held-out tenth of a named corpus, or on the whole of other text.

    Without `data` it is the text the model was trained on. Of that text, told by its SHA-256 wherever it lies, it is
    the held-out tenth, too. `baselines` adds the losses of n-gram models of the other nine tenths, `memorised` the
    share of what the model writes that stands there. `watch` is told of "loss", "baselines" and "memorised" as
    `evaluate` tells it. Raises TinyLMError where a text is missing, and where a loss is not finite.
    """
    folder = open_folder(weights)
    tokenizer = folder.tokenizer
    corpus, part = _measured(weights, data)
    dataset = Dataset(encode(corpus, tokenizer))
    ids = dataset.ids if part == ALL else dataset.validation
    learned = _learned(weights, corpus, part) if baselines or memorised else corpus
    train = dataset.train if learned is corpus else Dataset(encode(learned, tokenizer)).train
    model = load_model(folder, backend, spread=True)
    characters = None if tokenizer.alphabet is not None else len(tokenizer.decode(ids[1:].tolist()))
    watch("loss", 0, max(len(ids) - 1, 0))
    evaluation = evaluate(model, ids, characters=characters, watch=partial(watch, "loss"))
    if not math.isfinite(evaluation.loss):
        raise TinyLMError(NOT_FINITE)
    vocab_size = folder.config.vocab_size
    losses = ngram_losses(train, ids, vocab_size, watch=partial(watch, "baselines")) if baselines else []
    known = None
    if memorised:  # set up anew, for generation
        writer, text = load_model(folder, backend), tokenizer.decode(train.tolist())
        known = memorised_share(writer, tokenizer, text, partial(watch, "memorised"))
    return EvaluationReport(weights, corpus.name, part, model.backend, evaluation, tuple(losses), known)


def _measured(weights: Path, data: Sequence[str]) -> tuple[Corpus, str]:
    """What is to be measured, and which part of it."""
    if not data:
        return training_text(weights), HELD_OUT
    corpus = open_corpus(data)
    with suppress(TinyLMError):  # a damaged record says nothing of this text
        if (known := trained_on(weights)) and known.sha256 == corpus.sha256:
            return corpus, NEW_TO_IT
    return corpus, HELD_OUT if all(item in NAMED for item in data) else ALL


def _learned(weights: Path, measured: Corpus, part: str) -> Corpus:
    """The text the model was trained on; if nothing tells which, a named corpus that is measured by its held-out tenth.

    Raises TinyLMError where it is not here.
    """
    known = trained_on(weights)
    if (known and known.sha256 == measured.sha256) or (known is None and part == HELD_OUT):
        return measured
    if text := text_at_hand(weights):
        return text
    if known is None:
        raise TinyLMError(
            f"{weights}: says nothing of its text, which --baselines and --memorised need; leave them out"
        )
    raise TinyLMError(
        f"{weights}: --baselines and --memorised need the text it was trained on, {quoted(known.name)}, which is not "
        "here; give that text with --data"
    )
