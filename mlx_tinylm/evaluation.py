"""How good a model is: the mean loss of a text, every target counted once.

Shapes: N ids, B batch, T time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from mlx_tinylm.backend.choose import LanguageModel, load_model
from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.generation import NOT_FINITE
from mlx_tinylm.memorised import memorised_share
from mlx_tinylm.model_folder.folder import open_folder
from mlx_tinylm.model_folder.trained_on import TextRecord, recorded_text
from mlx_tinylm.run_folder.record import RunRecord
from mlx_tinylm.text.corpus import Corpus, open_corpus
from mlx_tinylm.text.ids import Dataset, Ids, encode
from mlx_tinylm.text.named_corpora import DEFAULT_CORPUS, NAMED, is_kept
from mlx_tinylm.text.ngrams import ngram_losses

Watch: TypeAlias = Callable[[int, int], None]  # is told how much is done, and of how much; may raise to stop
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
    left = targets = len(ids) - 1
    if targets < 1:
        raise TinyLMError("the text is too short to evaluate: a model predicts from the second character on")
    T = min(context or min(model.config.context, LONGEST_WINDOW), targets)
    B = max(1, min(BATCH, LOGITS_AT_ONCE // (T * model.config.vocab_size)))
    windows = math.ceil(targets / T)
    padded = np.zeros(windows * T + 1, np.int32)
    padded[: len(ids)] = ids
    inputs, wanted = padded[:-1].reshape(windows, T), padded[1:].reshape(windows, T)
    total = 0.0
    for first in range(0, windows, B):
        rows = min(B, windows - first)
        batch = np.zeros((2, B, T), np.int32)
        batch[0, :rows], batch[1, :rows] = inputs[first : first + rows], wanted[first : first + rows]
        values = model.losses(batch[0], batch[1])[:rows].reshape(-1)[:left]
        total += float(values.sum(dtype=np.float64))
        left -= values.size
        watch(targets - left, targets)
    return Evaluation(total / targets, targets, characters or targets)


@dataclass(frozen=True)
class EvaluationReport:
    """What `eval` says of a model folder."""

    weights: Path
    text: str
    part: str  # of the text: "all" or "held-out tenth"
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
    weights: Path, data: Sequence[str], backend: str, baselines: bool = False, memorised: bool = False
) -> EvaluationReport:
    """Evaluate a model folder: on the held-out tenth of a named corpus, or on the whole of other text.

    Without `data` it is the text the model was trained on, and there the held-out tenth. `baselines` adds the losses
    of n-gram models of the other nine tenths, `memorised` the share of what the model writes that stands there.
    Raises TinyLMError where the text is not what the model was trained on, and where a loss is not finite.
    """
    held_out = all(item in NAMED for item in data)
    if (baselines or memorised) and not held_out:
        raise TinyLMError("--baselines and --memorised need the text the model was trained on; leave out --data")
    folder = open_folder(weights)
    model = load_model(folder, backend, spread=True)
    corpus = open_corpus(data) if data else training_text(weights)
    tokenizer = folder.tokenizer
    dataset = Dataset(encode(corpus, tokenizer))
    ids = dataset.validation if held_out else dataset.ids
    characters = None if tokenizer.alphabet is not None else len(tokenizer.decode(ids[1:].tolist()))
    evaluation = evaluate(model, ids, characters=characters)
    if not math.isfinite(evaluation.loss):
        raise TinyLMError(NOT_FINITE)
    known = None
    if memorised:  # set up anew, for generation
        known = memorised_share(load_model(folder, backend), tokenizer, tokenizer.decode(dataset.train.tolist()))
    return EvaluationReport(
        weights,
        corpus.name,
        "held-out tenth" if held_out else "all",
        model.backend,
        evaluation,
        tuple(ngram_losses(dataset.train, ids, folder.config.vocab_size)) if baselines else (),
        known,
    )


def training_text(weights: Path) -> Corpus:
    """The text the model in a folder was trained on; the default corpus where no run is recorded, as in an export.

    Raises TinyLMError where the record is damaged, or the text is gone or has changed since.
    """
    try:
        record = RunRecord.find(weights)
    except TinyLMError as error:
        raise TinyLMError(f"{error}; give a text with --data") from None
    corpus = open_corpus(record.sources(weights) if record else [DEFAULT_CORPUS])
    if record and corpus.sha256 != record.corpus.sha256:
        raise TinyLMError(
            f"{corpus.name}: has changed since the model in {weights} was trained on it; give a text with --data"
        )
    return corpus


def text_at_hand(folder: Path) -> Corpus | None:
    """The text the model in a folder was trained on, if it is here and has the recorded SHA-256.

    Nothing is fetched, and nothing raised.
    """
    with suppress(TinyLMError, OSError):
        if known := trained_on(folder):
            for items in _places(folder, known):
                with suppress(TinyLMError, OSError):
                    if all(is_kept(item) for item in items if item in NAMED):
                        corpus = open_corpus(items)
                        if corpus.sha256 == known.sha256:
                            return corpus
    return None


def trained_on(folder: Path) -> TextRecord | None:
    """What is recorded of the text that the model in a folder was trained on; None where nothing is.

    Raises TinyLMError where the record is damaged.
    """
    if record := RunRecord.find(folder):
        return record.corpus
    return recorded_text(folder)


def _places(folder: Path, known: TextRecord) -> Iterator[list[str]]:
    """What the text of a model folder may be opened with: what its run read, or the corpus with the same SHA-256."""
    with suppress(TinyLMError):
        if record := RunRecord.find(folder):
            yield record.sources(folder)
    yield from ([name] for name, named in NAMED.items() if named.sha256 == known.sha256)
