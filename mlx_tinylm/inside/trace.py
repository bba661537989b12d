"""What a model computes on the way from ids to logits, on either back end.

The fast forward passes throw the attention weights away; this is one that keeps them. The parts of a model are
those that the back end holds, so what is shown is what computes.

Shapes: T time, D width, H heads, L layers, V vocabulary.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from mlx_tinylm.backend.choose import LanguageModel
from mlx_tinylm.backend.numpy_model import NARROW
from mlx_tinylm.backend.numpy_threads import at_most_threads
from mlx_tinylm.checks import check
from mlx_tinylm.generation import NOT_FINITE, check_ids

Array = npt.NDArray[np.float32]
Head = tuple[int, int]  # layer and head, both from 0


@dataclass(frozen=True)
class Trace:
    """All that one reading of a text computes."""

    ids: npt.NDArray[np.int32]  # (T,)
    logits: Array  # (T, V)
    attention: Array  # (L, H, T, T): who looks, at whom; 0 in the future
    stream: Array  # (1 + 2L, T, D): the residual stream after the embedding, each attention and each MLP


class Parts(Protocol):
    """The steps of one model on its back end, whose arrays are the back end's own."""

    def embed(self, ids: npt.NDArray[np.int32]) -> Any:
        """(T,) -> the stream (T, D)."""
        ...

    def look(self, layer: int, x: Any) -> tuple[Any, Any]:
        """The stream (T, D) -> the weights (H, T, T) of a layer's heads, and what each finds (H, T, K)."""
        ...

    def without(self, found: Any, heads: Sequence[int]) -> Any:
        """(H, T, K) -> the same, 0 for `heads`."""
        ...

    def bring(self, layer: int, found: Any) -> Any:
        """(H, T, K) -> what attention adds to the stream (T, D)."""
        ...

    def mlp(self, layer: int, x: Any) -> Any:
        """The stream (T, D) -> what the MLP adds to it."""
        ...

    def head(self, x: Any) -> Any:
        """The stream (T, D) -> logits (T, V), by the final norm and the output matrix."""
        ...

    def table(self) -> Any:
        """The embeddings (V, D)."""
        ...

    def array(self, x: Any) -> Array: ...

    def from_array(self, x: Array) -> Any: ...


def trace(model: LanguageModel, ids: Sequence[int] | npt.NDArray[Any], heads_off: Iterable[Head] = ()) -> Trace:
    """Read ids (T,), at most as many as the context, and keep what is computed.

    What the heads in `heads_off` find is not passed on; their weights are kept as they are. Raises TinyLMError for no
    ids, too many, ids that are none, heads that are not there, and for weights that are damaged.
    """
    config = model.config
    given = np.asarray(ids, np.int32)
    check(given.size > 0, "there is nothing to read: give the model at least one id")
    check_ids(given.tolist(), config.vocab_size)
    check(len(given) <= config.context, f"{len(given)} ids are more than the model's context of {config.context}")
    off: dict[int, list[int]] = {}
    for layer, head in heads_off:
        known = 0 <= layer < config.layers and 0 <= head < config.heads
        check(
            known, f"no head {head} in layer {layer}: there are {config.layers} layers of {config.heads} heads, from 0"
        )
        off.setdefault(layer, []).append(head)
    parts = parts_of(model)
    with _computing(model):
        x = parts.embed(given)
        stream, attention = [parts.array(x)], []
        for layer in range(config.layers):
            weights, found = parts.look(layer, x)
            attention.append(parts.array(weights))
            x = x + parts.bring(layer, parts.without(found, off[layer]) if layer in off else found)
            stream.append(parts.array(x))
            x = x + parts.mlp(layer, x)
            stream.append(parts.array(x))
        logits = parts.array(parts.head(x))
    check(bool(np.isfinite(logits).all()), NOT_FINITE)
    return Trace(given, logits, np.stack(attention), np.stack(stream))


def readouts(model: LanguageModel, traced: Trace) -> Iterator[Array]:
    """Logits (T, V) for each of the 1 + 2L stages of the stream, as if the model ended there (the logit lens).

    The final norm is computed anew for each stage (nostalgebraist 2020, "interpreting GPT: the logit lens").
    """
    parts = parts_of(model)
    for x in traced.stream:
        with _computing(model):
            logits = parts.array(parts.head(parts.from_array(x)))
        yield logits


@contextlib.contextmanager
def _computing(model: LanguageModel) -> Iterator[None]:
    """The products of a narrow model are not worth the threads of a BLAS; damaged weights overflow as in MLX."""
    one = at_most_threads(1) if model.backend == "numpy" and model.config.width <= NARROW else contextlib.nullcontext()
    with one, np.errstate(over="ignore", invalid="ignore"):
        yield


def embeddings(model: LanguageModel) -> Array:
    """The row of each id in the embedding, (V, D)."""
    parts = parts_of(model)
    return parts.array(parts.table())


def parts_of(model: LanguageModel) -> Parts:
    """The steps of a loaded model."""
    inner: Any = model
    if model.backend == "mlx":
        from mlx_tinylm.inside import mlx_parts

        return mlx_parts.parts(inner.module)
    from mlx_tinylm.inside import numpy_parts

    return numpy_parts.parts(inner.network)
