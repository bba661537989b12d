"""What can be read off a trace: surprise, the lens, what heads do. Plain NumPy, no model.

Shapes: T time, H heads, L layers, V vocabulary, S = 1 + 2L stages of the stream, N kinds of heads.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mlx_tinylm.backend.numpy_model import cross_entropy
from mlx_tinylm.sampling import probabilities

Array = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]

TOP = 5  # candidates that the lens keeps of a stage
SMALL = 256  # ids: up to here the lens keeps the rank of every one, in a byte each
KINDS = ("previous", "line_start", "same_before", "induction")
FEWEST = 3  # positions: fewer say nothing of a head
STRONG = 0.25  # a head with a name is at least so far on the way from an even look (0) to looking nowhere else (1)


def surprise(logits: Array, ids: npt.NDArray[np.int32]) -> Array:
    """(T, V) and (T,) -> (T,): -ln of the probability that each id had before it came, in nats; NaN for the first."""
    found = np.full(len(ids), np.nan, np.float32)
    if len(ids) > 1:
        found[1:] = cross_entropy(logits[:-1], ids[1:])
    return found


@dataclass(frozen=True)
class Lens:
    """What each stage of the stream would say if the model ended there."""

    rank: npt.NDArray[np.int32]  # (S, T): of the id that comes next, from 0; -1 at the last position
    top: npt.NDArray[np.int32]  # (S, T, TOP): the likeliest ids, -1 where there are no more
    top_p: Array  # (S, T, TOP): their probabilities
    ranks: npt.NDArray[np.uint8] | None  # (S, T, V): of every id, where the vocabulary is small


def lens(stages: Iterable[Array], ids: npt.NDArray[np.int32]) -> Lens:
    """Logits (T, V) of each stage -> the lens on them. Of equal logits the lower id comes first."""
    rank, top, top_p, ranks = [], [], [], []
    for logits in stages:
        T, V = logits.shape
        order = np.argsort(-logits, axis=-1, kind="stable")
        kept = min(TOP, V)
        likeliest = np.full((T, TOP), -1, np.int32)
        likeliest[:, :kept] = order[:, :kept]
        chances = np.zeros((T, TOP), np.float32)
        chances[:, :kept] = np.take_along_axis(probabilities(logits), order[:, :kept], -1)
        places = np.empty_like(order)
        np.put_along_axis(places, order, np.arange(V)[None], -1)
        following = np.full(T, -1, np.int32)
        following[:-1] = places[np.arange(T - 1), ids[1:]]
        rank.append(following)
        top.append(likeliest)
        top_p.append(chances)
        if V <= SMALL:
            ranks.append(places.astype(np.uint8))
    return Lens(np.stack(rank), np.stack(top), np.stack(top_p), np.stack(ranks) if ranks else None)


@dataclass(frozen=True)
class NamedHead:
    """A head that does something that has a name, in this text."""

    layer: int
    head: int
    name: str  # one of KINDS
    score: float  # the mean weight on what the name says
    even: float  # what a head that looks at all characters alike would have


def head_scores(attention: Array, ids: Sequence[int], newlines: Iterable[int]) -> tuple[Array, Array]:
    """(L, H, T, T), (T,) and the ids that end a line -> scores (L, H, N) and, of an even look, (N,).

    A score is the mean, over the positions where there is such a place, of the weight on all such places: from 0 to
    1, NaN where fewer than FEWEST positions have one. They are those of `places`.
    """
    L, H, T = attention.shape[:3]
    wanted = np.stack(list(places(ids, newlines).values()), axis=-1)  # (T, T, N)
    known = wanted.any(1)  # (T, N)
    # Each position's looks at all places of a kind, in one pass over the weights.
    weights = attention.reshape(L * H, T, T).swapaxes(0, 1) @ wanted.astype(np.float32)  # (T, L H, N)
    counts = np.where(known.sum(0) >= FEWEST, known.sum(0), np.nan)  # (N,)
    scores = (weights.sum(0) / counts).reshape(L, H, -1)
    even = (wanted.sum(1) / np.arange(1, T + 1)[:, None]).sum(0) / counts
    return scores.astype(np.float32), even.astype(np.float32)


def places(ids: Sequence[int], newlines: Iterable[int]) -> dict[str, Bools]:
    """For each of KINDS (T, T): who would look at whom.

    previous: the id just before. line_start: the newline before this line and the first id of it, from the third
    id on. same_before: the same id, but not just before. induction: what followed the same id earlier (Olsson et al.
    2022, "In-context Learning and Induction Heads"), but not the id just before.
    """
    given: npt.NDArray[Any] = np.asarray(ids)
    T = len(given)
    who, whom = np.arange(T)[:, None], np.arange(T)[None, :]
    same = (given[:, None] == given[None, :]) & (whom < who)
    breaks = np.where(np.isin(given, list(newlines)), np.arange(T), -1)
    newest = np.concatenate([[-1], np.maximum.accumulate(breaks)[:-1]])[:, None]  # the newline before, -1 if none is
    following = np.zeros_like(same)
    following[:, 1:] = same[:, :-1]
    return {
        "previous": whom == who - 1,
        "line_start": (newest >= 0) & ((whom == newest) | (whom == newest + 1)) & (who > newest + 2),
        "same_before": same & (whom < who - 1),
        "induction": following & (whom < who - 1),
    }


def named_heads(scores: Array, even: Array) -> list[NamedHead]:
    """The heads that do something nameable, each by what it does most; (L, H, N) and (N,), the strongest first."""
    found = []
    for layer, head in np.ndindex(scores.shape[:2]):
        known = [
            NamedHead(layer, head, kind, float(score), float(alike))
            for kind, score, alike in zip(KINDS, scores[layer, head], even, strict=True)
            if score - alike >= STRONG * (1 - alike)  # false for NaN
        ]
        found += [max(known, key=lambda each: each.score)] if known else []
    return sorted(found, key=lambda each: (-each.score, each.layer, each.head))
