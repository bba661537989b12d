"""The text that a run is made from: as ids, and where to find it again."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from pathlib import Path

from mlx_tinylm.errors import TinyLMError, escaped
from mlx_tinylm.files import write_atomically
from mlx_tinylm.integrity import sha256_of
from mlx_tinylm.run_folder.folder import TEXT
from mlx_tinylm.run_folder.record import RunRecord
from mlx_tinylm.run_folder.settings import TrainConfig
from mlx_tinylm.text.corpus import Corpus, open_corpus
from mlx_tinylm.text.ids import Dataset, UnknownCharactersError, check_length, encode
from mlx_tinylm.text.named_corpora import NAMED
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


def kept_sources(writing: Path, folder: Path, corpus: Corpus, data: Sequence[str]) -> tuple[str, ...]:
    """What to open the text with again. What came through a pipe is written into the folder `writing`, which becomes
    `folder`; raises TinyLMError where there is such a text, of another run.
    """
    if all(item in NAMED or (item != "-" and (os.path.isfile(item) or os.path.isdir(item))) for item in data):
        own = (folder / TEXT).resolve()
        places = (item if item in NAMED else Path(item).resolve() for item in data)
        return tuple(TEXT if place == own else str(place) for place in places)  # its own stays so when the run moves
    if (folder / TEXT).exists() and sha256_of(folder / TEXT) != corpus.sha256:
        raise TinyLMError(
            f"{folder / TEXT}: is another text, perhaps the only copy of what came through a pipe; "
            "move it, or choose another --out"
        )
    if not (folder / TEXT).exists():
        write_atomically(writing / TEXT, corpus.text())
    return (TEXT,)


def same_text(folder: Path, record: RunRecord, data: Sequence[str] | None) -> Corpus:
    """The text that the run began with; raises TinyLMError where it has changed."""
    corpus = open_corpus(data or record.sources(folder))
    if corpus.sha256 != record.corpus.sha256:
        raise TinyLMError(
            f"{folder}: was trained on another text than {corpus.name} is now; say with --data where the same text is, "
            f"or start another run with --init-from {folder}"
        )
    return corpus
