"""The text a model was trained on: what a folder says of it, and where it lies now."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.model_folder.trained_on import TextRecord, recorded_text
from mlx_tinylm.run_folder.record import RunRecord
from mlx_tinylm.text.corpus import Corpus, open_corpus, open_named
from mlx_tinylm.text.named_corpora import NAMED, is_kept
from mlx_tinylm.text.tokenizer import quoted


def training_text(weights: Path) -> Corpus:
    """The text the model in a folder was trained on, fetched if it is a named corpus that is not kept yet.

    Raises TinyLMError where the folder does not say, or says it in a damaged record, and where the text is gone or
    has changed since.
    """
    try:
        known, record = trained_on(weights), RunRecord.find(weights)
    except TinyLMError as error:
        raise TinyLMError(f"{error}; give a text with --data") from None
    if known is None:
        raise TinyLMError(f"{weights}: says nothing of the text it was trained on; give a text with --data")
    if text := text_at_hand(weights):
        return text
    for name, named in NAMED.items():
        if named.sha256 == known.sha256:
            return open_named(name)
    if record is None:
        name = quoted(known.name)
        raise TinyLMError(f"{weights}: the text it was trained on, {name}, is not here; give it or another with --data")
    name = open_corpus(record.sources(weights)).name  # or it says what is missing
    raise TinyLMError(f"{name}: has changed since the model in {weights} was trained on it; give a text with --data")


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
