"""Which optimizer moves which weight, by how much, and how the learning rate goes over a run."""

from __future__ import annotations

import dataclasses
from typing import Any

import mlx.core as mx
import mlx.optimizers as optim
import numpy as np
import numpy.typing as npt
import pytest
from mlx.utils import tree_flatten, tree_map
from tiny_runs import PLAIN, fresh, on_streams

from mlx_tinylm.run_folder.settings import TrainConfig
from mlx_tinylm.training.optimizer import DecayedMuon, level, schedule
from mlx_tinylm.training.state import TrainState

Array = npt.NDArray[Any]
CONSTANT = TrainConfig(steps=100, warmup_steps=10, schedule="constant")
RATES = [
    # (changed settings, the share of the peak at steps counted from 0)
    ({}, {0: 1 / 11, 4: 5 / 11, 10: 1.0, 99: 1.0}),
    ({"warmup_steps": 0}, {0: 1.0}),
    ({"schedule": "cosine"}, {4: 5 / 11, 10: 1.0, 55: 0.5, 100: 0.0}),
    ({"schedule": "linear"}, {10: 1.0, 55: 0.5, 100: 0.0}),
    ({"schedule": "linear", "warmup_steps": 0}, {25: 0.75}),
    ({"schedule": "wsd"}, {10: 1.0, 64: 1.0, 82: 0.5, 100: 0.0}),  # 90 steps, the last 36 of them fall
    ({"schedule": "wsd", "warmup_steps": 0}, {80: 0.5}),
    ({"steps": 10, "warmup_steps": 1000}, {5: 1.0}),  # never more than half of the run
    ({"steps": 1, "schedule": "cosine"}, {0: 1.0}),
    ({"steps": 1, "schedule": "wsd"}, {0: 1.0}),
]


@pytest.mark.parametrize(("changes", "shares"), RATES)
def test_learning_rate(changes: dict[str, Any], shares: dict[int, float]) -> None:
    """The learning rate rises in equal steps, is level, and falls to 0 just after the last step."""
    rate = schedule(dataclasses.replace(CONSTANT, **changes), 0.02)
    for step, share in shares.items():
        assert float(rate(mx.array(step))) == pytest.approx(0.02 * share, abs=1e-8), step


@pytest.mark.parametrize("kind", ["constant", "cosine", "linear", "wsd"])
def test_no_step_is_lost(kind: str) -> None:
    """Every step of a run, the first and the last included, has a learning rate above 0 and at most the peak."""
    rates = np.array(schedule(dataclasses.replace(CONSTANT, schedule=kind, steps=40), 1.0)(mx.arange(40)))
    assert rates.min() > 0
    assert rates.max() == pytest.approx(1.0)


EMBEDDINGS = {"gpt2": {"wte.weight", "wpe.weight"}, "qwen3": {"model.embed_tokens.weight"}}


@pytest.mark.parametrize("family", ["gpt2", "qwen3"])
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_groups(family: str, optimizer: str) -> None:
    """Each weight is in one group: Muon has the hidden matrices, AdamW the tables, AdamW without decay the vectors."""
    state = fresh(dataclasses.replace(PLAIN, family=family, optimizer=optimizer))
    groups = [group(each) for each in state.optimizer.state["states"]]
    tensors = dict(tree_flatten(state.model.trainable_parameters()))
    vectors = {name for name, tensor in tensors.items() if tensor.ndim == 1}
    hidden = tensors.keys() - vectors - EMBEDDINGS[family]
    wanted = [hidden, EMBEDDINGS[family], vectors] if optimizer == "muon" else [hidden | EMBEDDINGS[family], vectors]
    assert groups == wanted
    assert all(wanted)


@pytest.mark.parametrize("family", ["gpt2", "qwen3"])
def test_decay(family: str) -> None:
    """Without a gradient, matrices shrink by (1 - rate x decay) of their own group and vectors stay."""
    config = dataclasses.replace(
        PLAIN, family=family, optimizer="muon", learning_rate=0.1, weight_decay=0.5, muon_learning_rate=0.2
    )
    config = dataclasses.replace(config, muon_weight_decay=0.25)
    state = fresh(config)
    before = weights(state)
    state.optimizer.update(state.model, tree_map(mx.zeros_like, state.model.trainable_parameters()))
    for name, tensor in weights(state).items():
        kept = 1.0 if tensor.ndim == 1 else 1 - 0.1 * 0.5 if name in EMBEDDINGS[family] else 1 - 0.2 * 0.25
        np.testing.assert_allclose(tensor, kept * before[name], rtol=1e-6, err_msg=name)


def test_adamw_corrects_its_bias() -> None:
    """The first step of AdamW moves a weight by the learning rate, whatever the size of its gradient."""
    state = fresh(dataclasses.replace(PLAIN, weight_decay=0.0, learning_rate=0.01))
    before = weights(state)
    gradient = tree_map(lambda tensor: mx.full(tensor.shape, -123.0), state.model.trainable_parameters())
    state.optimizer.update(state.model, gradient)
    for name, tensor in weights(state).items():
        np.testing.assert_allclose(tensor - before[name], 0.01, rtol=1e-3, err_msg=name)


