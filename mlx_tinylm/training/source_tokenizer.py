"""Which tokenizer a run is asked for: made for its text, that of another model, or that of the model it begins with."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from pathlib import Path

from mlx_tinylm.checks import check
from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.model_folder.folder import ModelFolder
from mlx_tinylm.run_folder.settings import TrainConfig
from mlx_tinylm.text.byte_level import SUBWORDS
from mlx_tinylm.text.characters import CHARACTERS
from mlx_tinylm.text.trained_tokenizer import tokenizer_of


def with_tokenizer(config: TrainConfig, given: Collection[str]) -> TrainConfig:
    """The settings with the place of a tokenizer that is taken from a folder.

    Raises TinyLMError where there is none, and where `given`, the settings chosen on purpose, would change nothing.
    """
    check(
        config.vocab_size == TrainConfig.vocab_size or "vocab_size" not in given or config.tokenizer == SUBWORDS,
        f"--vocab-size {config.vocab_size} is for --tokenizer bpe; leave it out, or add that",
    )
    if config.tokenizer not in (CHARACTERS, SUBWORDS):
        tokenizer_of(config.tokenizer)
    return dataclasses.replace(config, tokenizer=place_of(config.tokenizer))


def with_tokenizer_of(source: ModelFolder, config: TrainConfig, given: Collection[str]) -> TrainConfig:
    """The settings with the tokenizer of the model to start from; raises TinyLMError where another one is given."""
    has_characters = source.tokenizer.alphabet is not None
    same = config.tokenizer == CHARACTERS and has_characters
    if "tokenizer" in given and config.tokenizer not in (CHARACTERS, SUBWORDS):
        same = tokenizer_of(config.tokenizer).json == source.tokenizer.json
    wrong = [f"--vocab-size {config.vocab_size}"] if "vocab_size" in given else []
    wrong += [f"--tokenizer {config.tokenizer}"] if "tokenizer" in given and not same else []
    if wrong:
        raise TinyLMError(
            f"{' '.join(wrong)}: the model in {source.path} has a tokenizer of its own, with "
            f"{source.tokenizer.vocab_size:,} {source.tokenizer.kind}; leave it out"
        )
    return dataclasses.replace(config, tokenizer=CHARACTERS if has_characters else place_of(str(source.path)))


def place_of(kind: str) -> str:
    """What is recorded of a tokenizer: its kind, or the absolute path of its folder."""
    return kind if kind in (CHARACTERS, SUBWORDS) else str(Path(kind).resolve())
