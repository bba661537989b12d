"""One training step: loss, gradient, clip, update.

Shapes: A accumulated batches, B batch, T context, P places of dropout.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_map

from mlx_tinylm.backend.devices import Compute
from mlx_tinylm.backend.lanes import shards, streams
from mlx_tinylm.run_folder.settings import TrainConfig
from mlx_tinylm.training.optimizer import joined, of_equal_shape
from mlx_tinylm.training.state import TrainState

# Windows (A, B, T + 1); what each of their targets counts (A, B, T), None where all count the same; and dropout keys
# (A, B, P, 2), None without dropout.
Inputs = Sequence["mx.array | None"]
Step = Callable[..., tuple[mx.array, mx.array]]
Gradient = Callable[..., tuple[mx.array, Any]]


def make_step(state: TrainState, config: TrainConfig, compute: Compute, *, compiled: bool | None = None) -> Step:
    """Windows, weights of their targets and dropout keys (see Inputs) -> loss and gradient norm, both lazy.

    Calling it updates `state` but for `step`. Compiled by default where `compute` says that it pays.
    """
    if compiled is None:
        compiled = compute.compiles

    def loss_of(model: nn.Module, windows: mx.array, weights: mx.array | None, keys: mx.array | None) -> mx.array:
        logits = model(windows[:, :-1], dropout_keys=keys)
        losses = nn.losses.cross_entropy(logits, windows[:, 1:])  # (B, T)
        return losses.mean() if weights is None else (losses * weights).sum()

    gradient_of = functools.partial(nn.value_and_grad(state.model, loss_of), state.model)

    def step(windows: mx.array, weights: mx.array | None, keys: mx.array | None) -> tuple[mx.array, mx.array]:
        loss, gradient = mean_gradient(gradient_of, (windows, weights, keys), compute)
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


def mean_gradient(gradient_of: Gradient, inputs: Inputs, compute: Compute) -> tuple[mx.array, Any]:
    """The inputs of a step -> its mean loss and mean gradient, spread over streams."""
    assert inputs[0] is not None
    B = inputs[0].shape[1]
    spread = streams(compute, B)
    sums: list[tuple[mx.array, Any]] = []
    for stream, shard in zip(spread, shards(B, len(spread)), strict=True):
        with mx.stream(stream):
            sums.append(summed_gradient(gradient_of, [x if x is None else x[:, shard] for x in inputs], B))
    losses, gradients = zip(*sums, strict=True)
    streams_in_turn = itertools.cycle(spread)

    def added(*parts: mx.array) -> mx.array:
        with mx.stream(next(streams_in_turn)):
            return functools.reduce(mx.add, parts)

    return functools.reduce(mx.add, losses), tree_map(added, *gradients)


def summed_gradient(gradient_of: Gradient, inputs: Inputs, windows: int) -> tuple[mx.array, Any]:
    """The inputs of one stream, b windows of each batch -> its part of the mean loss and gradient.

    All of a step is one graph, which MLX walks level by level: unless a batch waits for the gradient of the one
    before, the activations of all are alive at once. `windows` is the number in a whole batch, of all streams.
    """
    assert inputs[0] is not None
    A, b = inputs[0].shape[:2]
    # Weights have the sum 1 over the whole step: what they give is a part of the mean as it is.
    share = 1 if inputs[1] is not None else b / (A * windows)
    total: tuple[mx.array, Any] | None = None
    for batch in range(A):
        part = [x if x is None else x[batch] for x in inputs]
        if total:
            before = list(dict(tree_flatten(total)).values())
            part = [x if x is None else mx.depends([x], before)[0] for x in part]
        found = gradient_of(*part)
        if share != 1:
            found = tree_map(lambda x: share * x, found)
        total = tree_map(mx.add, total, found) if total else found
    assert total
    return total


def norm_of(gradient: Any) -> mx.array:
    """The Euclidean norm of a tree of arrays; those of equal shape are summed at once: few large operations."""
    groups = of_equal_shape(dict(tree_flatten(gradient))).values()
    # Row by row, then the rows: one float32 sum over all would lose digits.
    squares = [mx.sum(mx.sum(mx.square(joined(arrays)), axis=-1)) for arrays in groups]
    return mx.sqrt(functools.reduce(mx.add, squares))
