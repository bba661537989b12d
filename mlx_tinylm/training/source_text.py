"""The text that a run is made from: as ids, and where to find it again."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

from mlx_tinylm.errors import TinyLMError, escaped
from mlx_tinylm.run_folder.record import RunRecord
from mlx_tinylm.run_folder.settings import TrainConfig
from mlx_tinylm.text.corpus import Corpus
from mlx_tinylm.text.ids import Dataset, UnknownCharactersError, check_length, encode
from mlx_tinylm.text.pair_ids import PairDataset, check_pairs, encode_pairs
from mlx_tinylm.text.pairs import PairCorpus
from mlx_tinylm.text.tokenizer import Tokenizer
from mlx_tinylm.watch import WatchStages, unwatched


def encoded(
    corpus: Corpus,
    tokenizer: Tokenizer,
    config: TrainConfig,
    origin: Path | None = None,
    *,
    watch: WatchStages = unwatched,
) -> Dataset | PairDataset:
    """The text as ids; raises TinyLMError where it is too short, or the tokenizer, of the model `origin`, lacks
    characters of it.
    """
    try:
        if isinstance(corpus, PairCorpus):
            pairs = encode_pairs(corpus, tokenizer, functools.partial(watch, "encoding"))
            check_pairs(corpus.name, pairs, config.context)
            return pairs
        dataset = encode(corpus, tokenizer, functools.partial(watch, "encoding"))
    except UnknownCharactersError as error:
        if not origin:
            raise
        raise TinyLMError(
            f"{corpus.name}: has {len(error.characters)} characters that the model in {origin} does not know: "
            f"{escaped(error.characters, keep='')[:200]}. Remove them from the text, add "
            "--extend-alphabet, or train from the start without --init-from"
        ) from None
    check_length(corpus.name, dataset, config.context)
    return dataset


def same_text(
    folder: Path, record: RunRecord, data: Sequence[str] | None, val_data: Sequence[str] | None, watch: WatchStages
) -> Corpus:
    """The text that the run began with; raises TinyLMError where it has changed."""
    corpus = record.opened(folder, data, val_data, watch)
    if record.is_of(corpus):
        return corpus
    text, how, option = corpus, "trained", "--data"
    if corpus.sha256 == record.corpus.sha256:  # it is the other one that has changed
        if corpus.validation is None or record.val_corpus is None:
            raise TinyLMError(
                f"{folder}: was validated on a part of its own text, which cannot change on --resume; leave --val-data "
                f"out, or start another run with --init-from {folder}"
            )
        text, how, option = corpus.validation, "validated", "--val-data"
    raise TinyLMError(
        f"{folder}: was {how} on another text than {text.name} is now; say with {option} where the same text is, "
        f"or start another run with --init-from {folder}"
    )
