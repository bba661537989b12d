"""Which embeddings are close to each other. Plain NumPy.

Shapes: V vocabulary, D width, N neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mlx_tinylm.checks import check

NEAR = 8
MOST = 1 << 14  # ids: each is compared with all
AT_ONCE = 512

Array = npt.NDArray[np.float32]


def nearest(embeddings: Array, count: int = NEAR, left_out: Sequence[int] = ()) -> tuple[npt.NDArray[np.int64], Array]:
    """(V, D) -> the ids (V, N) that point the same way most, never the id itself, and their cosines (V, N).

    The ids `left_out`, which must leave one, are nobody's neighbours. Raises TinyLMError where there are too many to
    compare.
    """
    V = len(embeddings)
    check(V <= MOST, f"{V:,} embeddings are too many to compare each with all; up to {MOST:,} can be")
    lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
    directions = embeddings / np.maximum(lengths, np.finfo(np.float32).tiny)
    kept = min(count, V - 1 - len(set(left_out)))
    ids, cosines = np.empty((V, kept), np.int64), np.empty((V, kept), np.float32)
    for start in range(0, V, AT_ONCE):
        rows = np.arange(start, min(start + AT_ONCE, V))
        alike = directions[rows] @ directions.T
        alike[rows - start, rows] = -np.inf
        alike[:, list(left_out)] = -np.inf
        ids[rows] = np.argsort(-alike, axis=1, kind="stable")[:, :kept]
        cosines[rows] = np.take_along_axis(alike, ids[rows], 1)
    return ids, cosines.clip(-1, 1)


def plane(embeddings: Array) -> tuple[Array, tuple[float, float]]:
    """(V, D) -> places (V, 2) along the two directions in which they differ most, and each one's share of the variance.

    Principal components (Pearson 1901). The sign, which is arbitrary, makes the largest entry of each positive.
    """
    centred = embeddings.astype(np.float64) - embeddings.mean(0, dtype=np.float64)
    values, vectors = np.linalg.eigh(centred.T @ centred)
    found = np.zeros((len(embeddings), 2))
    directions = vectors[:, ::-1][:, :2]
    found[:, : directions.shape[1]] = centred @ directions
    found *= np.where(np.take_along_axis(found, np.abs(found).argmax(0)[None], 0) < 0, -1, 1)
    shares = [float(max(value, 0) / max(values.sum(), 1e-300)) for value in values[::-1][:2]]
    return found.astype(np.float32), (shares[0], shares[1] if len(shares) > 1 else 0.0)


def embedding_answer(embeddings: Array, untrained: Sequence[int] = ()) -> dict[str, Any]:
    """Both as JSON.

    Rows that training never showed are as chance made them: nobody's neighbours, no part of the components, and null
    in the plane, which they would stretch.
    """
    ids, cosines = nearest(embeddings, left_out=untrained)
    trained = np.setdiff1d(np.arange(len(embeddings)), untrained)
    found, variance = plane(embeddings[trained])
    places: list[list[float] | None] = [None] * len(embeddings)
    for id, place in zip(trained.tolist(), np.round(found.astype(np.float64), 5).tolist(), strict=True):
        places[id] = place
    return {
        "neighbours": ids.tolist(),
        "cosine": np.round(cosines.astype(np.float64), 4).tolist(),
        "plane": places,
        "variance": [round(each, 6) for each in variance],
    }
