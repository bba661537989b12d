"""How good a model is, measured on a text: what `eval` says."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from mlx_tinylm.answers import exact_answers
from mlx_tinylm.backend.choose import load_model
from mlx_tinylm.checks import check
from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.generation import NOT_FINITE
from mlx_tinylm.mean_loss import Evaluation, evaluate
from mlx_tinylm.memorised import memorised_share
from mlx_tinylm.model_folder.folder import ModelFolder, open_folder
from mlx_tinylm.run_folder.training_text import (
    as_trained,
    is_validated_elsewhere,
    text_at_hand,
    trained_on,
    training_text,
)
from mlx_tinylm.text.corpus import Corpus
from mlx_tinylm.text.ids import encode_part
from mlx_tinylm.text.named_corpora import NAMED
from mlx_tinylm.text.ngrams import ngram_losses
from mlx_tinylm.text.pair_ids import check_fit, encode_part_of_pairs
from mlx_tinylm.text.pairs import PairCorpus
from mlx_tinylm.text.reading import UTF_8, Reading
from mlx_tinylm.text.tokenizer import quoted
from mlx_tinylm.watch import WatchStages, unwatched

ALL = "all"
NEW_TO_IT = ", as the model was trained on the rest"
KNOWN_TO_IT = f"{ALL}, and the model was trained on all of it"


@dataclass(frozen=True)
class EvaluationReport:
    """What `eval` says of a model folder."""

    weights: Path
    text: str
    part: str  # of the text; it begins with ALL where nothing is left out
    backend: str
    evaluation: Evaluation
    # Where they were asked for: in nats, of 1-gram, 2-gram, ... models of the training text; and the part of what
    # the model writes that stands in that text.
    ngram_losses: tuple[float, ...] = ()
    memorised: float | None = None
    # Of pairs, how many there are, and how many are answered as is wanted; the loss is that of completions.
    pairs: int | None = None
    exact_answers: int | None = None

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
            "bits_per_byte": self.evaluation.bits_per_byte,
        }
        found |= {f"{n}_gram_loss": loss for n, loss in enumerate(self.ngram_losses, start=1)}
        more = {"memorised": self.memorised, "exact_answers": self.exact_answers, "pairs": self.pairs}
        return found | {name: value for name, value in more.items() if value is not None}

    def rows(self) -> list[tuple[str, Any]]:
        """The same as labels and values."""
        found = self.to_json()
        if self.pairs is not None:
            found["exact_answers"] = f"{self.exact_answers:,} of {found.pop('pairs'):,}"
        return list(found.items())


def evaluate_text(
    weights: Path,
    data: Sequence[str],
    backend: str,
    baselines: bool = False,
    memorised: bool = False,
    watch: WatchStages = unwatched,
    reading: Reading = UTF_8,
) -> EvaluationReport:
    """Evaluate a model folder: on the held-out part of a named corpus, or on the whole of other text.

    Without `data` it is the text the model was trained on. Of that text, told by its SHA-256 wherever it lies, it is
    the held-out part, too. `baselines` adds the losses of n-gram models of the rest of it, `memorised` the share of
    what the model writes that stands there. Of pairs, completions are measured, and exact answers counted.
    `watch` is told of "loss", "answers", "baselines" and "memorised" as `evaluate` tells it. Raises TinyLMError where a
    text is missing, and where a loss is not finite.
    """
    folder = open_folder(weights)
    tokenizer = folder.tokenizer
    corpus, part = _measured(weights, data, reading)
    if isinstance(corpus, PairCorpus):
        check(
            not baselines and not memorised, f"{corpus.name}: --baselines and --memorised are for text, not for pairs"
        )
        return _answers(folder, corpus, part, backend, watch)
    text = encode_part(corpus, tokenizer, "all" if part.startswith(ALL) else "held_out", partial(watch, "encoding"))
    learned = _learned(weights, corpus, part) if baselines or memorised else corpus
    model = load_model(folder, backend, spread=True)
    watch("loss", 0, max(len(text.ids) - 1, 0))
    evaluation = evaluate(model, text.ids, characters=text.characters, bytes=text.bytes, watch=partial(watch, "loss"))
    if not math.isfinite(evaluation.loss):
        raise TinyLMError(NOT_FINITE)
    vocab_size = folder.config.vocab_size
    losses: list[float] = []
    if baselines:
        train = encode_part(learned, tokenizer, "train").ids
        losses = ngram_losses(train, text.ids, vocab_size, watch=partial(watch, "baselines"))
    known = None
    if memorised:  # set up anew, for generation
        writer, pieces = load_model(folder, backend), learned.chunks("train")
        known = memorised_share(writer, tokenizer, pieces, partial(watch, "memorised"))
    return EvaluationReport(weights, corpus.name, part, model.backend, evaluation, tuple(losses), known)


def _answers(folder: ModelFolder, corpus: PairCorpus, part: str, backend: str, watch: WatchStages) -> EvaluationReport:
    """Evaluate a model folder on pairs: the loss of their completions, and how many come out exactly."""
    chosen = "all" if part.startswith(ALL) else "held_out"
    pairs = encode_part_of_pairs(corpus, folder.tokenizer, chosen, partial(watch, "encoding"))
    check_fit(corpus.name, pairs.longest, folder.config.context)
    model = load_model(folder, backend, spread=True)
    watch("loss", 0, pairs.targets)
    evaluation = evaluate(model, pairs, watch=partial(watch, "loss"))
    if not math.isfinite(evaluation.loss):
        raise TinyLMError(NOT_FINITE)
    exact = exact_answers(model, pairs, partial(watch, "answers"))
    return EvaluationReport(
        folder.path, corpus.name, part, model.backend, evaluation, pairs=len(pairs), exact_answers=exact
    )


def _measured(weights: Path, data: Sequence[str], reading: Reading) -> tuple[Corpus, str]:
    """What is to be measured, and which part of it."""
    if not data:
        corpus = training_text(weights)
        return corpus, corpus.held_out_part
    corpus, known = as_trained(weights, data, reading)
    if known:
        return corpus, KNOWN_TO_IT if is_validated_elsewhere(weights) else corpus.held_out_part + NEW_TO_IT
    return corpus, corpus.held_out_part if all(item in NAMED for item in data) else ALL


def _learned(weights: Path, measured: Corpus, part: str) -> Corpus:
    """The text the model was trained on; if nothing tells which, a named corpus that is measured by its held-out part.

    Raises TinyLMError where it is not here.
    """
    known = trained_on(weights)
    if (known and known.sha256 == measured.sha256) or (known is None and not part.startswith(ALL)):
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
