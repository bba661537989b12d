"""Which optimizer moves which weights, and how its learning rate goes over a run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.optimizers as optim
from mlx.utils import tree_flatten, tree_map

from mlx_tinylm.backend.lanes import lanes, shares
from mlx_tinylm.run_folder.settings import TrainConfig

Schedule = Callable[[mx.array], mx.array]
DECAY_SHARE = 0.4  # of a wsd run: the part in which the learning rate falls


def build_optimizer(config: TrainConfig) -> optim.MultiOptimizer:
    """Muon (if chosen) for the hidden matrices, AdamW with decay for the others, without for the vectors."""
    rate = schedule(config, config.learning_rate)
    betas = [config.beta1, config.beta2]
    adam = optim.AdamW(rate, betas, weight_decay=config.weight_decay, bias_correction=True)
    adam_vectors = optim.AdamW(rate, betas, weight_decay=0.0, bias_correction=True)
    if config.optimizer == "adamw":
        return optim.MultiOptimizer([adam, adam_vectors], [is_matrix])
    muon = DecayedMuon(schedule(config, config.muon_learning_rate), config.muon_weight_decay)
    return optim.MultiOptimizer([muon, adam, adam_vectors], [is_hidden_matrix, is_matrix])


def is_matrix(name: str, tensor: mx.array) -> bool:
    return tensor.ndim == 2


def is_hidden_matrix(name: str, tensor: mx.array) -> bool:
    """Matrices between two hidden vectors: neither an embedding nor the head."""
    return tensor.ndim == 2 and not any(table in name for table in ("wte", "wpe", "embed_tokens", "lm_head"))


@dataclass
class Matrix:
    """A weight, its gradient and its state in an optimizer, on their way through a step."""

    gradient: mx.array
    parameter: mx.array
    state: dict[str, mx.array]


class DecayedMuon(optim.Muon):
    """Muon (Jordan et al. 2024) with decoupled decay, w <- w (1 - rate x decay), as in Liu et al. 2025.

    The decay of mlx.optimizers.Muon is added to the gradient instead, where orthogonalising drowns it, and it moves
    one matrix after the other. Here those of equal shape move in a stack, each lane having its share of it.
    """

    def __init__(self, learning_rate: Schedule, decay: float) -> None:
        super().__init__(learning_rate, momentum=0.95, weight_decay=0.0)
        self.decay = decay

    def apply_gradients(self, gradients: Any, parameters: Any) -> Any:
        """Trees of gradients and weights -> the tree of moved weights."""
        tree = super().apply_gradients(gradients, parameters)
        by_shape: dict[tuple[int, ...], list[Matrix]] = {}
        for _, matrix in tree_flatten(tree):
            by_shape.setdefault(matrix.gradient.shape, []).append(matrix)
        for stack in by_shape.values():
            streams = lanes(len(stack))
            for stream, part in zip(streams, shares(len(stack), len(streams)), strict=True):
                with mx.stream(stream):
                    self.move(stack[part])
        return tree_map(lambda matrix: matrix.parameter, tree)

    def apply_single(self, gradient: mx.array, parameter: mx.array, state: dict[str, mx.array]) -> Matrix:
        """What the optimizer calls for each matrix: moves nothing yet."""
        return Matrix(gradient, parameter, state)

    def move(self, stack: list[Matrix]) -> None:
        """One step for matrices of equal shape."""
        gradient = mx.stack([matrix.gradient for matrix in stack])  # (N, out, in)
        momenta = self.momentum * mx.stack([matrix.state["v"] for matrix in stack]) + (1 - self.momentum) * gradient
        update = orthogonal((1 - self.momentum) * gradient + self.momentum * momenta, self.ns_steps)
        rate = self.learning_rate
        kept = mx.stack([matrix.parameter for matrix in stack]) * (1 - rate * self.decay)
        moved = kept - rate * max(1, update.shape[1] / update.shape[2]) ** 0.5 * update
        for matrix, momentum, parameter in zip(stack, unstacked(momenta), unstacked(moved), strict=True):
            matrix.state["v"], matrix.parameter = momentum, parameter


def unstacked(stack: mx.array) -> list[mx.array]:
    """(N, rows, columns) -> N matrices by one operation; N slices would be N."""
    N, _, columns = stack.shape
    return list(mx.split(stack.reshape(-1, columns), N))


def orthogonal(x: mx.array, steps: int) -> mx.array:
    """(N, rows, columns) -> matrices with the same singular vectors and singular values near 1.

    Newton and Schulz's iteration with the coefficients of Jordan et al. 2024.
    """
    tall = x.shape[1] > x.shape[2]
    if tall:
        x = x.swapaxes(1, 2)
    x = x / (mx.linalg.norm(x, axis=(1, 2), keepdims=True) + 1e-7)
    for _ in range(steps):
        square = x @ x.swapaxes(1, 2)
        square = mx.addmm(square, square, square, alpha=2.0315, beta=-4.7750)
        x = mx.addmm(x, square, x, beta=3.4445)
    return x.swapaxes(1, 2) if tall else x


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
