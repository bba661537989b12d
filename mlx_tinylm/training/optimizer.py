"""Which optimizer moves which weights, and how its learning rate goes over a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.optimizers as optim
from mlx.utils import tree_flatten, tree_map

from mlx_tinylm.backend.devices import Compute
from mlx_tinylm.backend.lanes import shards, streams
from mlx_tinylm.run_folder.settings import TrainConfig

Schedule = Callable[[mx.array], mx.array]
DECAY_SHARE = 0.4  # of a wsd run: the part in which the learning rate falls


def build_optimizer(config: TrainConfig, compute: Compute) -> optim.MultiOptimizer:
    """Muon (if chosen) for the hidden matrices, AdamW with decay for the others, without for the vectors."""
    rate = schedule(config, config.learning_rate)
    betas = [config.beta1, config.beta2]
    adam = optim.AdamW(rate, betas, weight_decay=config.weight_decay, bias_correction=True)
    adam_vectors = optim.AdamW(rate, betas, weight_decay=0.0, bias_correction=True)
    if config.optimizer == "adamw":
        return optim.MultiOptimizer([adam, adam_vectors], [is_matrix])
    muon = DecayedMuon(schedule(config, config.muon_learning_rate), config.muon_weight_decay, compute)
    return optim.MultiOptimizer([muon, adam, adam_vectors], [is_hidden_matrix, is_matrix])


def is_matrix(name: str, tensor: mx.array) -> bool:
    return tensor.ndim == 2


def is_hidden_matrix(name: str, tensor: mx.array) -> bool:
    """Matrices between two hidden vectors: neither an embedding nor the head."""
    return tensor.ndim == 2 and not any(table in name for table in ("wte", "wpe", "embed_tokens", "lm_head"))


class DecayedMuon(optim.Muon):
    """Muon (Jordan et al. 2024) with decoupled decay, w <- w (1 - rate x decay), as in Liu et al. 2025.

    The decay of mlx.optimizers.Muon is added to the gradient instead, where orthogonalising drowns it, and its
    arithmetic flattens three dimensions to two. This moves all matrices of equal shape at once: few large operations,
    not many small ones.
    """

    def __init__(self, learning_rate: Schedule, decay: float, compute: Compute) -> None:
        super().__init__(learning_rate, momentum=0.95, weight_decay=0.0)
        self.decay = decay
        self.compute = compute

    def apply_gradients(self, gradients: Any, parameters: Any) -> Any:
        """Trees of gradients and weights -> the tree of moved weights."""
        super().apply_gradients({}, {})  # moves the schedule and the count of steps
        return moved_in_stacks(self.apply_single, gradients, parameters, self.state, self.compute)

    def apply_single(self, gradient: mx.array, parameter: mx.array, state: dict[str, mx.array]) -> mx.array:
        """Matrices (..., out, in) -> the moved ones; their momentum in `state` moves too."""
        state["v"] = self.momentum * state["v"] + (1 - self.momentum) * gradient
        update = orthogonal((1 - self.momentum) * gradient + self.momentum * state["v"], self.ns_steps)
        rate, (rows, columns) = self.learning_rate, update.shape[-2:]
        moved: mx.array = parameter * (1 - rate * self.decay) - rate * max(1, rows / columns) ** 0.5 * update
        return moved


@dataclass
class Matrix:
    """A weight (out, in) with its gradient and its state in an optimizer."""

    gradient: mx.array
    parameter: mx.array
    state: dict[str, mx.array]


def moved_in_stacks(
    apply: Callable[..., mx.array], gradients: Any, parameters: Any, states: Any, compute: Compute
) -> Any:
    """Trees of gradients, weights and states of matrices -> the tree of weights that `apply` moved.

    Those of equal shape go into it as one, stacked (N, out, in), with a shard of them on each stream.
    """
    tree = tree_map(Matrix, gradients, parameters, states)
    by_shape: dict[tuple[int, ...], list[Matrix]] = {}
    for matrix in dict(tree_flatten(tree)).values():
        by_shape.setdefault(matrix.gradient.shape, []).append(matrix)
    for matrices in by_shape.values():
        spread = streams(compute, len(matrices))
        for stream, shard in zip(spread, shards(len(matrices), len(spread)), strict=True):
            with mx.stream(stream):
                move(apply, matrices[shard])
    return tree_map(lambda matrix: matrix.parameter, tree)


def move(apply: Callable[..., mx.array], matrices: list[Matrix]) -> None:
    """Let `apply` move matrices of equal shape at once."""
    state = {key: stacked([matrix.state[key] for matrix in matrices]) for key in matrices[0].state}
    gradients, parameters = stacked([m.gradient for m in matrices]), stacked([m.parameter for m in matrices])
    moved = apply(gradients, parameters, state)
    for matrix, parameter in zip(matrices, unstacked(moved), strict=True):
        matrix.parameter = parameter
    for key, values in state.items():
        for matrix, value in zip(matrices, unstacked(values), strict=True):
            matrix.state[key] = value


def of_equal_shape(named: Mapping[str, mx.array]) -> dict[tuple[int, ...], list[mx.array]]:
    """The arrays of each shape, in the order in which they come."""
    found: dict[tuple[int, ...], list[mx.array]] = {}
    for array in named.values():
        found.setdefault(array.shape, []).append(array)
    return found


def joined(arrays: list[mx.array]) -> mx.array:
    """N arrays (rows, ...) -> (N x rows, ...) by one operation; a stack would be N + 1."""
    return mx.concatenate(arrays) if len(arrays) > 1 else arrays[0]


def stacked(matrices: list[mx.array]) -> mx.array:
    """N matrices (rows, columns) -> (N, rows, columns)"""
    return joined(matrices).reshape(len(matrices), *matrices[0].shape)


def unstacked(stack: mx.array) -> list[mx.array]:
    """(N, rows, columns) -> N matrices by one operation; N slices would be N."""
    N, _, columns = stack.shape
    return list(mx.split(stack.reshape(-1, columns), N))


def orthogonal(x: mx.array, steps: int) -> mx.array:
    """(..., rows, columns) -> matrices with the same singular vectors and singular values near 1.

    Newton and Schulz's iteration with the coefficients of Jordan et al. 2024.
    """
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.swapaxes(-1, -2)
    x = x / (mx.linalg.norm(x, axis=[-2, -1], keepdims=True) + 1e-7)
    for _ in range(steps):
        square = x @ x.swapaxes(-1, -2)
        square = mx.addmm(square, square, square, alpha=2.0315, beta=-4.7750)
        x = mx.addmm(x, square, x, beta=3.4445)
    return x.swapaxes(-1, -2) if tall else x


def schedule(config: TrainConfig, peak: float) -> Schedule:
    """Step -> learning rate: a linear warm-up to `peak`, then level or falling to 0 at the end of the run."""
    warmup = min(config.warmup_steps, config.steps // 2)
    length = config.steps - warmup
    if config.schedule == "cosine":
        main = optim.cosine_decay(peak, length)
    elif config.schedule == "linear":
        main = optim.linear_schedule(peak, 0.0, length)
    elif config.schedule == "wsd":
        falling = max(1, round(DECAY_SHARE * length))
        main = optim.join_schedules([level(peak), optim.linear_schedule(peak, 0.0, falling)], [length - falling])
    else:
        main = level(peak)
    if not warmup:
        return main
    # From one share of the peak, not from 0: a first step of size 0 would be lost.
    rising = optim.linear_schedule(peak / (warmup + 1), peak, warmup)
    return optim.join_schedules([rising, main], [warmup])


def level(rate: float) -> Schedule:
    return lambda step: mx.array(rate)
