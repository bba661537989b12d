"""Whether a model answers as is wanted: its likeliest completion of a prompt, compared with the one of the pair.

Shapes: B pairs, T time, V vocabulary.
"""

from __future__ import annotations

import numpy as np

from mlx_tinylm.backend.choose import LanguageModel
from mlx_tinylm.mean_loss import pair_windows, windows_at_once
from mlx_tinylm.text.pair_ids import Pairs
from mlx_tinylm.watch import Watch, unwatched


def exact_answers(model: LanguageModel, pairs: Pairs, watch: Watch = unwatched) -> int:
    """How many pairs a model completes exactly as is wanted, up to the end of the text, at temperature 0.

    Nothing has to be generated: it does so if each id that is wanted is the likeliest one behind those before it.
    `watch` is told of pairs.
    """
    exact, done, suppressed = 0, 0, list(model.config.suppressed)
    for inputs, wanted, counts in pair_windows(pairs, windows_at_once(model, max(1, pairs.longest - 1))):
        logits = np.array(model.logits(inputs))  # (B, T, V)
        logits[..., suppressed] = -np.inf
        right = (logits.argmax(axis=-1) == wanted) | ~counts
        asked = counts.any(axis=-1)
        exact += int((right.all(axis=-1) & asked).sum())
        done += int(asked.sum())
        watch(done, len(pairs))
    return exact
