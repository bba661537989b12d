"""Pairs as ids: encoded once and kept on disk, read as windows of one pair each.

Shapes: N ids of all pairs, B pairs, T time.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.integrity import digest
from mlx_tinylm.text import ids_cache
from mlx_tinylm.text.ids import Ids, UnknownCharactersError, seen, type_of
from mlx_tinylm.text.pairs import Pair, PairCorpus
from mlx_tinylm.text.tokenizer import Tokenizer
from mlx_tinylm.watch import Watch, unwatched

FORMAT = 1  # of the files
AT_ONCE = 4096  # pairs
# Of each pair: where its ids end among all, how many of them are the prompt's, and the size of the completion.
ROW = np.dtype([("end", "<i8"), ("prompt", "<i4"), ("characters", "<i4"), ("bytes", "<i4")])


@dataclass(frozen=True)
class Pairs:
    """Pairs as ids, mapped from a file: those of a prompt, of its completion, and the one that ends a text."""

    ids: Ids  # (N,)
    rows: npt.NDArray[np.void]  # of ROW, one a pair
    pad_id: int

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def longest(self) -> int:
        """The ids of the longest pair; 0 of none."""
        return int(np.diff(self.rows["end"], prepend=0).max(initial=0))

    @property
    def targets(self) -> int:
        """The ids of all completions, with those that end them."""
        return int(self.rows["end"][-1]) - int(self.rows["prompt"].sum(dtype=np.int64)) if len(self.rows) else 0

    @property
    def characters(self) -> int:
        """The characters of all completions."""
        return int(self.rows["characters"].sum(dtype=np.int64))

    @property
    def bytes(self) -> int:
        """The bytes of all completions."""
        return int(self.rows["bytes"].sum(dtype=np.int64))

    def first(self, count: int) -> Pairs:
        """The first `count` of these pairs, or all."""
        return dataclasses.replace(self, rows=self.rows[:count])

    def windows(
        self, places: npt.NDArray[np.int64], T: int, prompts: bool = False
    ) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_]]:
        """Pairs by their places (B,) -> their ids (B, T + 1), padded behind, and which of their targets count (B, T).

        A window holds one pair and nothing else, so attention never mixes two; what pads comes last, where no other
        position sees it. Those targets count that are ids of a completion; with `prompts`, those of the prompt, too.
        """
        windows = np.full((len(places), T + 1), self.pad_id, np.int32)
        counts = np.zeros((len(places), T), np.bool_)
        for window, counted, place in zip(windows, counts, places.tolist(), strict=True):
            start, end = int(self.rows["end"][place - 1]) if place else 0, int(self.rows["end"][place])
            window[: end - start] = self.ids[start:end]
            counted[0 if prompts else self.rows["prompt"][place] - 1 : end - start - 1] = True
        return windows, counts


@dataclass(frozen=True)
class PairDataset:
    """The pairs to train on, and those held out for validation."""

    train: Pairs
    validation: Pairs

    @property
    def longest(self) -> int:
        """The ids of the longest pair of all."""
        return max(self.train.longest, self.validation.longest)

    def bits_per_byte(self, loss: float) -> float:
        """A mean loss over the targets of the held-out completions, in nats, as bits a byte of these."""
        return loss * self.validation.targets / max(1, self.validation.bytes) / math.log(2)

    def unseen(self, vocab_size: int) -> tuple[int, ...]:
        """The ids below `vocab_size` that stand in no pair to train on, in their order."""
        return tuple(np.flatnonzero(~seen(self.train.ids, vocab_size)).tolist())


def encode_pairs(corpus: PairCorpus, tokenizer: Tokenizer, watch: Watch = unwatched) -> PairDataset:
    """Both parts of a set of pairs as ids; raises as `encode_part_of_pairs` does."""
    return PairDataset(*(encode_part_of_pairs(corpus, tokenizer, part, watch) for part in ("train", "held_out")))


def encode_part_of_pairs(corpus: PairCorpus, tokenizer: Tokenizer, part: str, watch: Watch = unwatched) -> Pairs:
    """The pairs of one part ("train", "held_out" or "all") as ids, from a file in the cache that is written once.

    Prompt and completion are encoded apart, as a prompt is to generate from. `watch` is told of pairs.
    Raises UnknownCharactersError where the tokenizer lacks some of their characters, TinyLMError where it has nothing
    to end a text with, ChangedTextError where the pairs are others now.
    """
    if unknown := tokenizer.unknown_characters(corpus.alphabet):
        raise UnknownCharactersError(corpus.name, unknown)
    if tokenizer.eos_id is None:
        raise TinyLMError("the tokenizer has no id that ends a text, with which each completion is to end")
    dtype = type_of(tokenizer)
    key = digest(f"pairs {FORMAT} {corpus.key} {part} {tokenizer.json}".encode())[:32]
    path = ids_cache.kept_file(f"{key}.{dtype.name}", lambda: _content(corpus, tokenizer, part, dtype, watch))
    content = ids_cache.mapped(path)
    (count,) = content[-8:].view("<i8").tolist()
    split = len(content) - 8 - count * ROW.itemsize
    pad_id = tokenizer.eos_id if tokenizer.pad_id is None else tokenizer.pad_id
    return Pairs(content[:split].view(dtype), content[split:-8].view(ROW), pad_id)


def _content(
    corpus: PairCorpus, tokenizer: Tokenizer, part: str, dtype: np.dtype[np.unsignedinteger], watch: Watch
) -> Iterator[bytes]:
    """The file: all ids, the row of each pair, and how many there are; the rows wait in memory."""
    rows, end = [], 0
    pairs = corpus.pairs(part)
    while found := list(itertools.islice(pairs, AT_ONCE)):
        ids, row = _encoded(found, tokenizer, end)
        rows.append(row)
        end += len(ids)
        yield ids.astype(dtype).tobytes()
        watch(min(AT_ONCE * len(rows), corpus.documents), corpus.documents)
    watch(corpus.documents, corpus.documents)
    yield from (row.tobytes() for row in rows)
    yield np.array([sum(map(len, rows))], "<i8").tobytes()


def _encoded(pairs: list[Pair], tokenizer: Tokenizer, start: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.void]]:
    """The ids of pairs, one after the other, and their rows where the ids before them end at `start`."""
    apart = tokenizer.encode_many([text for pair in pairs for text in pair])
    prompts, completions = apart[::2], apart[1::2]
    ending = np.array([tokenizer.eos_id], np.int32)
    rows = np.zeros(len(pairs), ROW)
    rows["prompt"] = [len(ids) for ids in prompts]
    rows["end"] = start + np.cumsum([len(p) + len(c) + 1 for p, c in zip(prompts, completions, strict=True)])
    rows["characters"] = [len(pair.completion) for pair in pairs]
    rows["bytes"] = [len(pair.completion.encode()) for pair in pairs]
    each = zip(prompts, completions, strict=True)
    return np.concatenate([ids for prompt, completion in each for ids in (prompt, completion, ending)]), rows


def check_pairs(name: str, dataset: PairDataset, context: int) -> None:
    """Raise TinyLMError where there are too few pairs, or one does not fit into `context` ids."""
    train, validation = len(dataset.train), len(dataset.validation)
    if not train or not validation:
        raise TinyLMError(
            f"{name}: has {train:,} pairs to train on and {validation:,} to validate with, which are one in ten, by "
            "their prompts; add pairs with other prompts"
        )
    check_fit(name, dataset.longest, context)


def check_fit(name: str, longest: int, context: int) -> None:
    """Raise TinyLMError where the longest pair does not fit into a window of `context` ids and one more."""
    if longest > context + 1:
        raise TinyLMError(
            f"{name}: the longest pair has {longest:,} ids with its end, more than the {context + 1:,} of a context of "
            f"{context:,}; leave out the long pairs, or train with a larger --context"
        )
