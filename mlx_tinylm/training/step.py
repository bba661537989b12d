"""One training step: loss, gradient, clip, update.

Shapes: A accumulated batches, B batch, T context, N ids of the corpus.
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

from mlx_tinylm.backend.lanes import lanes, shares
from mlx_tinylm.run_folder.settings import TrainConfig
from mlx_tinylm.text.ids import Ids
from mlx_tinylm.training.batches import dropout_seed
from mlx_tinylm.training.state import TrainState

Gradient = Callable[[nn.Module, mx.array], tuple[mx.array, Any]]


Step = Callable[[mx.array], tuple[mx.array, mx.array]]


def make_step(state: TrainState, config: TrainConfig, ids: Ids, *, compiled: bool | None = None) -> Step:
    """Window offsets (A, B) -> loss and gradient norm, both lazy; calling it updates `state` but for `step`.

    Compiled on a GPU only by default: MLX's CPU back end gains nothing from it and needs a C++ compiler.
    """
    if compiled is None:
        compiled = mx.default_device() == mx.gpu
    text = mx.array(ids)
    places = mx.arange(config.context + 1)

    def loss_of(model: nn.Module, offsets: mx.array) -> mx.array:
        windows = text[offsets[:, None] + places].astype(mx.int32)  # (B, T + 1)
        return nn.losses.cross_entropy(model(windows[:, :-1]), windows[:, 1:], reduction="mean")

    gradient_of = nn.value_and_grad(state.model, loss_of)

    def seed_share(share: int) -> None:
        if not compiled:  # there a seed would be traced once and stay; run_steps sets it outside
            mx.random.seed(dropout_seed(config.seed, state.step, share))

    captured = [state.model.state, state.optimizer.state, state.average, mx.random.state]

    def step(offsets: mx.array) -> tuple[mx.array, mx.array]:
        loss, gradient = mean_gradient(gradient_of, state.model, list(offsets), seed_share)
        clipped, norm = optim.clip_grad_norm(gradient, config.grad_clip or float("inf"))
        if config.grad_clip:  # otherwise the update does not have to wait for the norm
            gradient = clipped
        state.optimizer.update(state.model, gradient)
        if config.ema:
            done = state.optimizer.optimizers[0].step  # an array, so that a compiled step sees it change
            decay = mx.minimum(config.ema, (done + 1) / (done + 10))  # the first weights count for little
            for name, tensor in tree_flatten(state.model.trainable_parameters()):
                state.average[name] += (1 - decay) * (tensor - state.average[name])
        return loss, norm

    return functools.partial(mx.compile, inputs=captured, outputs=captured)(step) if compiled else step


def mean_gradient(
    gradient_of: Gradient, model: nn.Module, batches: list[mx.array], seed_share: Callable[[int], None]
) -> tuple[mx.array, Any]:
    """Window offsets (B,) of each batch -> mean loss and mean gradient, each batch spread over the lanes.

    `seed_share` is called before each share of a batch: with keys of its own for dropout, none waits for another.
    """
    streams = lanes(batches[0].size)
    total = sum(batch.size for batch in batches)
    losses: list[mx.array] = []
    gradients = []
    for batch in batches:
        for stream, part in zip(streams, shares(batch.size, len(streams)), strict=True):
            with mx.stream(stream):
                seed_share(len(losses))
                share = batch[part]
                loss, gradient = gradient_of(model, share)
                weight = share.size / total
                losses.append(weight * loss)
                gradients.append(tree_map(lambda g, w=weight: w * g, gradient))
    turns = itertools.cycle(streams)

    def added(*parts: mx.array) -> mx.array:
        with mx.stream(next(turns)):
            return functools.reduce(mx.add, parts)

    return functools.reduce(mx.add, losses), tree_map(added, *gradients)
