"""One training step: loss, gradient, clip, update.

Shapes: A accumulated batches, B batch, T context, P places of dropout, N ids of the corpus.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_map

from mlx_tinylm.backend.devices import Compute
from mlx_tinylm.backend.lanes import shards, streams
from mlx_tinylm.run_folder.settings import TrainConfig
from mlx_tinylm.text.ids import Ids
from mlx_tinylm.training.optimizer import joined, of_equal_shape
from mlx_tinylm.training.state import TrainState

Step = Callable[[mx.array, mx.array | None], tuple[mx.array, mx.array]]
Gradient = Callable[[mx.array, mx.array | None], tuple[mx.array, Any]]


def make_step(
    state: TrainState, config: TrainConfig, ids: Ids, compute: Compute, *, compiled: bool | None = None
) -> Step:
    """Window offsets (A, B) and dropout keys (A, B, P, 2) -> loss and gradient norm, both lazy.

    Calling it updates `state` but for `step`. Compiled by default where `compute` says that it pays.
    """
    if compiled is None:
        compiled = compute.compiles
    text = mx.array(ids)
    places = mx.arange(config.context + 1)

    def loss_of(model: nn.Module, offsets: mx.array, keys: mx.array | None) -> mx.array:
        windows = text[offsets[:, None] + places].astype(mx.int32)  # (B, T + 1)
        logits = model(windows[:, :-1], dropout_keys=keys)
        return nn.losses.cross_entropy(logits, windows[:, 1:], reduction="mean")

    gradient_of = functools.partial(nn.value_and_grad(state.model, loss_of), state.model)

    def step(offsets: mx.array, keys: mx.array | None) -> tuple[mx.array, mx.array]:
        loss, gradient = mean_gradient(gradient_of, offsets, keys, compute)
        norm = norm_of(gradient)
        if config.grad_clip:  # otherwise the update does not have to wait for the norm
            scale = mx.minimum(config.grad_clip / (norm + 1e-6), 1.0)
            gradient = tree_map(lambda g: g * scale, gradient)
        state.optimizer.update(state.model, gradient)
        if state.average:
            state.average.update(dict(tree_flatten(state.model.trainable_parameters())))
        return loss, norm

    if not compiled:
        return step
    captured = [state.model.state, state.optimizer.state, state.average.state if state.average else {}]
    return functools.partial(mx.compile, inputs=captured, outputs=captured)(step)


def mean_gradient(
    gradient_of: Gradient, offsets: mx.array, keys: mx.array | None, compute: Compute
) -> tuple[mx.array, Any]:
    """Window offsets (A, B) and dropout keys (A, B, P, 2) -> mean loss and mean gradient, spread over streams."""
    B = offsets.shape[1]
    spread = streams(compute, B)
    sums: list[tuple[mx.array, Any]] = []
    for stream, shard in zip(spread, shards(B, len(spread)), strict=True):
        with mx.stream(stream):
            sums.append(summed_gradient(gradient_of, offsets[:, shard], None if keys is None else keys[:, shard], B))
    losses, gradients = zip(*sums, strict=True)
    streams_in_turn = itertools.cycle(spread)

    def added(*parts: mx.array) -> mx.array:
        with mx.stream(next(streams_in_turn)):
            return functools.reduce(mx.add, parts)

    return functools.reduce(mx.add, losses), tree_map(added, *gradients)


def summed_gradient(
    gradient_of: Gradient, offsets: mx.array, keys: mx.array | None, windows: int
) -> tuple[mx.array, Any]:
    """Window offsets (A, b) and dropout keys (A, b, P, 2) of one stream -> its part of the mean loss and gradient.

    All of a step is one graph, which MLX walks level by level: unless a batch waits for the gradient of the one
    before, the activations of all are alive at once. `windows` is the number in a whole batch, of all streams.
    """
    A, b = offsets.shape
    weight = b / (A * windows)
    total: tuple[mx.array, Any] | None = None
    for batch in range(A):
        inputs = [offsets[batch]] if keys is None else [offsets[batch], keys[batch]]
        if total:
            inputs = mx.depends(inputs, list(dict(tree_flatten(total)).values()))
        loss, gradient = gradient_of(inputs[0], inputs[1] if keys is not None else None)
        part = tree_map(lambda x: weight * x, (loss, gradient))
        total = tree_map(mx.add, total, part) if total else part
    assert total
    return total


def norm_of(gradient: Any) -> mx.array:
    """The Euclidean norm of a tree of arrays; those of equal shape are summed at once: few large operations."""
    groups = of_equal_shape(dict(tree_flatten(gradient))).values()
    # Row by row, then the rows: one float32 sum over all would lose digits.
    squares = [mx.sum(mx.sum(mx.square(joined(arrays)), axis=-1)) for arrays in groups]
    return mx.sqrt(functools.reduce(mx.add, squares))
