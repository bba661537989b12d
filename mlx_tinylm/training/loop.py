"""The training step and the loop around it: events out, nothing printed, nothing written.

Shapes: A accumulated batches, B batch, T context, N ids of the corpus.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
import numpy.typing as npt
from mlx.utils import tree_flatten, tree_map

from mlx_tinylm.dataset import Ids, batch_offsets
from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.evaluation import Evaluation, evaluate
from mlx_tinylm.models.lanes import lanes, shares
from mlx_tinylm.training.state import DIVERGED, TrainState, kept_weights
from mlx_tinylm.training_config import TrainConfig

Gradient = Callable[[nn.Module, mx.array], tuple[mx.array, Any]]
Step = Callable[[mx.array], tuple[mx.array, mx.array]]


@dataclass(frozen=True)
class Stepped:
    """Step `step` is done; `loss` is that of its batch before its update, in nats."""

    step: int
    loss: float
    grad_norm: float


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


def run_steps(
    step: Step, state: TrainState, config: TrainConfig, length: int, until: int, stopping: Callable[[], bool]
) -> Iterator[Stepped]:
    """Train up to step `until` on `length` ids; a step is on its way before the loss of the last one is read.

    Raises TinyLMError as soon as a loss or a gradient is no finite number.
    """
    previous: tuple[int, mx.array, mx.array] | None = None
    state.model.train()
    while state.step < until and not stopping():
        mx.random.seed(dropout_seed(config.seed, state.step))
        loss, norm = step(mx.array(step_offsets(config, state.step, length)))
        mx.async_eval(loss, norm, state.model.parameters(), state.optimizer.state, state.average)
        state.step += 1
        if previous:
            yield finished(*previous)
        previous = (state.step, loss, norm)
    if previous:
        yield finished(*previous)


def finished(step: int, loss: mx.array, norm: mx.array) -> Stepped:
    """Wait for a step; raises TinyLMError if it went wrong."""
    result = Stepped(step, loss.item(), norm.item())
    if not np.isfinite([result.loss, result.grad_norm]).all():
        raise TinyLMError(
            f"step {step}: the loss is {result.loss:.4g}, the norm of its gradient {result.grad_norm:.4g}. {DIVERGED}"
        )
    return result


def step_offsets(config: TrainConfig, step: int, length: int) -> npt.NDArray[np.int32]:
    """Where the windows of step number `step` begin: (A, B)."""
    windows = config.grad_accumulation_steps * config.batch_size
    offsets = batch_offsets(config.seed, step, length, windows, config.context)
    return offsets.reshape(config.grad_accumulation_steps, config.batch_size)


def dropout_seed(seed: int, step: int, share: int = 0) -> int:
    """What MLX's generator is set to before a share of the batch of step number `step`."""
    return int(np.random.SeedSequence([seed, step, share]).generate_state(1)[0])


def validate(state: TrainState, config: TrainConfig, ids: Ids) -> Evaluation:
    """The loss of the kept weights over all of `ids` (N,)."""
    with kept_weights(state) as model:

        def losses(inputs: npt.NDArray[np.int32], targets: npt.NDArray[np.int32]) -> npt.NDArray[np.float32]:
            pairs = [mx.array(inputs), mx.array(targets)]
            streams = lanes(len(inputs))
            rows = []
            for stream, part in zip(streams, shares(len(inputs), len(streams)), strict=True):
                with mx.stream(stream):
                    rows.append(nn.losses.cross_entropy(model(pairs[0][part]), pairs[1][part]))
            return np.array(mx.concatenate(rows))

        return evaluate(losses, ids, min(config.context, len(ids) - 1))
