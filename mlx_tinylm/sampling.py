"""Logits to the next id. The same NumPy code serves both back ends, so the same seed gives the same text.

Shapes: V vocabulary. Filters work on logits and switch an id off with minus infinity; their order is that
of transformers: repetition penalty, temperature, top-k, top-p, min-p.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from mlx_tinylm.sample_config import SampleConfig

Logits = npt.NDArray[np.float32]
REPETITION_CONTEXT = 20  # ids looked back on, as in mlx-lm


def sample(
    logits: Logits,
    u: float,
    config: SampleConfig,
    recent: Sequence[int] = (),
    suppressed: Sequence[int] | npt.NDArray[np.int64] = (),
) -> int:
    """(V,) logits and a uniform draw u in [0, 1) -> the next id, by the inverse of the distribution function.

    Temperature 0 takes the likeliest id and does not use u. The `suppressed` ids, which must leave one, never come.
    """
    logits = logits.astype(np.float32)
    if len(suppressed):
        logits[np.asarray(suppressed)] = -np.inf
    if config.repetition_penalty is not None:
        logits = penalise(logits, recent[-REPETITION_CONTEXT:], config.repetition_penalty)
    if config.temperature == 0:
        return int(np.argmax(logits))
    with np.errstate(over="ignore"):  # a temperature near 0 may overflow; the likeliest id is then all there is
        logits = ((logits.astype(np.float64) - logits.max()) / config.temperature).astype(np.float32)
    if config.top_k is not None:
        logits = keep_top_k(logits, config.top_k)
    if config.top_p is not None:
        logits = keep_top_p(logits, config.top_p)
    if config.min_p is not None:
        logits = keep_min_p(logits, config.min_p)
    cumulative = np.cumsum(probabilities(logits), dtype=np.float64)
    id = int(np.searchsorted(cumulative, u * cumulative[-1], side="right"))
    # The product may round up to the last sum itself; then the last id with any probability is meant.
    return min(id, int(np.flatnonzero(logits > -np.inf)[-1]))


def probabilities(logits: Logits) -> Logits:
    """(..., V) -> (..., V), summing to 1 (softmax)."""
    weights: Logits = np.exp(logits - logits.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    return weights


def penalise(logits: Logits, recent: Sequence[int], penalty: float) -> Logits:
    """Make the ids in `recent` less likely if penalty > 1 (CTRL, Keskar et al. 2019, section 4.1).

    What is switched off stays off.
    """
    result = logits.copy()
    seen = np.asarray(recent, dtype=np.int64)
    seen = seen[logits[seen] > -np.inf]
    scores = logits[seen].astype(np.float64)
    with np.errstate(over="ignore"):
        scores = np.where(scores > 0, scores / penalty, scores * penalty)
    largest = np.finfo(np.float32).max
    result[seen] = scores.clip(-largest, largest)
    return result


def keep_top_k(logits: Logits, k: int) -> Logits:
    """Keep the k likeliest ids (Fan et al. 2018); more than V keeps all."""
    if k >= len(logits):
        return logits
    return _keep(logits, np.argsort(-logits, kind="stable")[:k])


def keep_top_p(logits: Logits, p: float) -> Logits:
    """Keep the fewest likeliest ids whose probabilities reach p together (Holtzman et al. 2019)."""
    order = np.argsort(-logits, kind="stable")
    cumulative = np.cumsum(probabilities(logits)[order], dtype=np.float64)
    return _keep(logits, order[: int(np.searchsorted(cumulative, p * cumulative[-1])) + 1])


def keep_min_p(logits: Logits, p: float) -> Logits:
    """Keep ids at least p times as likely as the likeliest (Nguyen et al. 2024)."""
    chances = probabilities(logits)
    return np.where(chances >= p * chances.max(), logits, np.float32(-np.inf))


def _keep(logits: Logits, ids: npt.NDArray[np.intp]) -> Logits:
    result = np.full_like(logits, -np.inf)
    result[ids] = logits[ids]
    return result
