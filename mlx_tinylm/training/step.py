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
import mlx.optimizers as optim
from mlx.utils import tree_flatten, tree_map

from mlx_tinylm.backend.devices import Compute
from mlx_tinylm.backend.lanes import shards, streams
from mlx_tinylm.run_folder.settings import TrainConfig
from mlx_tinylm.text.ids import Ids
from mlx_tinylm.training.state import TrainState

Step = Callable[[mx.array, mx.array | None], tuple[mx.array, mx.array]]
Gradient = Callable[[mx.array, mx.array | None], tuple[mx.array, Any]]


def make_step(
    state: TrainState, config: TrainConfig, ids: Ids, compute: Compute, *, compiled: bool | None = None
) -> Step:
    """Window offsets (A, B) and dropout keys (A, B, P, 2) -> loss and gradient norm, both lazy.

    Calling it updates `state` but for `step`. Compiled on a GPU only by default: MLX's CPU back end gains nothing
    from it and needs a C++ compiler.
    """
    if compiled is None:
        compiled = compute.device == "gpu"
    text = mx.array(ids)
    places = mx.arange(config.context + 1)

    def loss_of(model: nn.Module, offsets: mx.array, keys: mx.array | None) -> mx.array:
        windows = text[offsets[:, None] + places].astype(mx.int32)  # (B, T + 1)
        logits = model(windows[:, :-1], dropout_keys=keys)
        return nn.losses.cross_entropy(logits, windows[:, 1:], reduction="mean")

    gradient_of = functools.partial(nn.value_and_grad(state.model, loss_of), state.model)

    def step(offsets: mx.array, keys: mx.array | None) -> tuple[mx.array, mx.array]:
        loss, gradient = mean_gradient(gradient_of, offsets, keys, compute)
        clipped, norm = optim.clip_grad_norm(gradient, config.grad_clip or float("inf"))
        if config.grad_clip:  # otherwise the update does not have to wait for the norm
            gradient = clipped
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
    A, B = offsets.shape
    spread = streams(compute, B)
    losses: list[mx.array] = []
    gradients = []
    for batch in range(A):
        for stream, shard in zip(spread, shards(B, len(spread)), strict=True):
            with mx.stream(stream):
                windows = offsets[batch, shard]
                loss, gradient = gradient_of(windows, None if keys is None else keys[batch, shard])
                weight = windows.size / offsets.size
                losses.append(weight * loss)
                gradients.append(tree_map(lambda g, w=weight: w * g, gradient))
    streams_in_turn = itertools.cycle(spread)

    def added(*parts: mx.array) -> mx.array:
        with mx.stream(next(streams_in_turn)):
            return functools.reduce(mx.add, parts)

    return functools.reduce(mx.add, losses), tree_map(added, *gradients)
