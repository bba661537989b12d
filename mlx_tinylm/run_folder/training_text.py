"""The text a model was trained on: what a folder says of it, and where it lies now."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.model_folder.trained_on import TextRecord, recorded_text
from mlx_tinylm.run_folder.record import BEFORE, RunRecord
from mlx_tinylm.text.corpus import Corpus, open_corpus, open_named
from mlx_tinylm.text.fetching import is_address, is_fetched
from mlx_tinylm.text.named_corpora import NAMED, is_kept
from mlx_tinylm.text.reading import UTF_8, Reading
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
        if named.sha256 == known.sha256 and not known.validated_on:
            return open_named(name)
    if record is None and known.validated_on:
        name = quoted(known.validated_on)
        raise TinyLMError(f"{weights}: the text it was validated on, {name}, is not here; give it with --data")
    if record is None:
        name = quoted(known.name)
        raise TinyLMError(f"{weights}: the text it was trained on, {name}, is not here; give it or another with --data")
    text = record.opened(weights)  # or it says what is missing
    if record.is_of(text):  # it had to be fetched again
        return text
    raise TinyLMError(
        f"{text.name}: has changed since the model in {weights} was trained on it; give a text with --data"
    )


def text_at_hand(folder: Path) -> Corpus | None:
    """The text the model in a folder was trained on, if it is here and has the recorded SHA-256.

    Nothing is fetched, and nothing raised.
    """
    with suppress(TinyLMError, OSError):
        known, record = trained_on(folder), RunRecord.find(folder)
        with suppress(TinyLMError, OSError):
            if record and all(map(_is_at_hand, [*record.data, *record.val_data])):
                text = record.opened(folder)
                if record.is_of(text):
                    return text
        if known and not known.validated_on:
            name = next((name for name, named in NAMED.items() if named.sha256 == known.sha256), None)
            if name and is_kept(name):
                return open_named(name)
    return None


def as_trained(folder: Path, data: Sequence[str], reading: Reading = UTF_8) -> tuple[Corpus, bool]:
    """The text of `data`, and whether it is what the model in a folder was trained on; then as that was read.

    Raises TinyLMError where it cannot be read.
    """
    known, before = None, None
    with suppress(TinyLMError):  # a damaged record says nothing of this text
        known, record = trained_on(folder), RunRecord.find(folder)
        before = record.reading if record else BEFORE
    corpus = open_corpus(data, reading)
    if known and before and corpus.sha256 != known.sha256 and reading != before:
        with suppress(TinyLMError):
            found = open_corpus(data, before)
            if found.sha256 == known.sha256:
                return found, True
    return corpus, known is not None and known.sha256 == corpus.sha256


def is_validated_elsewhere(folder: Path) -> bool:
    """Whether the model in a folder was trained on all of its text, and validated on another; nothing is raised."""
    with suppress(TinyLMError):
        known = trained_on(folder)
        return known is not None and bool(known.validated_on)
    return False


def trained_on(folder: Path) -> TextRecord | None:
    """What is recorded of the text that the model in a folder was trained on; None where nothing is.

    Raises TinyLMError where the record is damaged.
    """
    if record := RunRecord.find(folder):
        other = record.val_corpus.name if record.val_corpus else ""
        return dataclasses.replace(record.corpus, validated_on=other)
    return recorded_text(folder)


def _is_at_hand(item: str) -> bool:
    """Whether what a run read has not to be fetched."""
    if item in NAMED:
        return is_kept(item)
    return not is_address(item) or is_fetched(item)
