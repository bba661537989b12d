"""An export read back: its logits beside those of its source, and what that means for the loss of a text.

Shapes: T time, V vocabulary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mlx_tinylm.backend.choose import LanguageModel
from mlx_tinylm.backend.devices import prepare_if_possible
from mlx_tinylm.backend.numpy_model import NumpyModel
from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.mean_loss import evaluate
from mlx_tinylm.model_folder.config import ModelConfig
from mlx_tinylm.model_folder.folder import ModelFolder, open_folder
from mlx_tinylm.model_folder.tensor_files import Tensors
from mlx_tinylm.text.corpus import Corpus
from mlx_tinylm.text.ids import Ids, encode_part
from mlx_tinylm.text.pair_ids import Pairs, encode_part_of_pairs
from mlx_tinylm.text.pairs import PairCorpus

LONGEST_CHECK = 256  # ids, for logits
MOST_LOGITS = 1 << 24
MOST_IDS = 1 << 13  # for the loss: a second or so of a small model's time
MOST_PAIRS = 256


@dataclass(frozen=True)
class Losses:
    """The loss of one text in nats an id, by a model and by its export."""

    text: str
    part: str  # of the text, in words
    before: float
    after: float


def logits_apart(source: ModelFolder, stored: Tensors, folder: Path) -> tuple[float, float]:
    """The largest difference between two logits of a model and its export, and the standard deviation of the model's.

    `stored` are the source's tensors. Raises TinyLMError where the export cannot be opened, or the source is damaged.
    """
    V = source.config.vocab_size
    T = min(source.config.context, LONGEST_CHECK, max(1, MOST_LOGITS // V))
    ids = np.random.default_rng(0).integers(0, V, (1, T))
    wanted = _logits(_fast_model(source.config, stored), ids)
    found = NumpyModel.load(open_folder(folder)).logits(ids)
    if not np.isfinite(wanted).all():
        raise TinyLMError(f"{source.path}: the model's output is not a finite number; its weights are damaged")
    difference = float(np.abs(found - wanted).max())
    return difference if math.isfinite(difference) else math.inf, float(wanted.std())


def losses(source: ModelFolder, stored: Tensors, folder: Path, corpus: Corpus) -> Losses | None:
    """The losses of a model and its export on the start of the held-out tenth of the text it was trained on.

    None where this model cannot read that text.
    """
    exported = open_folder(folder)
    try:
        held_out: Ids | Pairs
        if isinstance(corpus, PairCorpus):
            held_out = encode_part_of_pairs(corpus, source.tokenizer, "held_out")
            ids: Ids | Pairs = held_out.first(MOST_PAIRS)
        else:
            held_out = encode_part(corpus, source.tokenizer, "held_out").ids
            ids = held_out[:MOST_IDS]
        before = evaluate(_fast_model(source.config, stored), ids).loss
        after = evaluate(_fast_model(exported.config, exported.tensors()), ids).loss
    except TinyLMError:  # no place for its ids, or another tokenizer: the export is none the worse for it
        return None
    unit = "pairs" if isinstance(held_out, Pairs) else source.tokenizer.unit
    part = "all" if len(ids) == len(held_out) else f"the first {len(ids):,} {unit}"
    return Losses(corpus.name, f"{part} of its {corpus.held_out_part}", before, after)


def _fast_model(config: ModelConfig, tensors: Tensors) -> LanguageModel:
    """A model on MLX where it is installed."""
    compute = prepare_if_possible()
    if compute is None:
        return NumpyModel(config, tensors)
    from mlx_tinylm.backend.mlx_model import MLXModel

    return MLXModel.with_tensors(config, tensors, compute)


def _logits(model: LanguageModel, ids: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """(1, T) -> (1, T, V), from MLX where it is installed, so that two programs have to agree."""
    if model.backend == "numpy":
        return model.logits(ids)
    import mlx.core as mx

    with mx.stream(mx.cpu):  # some GPUs multiply float32 with fewer bits than it has
        return model.logits(ids)
