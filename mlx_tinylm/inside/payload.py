"""One payload, version 1, behind all that is shown of a model: the terminal, JSON, the page and a saved page.

On the wire it is safetensors. Shapes: T time, V vocabulary, L layers, H heads, S = 1 + 2L stages of the residual
stream (after the embedding, then after each attention and each MLP), N = 4 kinds of heads.

    ids         i32 (T,)                  what was read
    logits      f32 (T, V)                for the id after each position, before any temperature
    surprise    f32 (T,)                  -ln of the probability that each id had, in nats; NaN for the first
    attention   u8  (L, H, T (T + 1) / 2) weight x 255, the lower triangle row by row: row t has t + 1 of them
    lens_rank   i32 (S, T)                rank of the id that comes next, 0 for the likeliest; -1 at the last position
    lens_top    i32 (S, T, 5)             the likeliest ids at each stage, -1 where there are no more
    lens_top_p  f32 (S, T, 5)             their probabilities
    lens_ranks  u8  (S, T, V)             the rank of every id; only where V <= 256
    head_scores f32 (L, H, N)             as `measures.head_scores`, NaN where the text is too short to say
    head_even   f32 (N,)                  the score of a head that looks everywhere alike
    counter     f32 (T, V)                the 3-gram counter's probabilities; only where the training text is here

`__metadata__` is {"mlx_tinylm": "1", "json": TEXT}, and that text an object:

    version     1
    model       name, family, layers, heads, width, context, vocabulary, parameters, backend, unit ("character" or
                "token"), loss (lowest validation loss in nats, or null), text (name of the training text, or null)
    vocabulary  the text of each id, in their order
    suppressed  ids that generation never draws
    prompt      the text of the ids
    newlines    ids whose text ends a line
    kinds       what a head may be: previous, line_start, same_before, induction
    heads       [{layer, head, name, score, even}] of those that do one of these, layer and head from 0, strongest first
    heads_off   [[layer, head]] that were switched off
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mlx_tinylm.backend.choose import LanguageModel
from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.inside import measures
from mlx_tinylm.inside.counter import Counter
from mlx_tinylm.inside.trace import Head, readouts, trace

VERSION = 1
TYPES = {"float32": "F32", "int32": "I32", "uint8": "U8"}
Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Payload:
    """The tensors by name, and the object beside them."""

    tensors: Mapping[str, Array]
    meta: Mapping[str, Any]

    def to_bytes(self) -> bytes:
        """The same bytes each time, which safetensors' own writer does not promise; wide numbers first, aligned."""
        order = sorted(self.tensors, key=lambda name: (-self.tensors[name].dtype.itemsize, name))
        header: dict[str, Any] = {"__metadata__": {"mlx_tinylm": str(VERSION), "json": json.dumps(self.meta)}}
        data: list[bytes] = []
        end = 0
        for name in order:
            array = self.tensors[name]
            data.append(array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes())
            start, end = end, end + len(data[-1])
            kind = TYPES[array.dtype.name]
            header[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": [start, end]}
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        return b"".join([len(text).to_bytes(8, "little"), text, *data])

    @classmethod
    def from_bytes(cls, content: bytes) -> Payload:
        """What `to_bytes` gave; raises TinyLMError for anything else."""
        from safetensors import SafetensorError
        from safetensors.numpy import load

        try:
            tensors = load(content)
            header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
            metadata = header["__metadata__"]
            if metadata["mlx_tinylm"] != str(VERSION):
                raise TinyLMError(f"a payload of version {metadata['mlx_tinylm']}; this program reads {VERSION}")
            return cls(tensors, json.loads(metadata["json"]))
        except (SafetensorError, KeyError, TypeError, ValueError):
            raise TinyLMError("no payload of this program, or a damaged one") from None

    def to_json(self) -> dict[str, Any]:
        """The same as one JSON object: the metadata, and `tensors` as nested lists; NaN is null."""
        return {**self.meta, "tensors": {name: _listed(each) for name, each in self.tensors.items()}}

    @property
    def texts(self) -> list[str]:
        """The text of each id that was read (T,)."""
        return [self.meta["vocabulary"][id] for id in self.tensors["ids"]]


def measured(
    model: LanguageModel,
    ids: Sequence[int] | Array,
    *,
    prompt: str,
    vocabulary: Sequence[str],
    facts: Mapping[str, Any],
    counter: Counter | None = None,
    heads_off: Iterable[Head] = (),
) -> Payload:
    """Read `ids` (T,), of the text `prompt`, and measure all there is; raises TinyLMError as `trace.trace` does."""
    off = sorted({(int(layer), int(head)) for layer, head in heads_off})
    found = trace(model, ids, off)
    newlines = [id for id, text in enumerate(vocabulary) if "\n" in text]
    scores, even = measures.head_scores(found.attention, found.ids.tolist(), newlines)
    lens = measures.lens(readouts(model, found), found.ids)
    tensors: dict[str, Array] = {
        "ids": found.ids,
        "logits": found.logits,
        "surprise": measures.surprise(found.logits, found.ids),
        "attention": triangle(found.attention),
        "lens_rank": lens.rank,
        "lens_top": lens.top,
        "lens_top_p": lens.top_p,
        "head_scores": scores,
        "head_even": even,
    }
    if lens.ranks is not None:
        tensors["lens_ranks"] = lens.ranks
    if counter is not None:
        tensors["counter"] = counter.probabilities(found.ids)
    meta = {
        "version": VERSION,
        "model": dict(facts),
        "vocabulary": list(vocabulary),
        "suppressed": list(model.config.suppressed),
        "prompt": prompt,
        "newlines": newlines,
        "kinds": list(measures.KINDS),
        "heads": [asdict(head) for head in measures.named_heads(scores, even)],
        "heads_off": [list(head) for head in off],
    }
    return Payload(tensors, meta)


def triangle(attention: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """Weights (L, H, T, T) -> (L, H, T (T + 1) / 2) bytes, a 255th each: the rows up to the diagonal."""
    T = attention.shape[-1]
    whole = (attention * np.float32(255) + np.float32(0.5)).astype(np.uint8)
    found = np.empty((*attention.shape[:2], T * (T + 1) // 2), np.uint8)
    for t in range(T):
        found[:, :, t * (t + 1) // 2 : (t + 1) * (t + 2) // 2] = whole[:, :, t, : t + 1]
    return found


def square(packed: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """What `triangle` gave -> weights (L, H, T, T), to within 1/510."""
    T = (math.isqrt(8 * packed.shape[-1] + 1) - 1) // 2
    found = np.zeros((*packed.shape[:-1], T, T), np.float32)
    rows, columns = np.tril_indices(T)
    found[..., rows, columns] = packed / np.float32(255)
    return found


def _listed(array: Array) -> Any:
    """Nested lists; a float32 as the shortest decimal number that is read as the same float32."""
    if array.ndim > 1:
        return [_listed(row) for row in array]
    if array.dtype != np.float32:
        return array.tolist()
    return [float(str(number)) if np.isfinite(number) else None for number in array]
