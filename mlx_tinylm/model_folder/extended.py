"""A model folder that learned more ids: new ones behind the old ones, which keep their vectors and so their logits.

Shapes: V old ids, N new ones, D width.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mlx_tinylm.model_folder.config import ModelConfig
from mlx_tinylm.model_folder.folder import ModelFolder, read_tensors
from mlx_tinylm.model_folder.tensor_files import Tensors


@dataclass(frozen=True)
class ExtendedFolder(ModelFolder):
    """A model folder, with the config and the tokenizer that it is to have from now on; it is not written to."""

    original: ModelConfig  # as its config.json has it

    def tensors(self) -> Tensors:
        """All tensors in the stored layout, with rows for the new ids; the same every time."""
        tensors = read_tensors(self.path, self.original)
        new = self.config.vocab_size - self.original.vocab_size
        known = np.setdiff1d(np.arange(self.original.vocab_size), self.original.suppressed)
        for name in ("wte.weight", "model.embed_tokens.weight", "lm_head.weight"):
            if name in tensors and new:
                tensors[name] = np.concatenate([tensors[name], _like(tensors[name][known], new)])
        return tensors


def extended(source: ModelFolder, characters: str, *, pads: bool) -> ModelFolder:
    """A model folder that knows more `characters`, and if `pads` has a token that pads; itself where nothing is new."""
    tokenizer, config = source.tokenizer.extended(characters, pads=pads), source.config
    new = range(source.tokenizer.vocab_size, tokenizer.vocab_size)
    config = dataclasses.replace(
        config,
        vocab_size=max(config.vocab_size, tokenizer.vocab_size),  # a table may have rows to spare
        suppressed=tuple(sorted({*config.suppressed, *new})),
    )
    return ExtendedFolder(source.path, config, tokenizer, source.config) if new else source


def _like(known: npt.NDArray[np.float32], new: int) -> npt.NDArray[np.float32]:
    """(V, D) vectors that were learned -> (N, D): drawn about their mean, as one more of them might be.

    So a new id is neither far likelier than all others, which random numbers can make it, nor ruled out (Hewitt 2021,
    "Initializing New Word Embeddings for Pretrained Language Models").
    """
    drawn = np.random.default_rng(0).standard_normal((new, known.shape[1]), np.float32)
    vectors: npt.NDArray[np.float32] = known.mean(axis=0) + drawn * known.std(axis=0)
    return vectors