def moved(weights: dict[str, Array], gradients: list[dict[str, Array]], streams: int = 2, **more: float) -> Any:
    """The weights after a step of DecayedMuon with each of the gradients."""
    muon = DecayedMuon(level(more.get("rate", 0.05)), more.get("decay", 0.3), on_streams(streams))
    ours = {name: mx.array(tensor) for name, tensor in weights.items()}
    muon.init(ours)
    for each in gradients:
        ours = muon.apply_gradients({name: mx.array(tensor) for name, tensor in each.items()}, ours)
    assert muon.step.item() == len(gradients)
    return {name: np.array(tensor) for name, tensor in ours.items()}


@pytest.mark.parametrize("matrix", [(12, 12), (8, 20), (20, 8)], ids=str)
def test_muon_follows_its_formula(matrix: tuple[int, int]) -> None:
    """Three steps of DecayedMuon equal momentum, Newton-Schulz and decoupled decay written out in NumPy."""
    random = np.random.default_rng(0)
    parameter = random.standard_normal(matrix).astype(np.float32)
    gradients = random.standard_normal((3, *matrix)).astype(np.float32)
    expected, momentum = parameter.astype(np.float64), np.zeros(matrix)
    for gradient in gradients:
        momentum = 0.95 * momentum + 0.05 * gradient
        update = orthogonal(0.95 * momentum + 0.05 * gradient) * max(1, matrix[0] / matrix[1]) ** 0.5
        expected = (1 - 0.05 * 0.3) * expected - 0.05 * update
    ours = moved({"weight": parameter}, [{"weight": gradient} for gradient in gradients])
    np.testing.assert_allclose(ours["weight"], expected, atol=2e-5)


@pytest.mark.parametrize("streams", [1, 2, 3])
def test_muon_moves_each_matrix_as_if_alone(streams: int) -> None:
    """Matrices of equal shape move together, but share neither update nor momentum; others keep to their own."""
    random = np.random.default_rng(2)
    shapes = {"a": (8, 8), "b": (8, 20), "c": (8, 8), "d": (20, 8), "e": (8, 8), "f": (20, 8), "g": (20, 8)}
    weights, *gradients = (
        {name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()} for _ in range(4)
    )
    together = moved(weights, gradients, streams)
    for name in shapes:
        alone = moved({name: weights[name]}, [{name: each[name]} for each in gradients])
        np.testing.assert_allclose(together[name], alone[name], atol=1e-5, err_msg=name)


def test_muon_moves_one_matrix_or_many() -> None:
    """`apply_single` takes a matrix, as mlx.optimizers.Muon's does, and moves it as that does, decay apart."""
    random = np.random.default_rng(3)
    drawn = random.standard_normal((3, 2, 20, 8)).astype(np.float32)
    parameter, gradient, momentum = (mx.array(each) for each in drawn)
    ours, theirs = DecayedMuon(level(0.05), 0.0, on_streams()), optim.Muon(0.05, weight_decay=0.0)
    state = {"v": momentum}
    many = ours.apply_single(gradient, parameter, state)
    for place in range(2):
        one, other = {"v": momentum[place]}, {"v": momentum[place]}
        single = ours.apply_single(gradient[place], parameter[place], one)
        expected = theirs.apply_single(gradient[place], parameter[place], other)
        for value, wanted in ((single, expected), (many[place], expected), (one["v"], other["v"])):
            np.testing.assert_allclose(np.array(value), np.array(wanted), atol=1e-5)
        np.testing.assert_allclose(np.array(state["v"][place]), np.array(one["v"]), atol=1e-6)


def test_muon_steps_have_one_size() -> None:
    """Muon's update has singular values near 1 even where the gradient is nearly of rank one."""
    random = np.random.default_rng(1)
    gradient = np.outer(random.standard_normal(16), random.standard_normal(16)) + 0.1 * random.standard_normal((16, 16))
    gradients = [{"weight": gradient.astype(np.float32)}]
    update = moved({"weight": np.zeros((16, 16), np.float32)}, gradients, rate=1.0, decay=0.0)["weight"]
    values, before = (np.linalg.svd(each, compute_uv=False) for each in (update, gradient))
    assert values[0] < 1.3
    assert np.median(values) > 0.5
    assert before[0] > 5 * np.median(before)


def orthogonal(update: Array) -> Array:
    """Five steps of Newton-Schulz with the coefficients of Jordan et al. 2024, in float64."""
    x = update.T if update.shape[0] > update.shape[1] else update
    x = x / np.linalg.norm(x)
    for _ in range(5):
        square = x @ x.T
        x = 3.4445 * x - 4.7750 * square @ x + 2.0315 * square @ square @ x
    return x.T if update.shape[0] > update.shape[1] else x


def weights(state: TrainState) -> dict[str, Array]:
    return {name: np.array(tensor) for name, tensor in tree_flatten(state.model.trainable_parameters())}


def group(state: dict[str, Any]) -> set[str]:
    """The names of the weights that an optimizer keeps a state for."""
    names = {name.rpartition(".")[0] for name, _ in tree_flatten(state)}
    return names - {""}
