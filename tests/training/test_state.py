"""The first weights of a model, and the weights worth keeping."""

from __future__ import annotations

import dataclasses
import math

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten
from tiny_runs import PLAIN, RICH, equal, weights_of

from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.evaluation import Evaluation
from mlx_tinylm.model_folder.layout import tensor_shapes
from mlx_tinylm.run_folder.settings import TrainConfig
from mlx_tinylm.training.loop import validate
from mlx_tinylm.training.state import TrainState, check_memory, kept_tensors, kept_weights, new_state

VOCABULARY = 66
SHAPES = [
    {},
    {"layers": 6},
    {"width": 64, "heads": 4},
    {"width": 128, "heads": 1, "layers": 2, "context": 32},
    {"width": 256, "heads": 8, "context": 16},
]


def first_state(config: TrainConfig) -> TrainState:
    return new_state(config, config.model_config(VOCABULARY, VOCABULARY - 1))


def first_loss(config: TrainConfig) -> Evaluation:
    ids = np.random.default_rng(0).integers(0, VOCABULARY, 300).astype(np.uint16)
    return validate(first_state(config), config, ids)


@pytest.mark.parametrize("family", ["gpt2", "qwen3"])
@pytest.mark.parametrize("changes", SHAPES, ids=str)
def test_first_loss_is_that_of_a_guess(family: str, changes: dict[str, int]) -> None:
    """Before its first step a model of any shape is within 0.1 nats of guessing uniformly."""
    config = dataclasses.replace(PLAIN, family=family, **changes)
    for seed in (0, 1):
        loss = first_loss(dataclasses.replace(config, seed=seed)).loss
        assert loss == pytest.approx(math.log(VOCABULARY), abs=0.1)


@pytest.mark.parametrize("family", ["gpt2", "qwen3"])
def test_first_weights_follow_from_the_seed(family: str) -> None:
    """The same seed draws the same weights, another seed others, whatever was drawn from MLX's generator before."""
    config = dataclasses.replace(PLAIN, family=family)
    first = weights_of(first_state(config))
    mx.random.seed(123)
    mx.eval(mx.random.normal((7,)))
    assert equal(first, weights_of(first_state(config)))
    other = weights_of(first_state(dataclasses.replace(config, seed=1)))
    drawn = [name for name, tensor in first.items() if tensor.ndim == 2 and tensor.any()]
    assert drawn
    assert all(not np.array_equal(first[name], other[name]) for name in drawn)


@pytest.mark.parametrize("family", ["gpt2", "qwen3"])
def test_no_two_first_weights_are_alike(family: str) -> None:
    """Each matrix is drawn from a key of its own: no two of them begin with the same numbers."""
    config = dataclasses.replace(PLAIN, family=family, layers=3)
    matrices = [tensor for tensor in weights_of(first_state(config)).values() if tensor.ndim == 2 and tensor.any()]
    beginnings = {tensor.reshape(-1)[:8].tobytes() for tensor in matrices}
    assert len(beginnings) == len(matrices)


@pytest.mark.parametrize("family", ["gpt2", "qwen3"])
def test_first_norms_and_biases(family: str) -> None:
    """Norms begin at 1 and biases at 0, and kept tensors have the stored names and shapes."""
    state = first_state(dataclasses.replace(PLAIN, family=family))
    tensors = kept_tensors(state)
    assert {name: tensor.shape for name, tensor in tensors.items()} == tensor_shapes(state.model.config)
    vectors = {name: tensor for name, tensor in tensors.items() if tensor.ndim == 1}
    assert vectors
    for name, tensor in vectors.items():
        assert (tensor == (0 if name.endswith("bias") else 1)).all(), name


def test_gpt2_projections_into_the_residual_are_smaller() -> None:
    """With 8 layers, what is added to the residual stream begins 4 times smaller (Radford et al. 2019)."""
    tensors = kept_tensors(first_state(dataclasses.replace(PLAIN, layers=8, width=64)))
    ratio = tensors["h.3.attn.c_attn.weight"].std() / tensors["h.3.mlp.c_proj.weight"].std()
    assert ratio == pytest.approx(4, rel=0.05)


def test_averaged_weights_are_kept_and_given_back() -> None:
    """The kept weights of a run that averages are the averages; afterwards the model is what it was, training."""
    state = first_state(RICH)
    before = {name: np.array(tensor) for name, tensor in tree_flatten(state.model.parameters())}
    state.average = {name: tensor + 1 for name, tensor in state.average.items()}
    name = "model.norm.weight"
    assert (kept_tensors(state)[name] == 2).all()
    with kept_weights(state) as model:
        assert not model.training
        assert (np.array(model.model.norm.weight) == 2).all()
    assert state.model.training
    after = {name: np.array(tensor) for name, tensor in tree_flatten(state.model.parameters())}
    assert equal(before, after)


def test_weights_are_given_back_after_an_error() -> None:
    """An error while the averages are in the model does not leave them there."""
    state = first_state(RICH)
    state.average = {name: tensor + 1 for name, tensor in state.average.items()}
    with pytest.raises(KeyboardInterrupt), kept_weights(state):
        raise KeyboardInterrupt
    assert (np.array(state.model.model.norm.weight) == 1).all()
    assert state.model.training


@pytest.mark.parametrize("changes", [{"width": 1_000_000}, {"batch_size": 10_000_000}, {"context": 10_000_000}])
def test_a_run_larger_than_the_machine_is_refused(changes: dict[str, int]) -> None:
    """Settings that need more memory than there is are refused before anything is allocated."""
    config = dataclasses.replace(PLAIN, layers=4, **changes)
    with pytest.raises(TinyLMError, match=r"needs [\d,.]+ GiB of memory or more, the machine has [\d,.]+; lower --"):
        check_memory(config, config.model_config(VOCABULARY, 65))
    check_memory(PLAIN, PLAIN.model_config(VOCABULARY, 65))
