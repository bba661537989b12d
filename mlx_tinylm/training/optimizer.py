"""Which optimizer moves which weights, and how its learning rate goes over a run."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import mlx.core as mx
import mlx.optimizers as optim

from mlx_tinylm.models.lanes import lanes
from mlx_tinylm.training_config import TrainConfig

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


class DecayedMuon(optim.Muon):
    """Muon (Jordan et al. 2024) with decoupled decay, w <- w (1 - rate x decay), as in Liu et al. 2025.

    The decay of mlx.optimizers.Muon is added to the gradient instead, where orthogonalising drowns it.
    """

    def __init__(self, learning_rate: Schedule, decay: float) -> None:
        super().__init__(learning_rate, momentum=0.95, weight_decay=0.0)
        self.decay = decay
        self.streams = itertools.cycle(lanes(most=64))

    def apply_single(self, gradient: mx.array, parameter: mx.array, state: dict[str, mx.array]) -> mx.array:
        with mx.stream(next(self.streams)):  # one small matrix after the other would leave cores idle
            kept = parameter * (1 - self.learning_rate * self.decay)
            return super().apply_single(gradient, kept, state)


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
