"""All that changes while a model is trained, and its first values."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import mlx.core as mx
import mlx.optimizers as optim
import numpy as np
from mlx.utils import tree_flatten, tree_unflatten

from mlx_tinylm.backend.devices import Compute
from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.model_folder.config import ModelConfig
from mlx_tinylm.model_folder.layout import count_parameters, transposed
from mlx_tinylm.model_folder.tensor_files import Tensors
from mlx_tinylm.models.build import Model, build, load_stored
from mlx_tinylm.run_folder.settings import TrainConfig
from mlx_tinylm.training.average import Average
from mlx_tinylm.training.optimizer import build_optimizer

AGAINST_DIVERGENCE = "Training stopped. Try a lower --learning-rate, more --warmup-steps, or --grad-clip 1"


class DivergedError(TinyLMError):
    """Training went wrong: something is no finite number any more."""


class DeviceFailedError(TinyLMError):
    """The GPU gave up what it was computing."""


@contextlib.contextmanager
def device_failures() -> Iterator[None]:
    """Raise DeviceFailedError where MLX's RuntimeError says that Metal ended the work, as its watchdog may do.

    It comes where a result is waited for, or with the next work that builds on it (ml-explore/mlx, issue 3267).
    """
    try:
        yield
    except RuntimeError as error:
        if "Command buffer execution failed" not in str(error):
            raise
        raise DeviceFailedError(
            f"the GPU ended its work ({str(error).strip().rstrip('.')}); macOS does so where it keeps the display "
            "waiting or memory runs out. A smaller --batch-size helps, or letting the display sleep"
        ) from None


@dataclass
class TrainState:
    """Everything else in a run is a pure function of its settings, the corpus and `step`."""

    model: Model
    optimizer: optim.MultiOptimizer
    step: int = 0
    average: Average | None = None  # where the settings say ema


def check_memory(config: TrainConfig, model_config: ModelConfig, compute: Compute) -> None:
    """Raise TinyLMError where what computes cannot hold the run; MLX would crash, or the system would end it.

    The need is counted low: weights, gradient and two moments, and of one batch's intermediate results (accumulated
    ones follow each other) only the logits, their gradient, ten vectors for each block and character, and attention's
    weights, which no back end of MLX fuses while it differentiates: B x H x T^2 in a block, or on a CPU the half that
    is not masked.
    """
    attention = config.layers * config.heads * config.context // (1 if compute.device == "gpu" else 2)
    numbers = 2 * model_config.vocab_size + 10 * config.layers * config.width + attention
    need = 4 * (4 * count_parameters(model_config) + config.batch_size * config.context * numbers)
    have = compute.memory()
    if have is not None and need > have:
        where = "GPU" if compute.device == "gpu" else "machine"
        raise TinyLMError(
            f"this run needs {need / 2**30:,.1f} GiB of memory or more, the {where} has {have / 2**30:,.1f}; "
            "lower --width, --layers, --context or --batch-size"
        )


def new_state(
    config: TrainConfig, model_config: ModelConfig, compute: Compute, weights: Tensors | None = None
) -> TrainState:
    """The state before the first step, with `weights` (stored layout) or freshly drawn ones."""
    model = build(model_config, config.dropout)
    if weights is None:
        initialise(model, config.seed)
    else:
        load_stored(model, weights)
    optimizer = build_optimizer(config, compute)
    optimizer.init(model.trainable_parameters())
    average = Average(config.ema, dict(tree_flatten(model.trainable_parameters()))) if config.ema else None
    mx.eval(model.parameters(), optimizer.state)
    return TrainState(model, optimizer, 0, average)


def initialise(model: Model, seed: int) -> None:
    """Draw the first weights, each tensor from a key of its own.

    gpt2: normal(0.02), the projections back into the residual stream smaller by sqrt(2 x layers)
    (Radford et al. 2019, section 2.3). qwen3: normal(1/sqrt(width)), those projections zero, so that
    every block begins as the identity (Zhang et al. 2019, "Fixup"). Norms begin at 1, biases at 0.
    """
    config = model.config
    drawn = []
    parameters = sorted(dict(tree_flatten(model.parameters())).items())
    keys = mx.random.split(mx.random.key(seed), len(parameters))
    for (name, tensor), key in zip(parameters, keys, strict=True):
        if tensor.ndim == 1:
            continue
        residual = name.endswith(("c_proj.weight", "o_proj.weight", "down_proj.weight"))
        if config.family == "gpt2":
            scale = 0.02 / (2 * config.layers) ** 0.5 if residual else 0.02
        elif "embed" in name or "lm_head" in name:
            # Final norm and tied head multiply an embedding by itself: 1/width makes that score 1, not 3 or 5,
            # so the first loss is that of a uniform guess.
            scale = 1 / config.width
        else:
            scale = 0.0 if residual else config.width**-0.5
        drawn.append((name, mx.random.normal(tensor.shape, scale=scale, key=key)))
    biases = [(name, mx.zeros_like(tensor)) for name, tensor in parameters if name.endswith(".bias")]
    model.load_weights(drawn + biases, strict=False)


def kept_tensors(state: TrainState) -> Tensors:
    """The weights worth keeping, averaged if the run averages, as float32 arrays in the stored layout."""
    weights = state.average.weights if state.average else dict(tree_flatten(state.model.parameters()))
    tensors = {name: np.array(tensor, dtype=np.float32) for name, tensor in weights.items()}
    return transposed(tensors) if state.model.config.family == "gpt2" else tensors


@contextlib.contextmanager
def kept_weights(state: TrainState) -> Iterator[Model]:
    """The model as it would be kept: averaged if the run averages."""
    trained = state.model.trainable_parameters()
    if state.average:
        state.model.update(tree_unflatten(list(state.average.weights.items())))
    try:
        yield state.model
    finally:
        state.model.update(trained)
        # Validations and samples have other shapes than a step, which has no use for their freed buffers.
        mx.clear_cache()
