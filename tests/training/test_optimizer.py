"""Which optimizer moves which weight, by how much, and how the learning rate goes over a run."""

from __future__ import annotations

import dataclasses
from typing import Any

import mlx.core as mx
import numpy as np
import numpy.typing as npt
import pytest
from mlx.utils import tree_flatten, tree_map
from tiny_runs import PLAIN, RICH

from mlx_tinylm.backend.lanes import lanes
from mlx_tinylm.run_folder.settings import TrainConfig
from mlx_tinylm.training.optimizer import DecayedMuon, level, schedule
from mlx_tinylm.training.state import TrainState, new_state

Array = npt.NDArray[Any]
CONSTANT = TrainConfig(steps=100, warmup_steps=10, schedule="constant")
RATES = [
    # (changed settings, step counted from 0, share of the peak)
    ({}, 0, 1 / 11),
    ({}, 4, 5 / 11),
    ({}, 10, 1.0),
    ({}, 99, 1.0),
    ({"warmup_steps": 0}, 0, 1.0),
    ({"schedule": "cosine"}, 4, 5 / 11),
    ({"schedule": "cosine"}, 10, 1.0),
    ({"schedule": "cosine"}, 55, 0.5),
    ({"schedule": "cosine"}, 100, 0.0),
    ({"schedule": "linear"}, 10, 1.0),
    ({"schedule": "linear"}, 55, 0.5),
    ({"schedule": "linear"}, 100, 0.0),
    ({"schedule": "linear", "warmup_steps": 0}, 25, 0.75),
    ({"schedule": "wsd"}, 10, 1.0),
    ({"schedule": "wsd"}, 64, 1.0),  # 90 steps after the warm-up, the last 36 of them fall
    ({"schedule": "wsd"}, 82, 0.5),
    ({"schedule": "wsd"}, 100, 0.0),
    ({"schedule": "wsd", "warmup_steps": 0}, 80, 0.5),
    ({"steps": 10, "warmup_steps": 1000}, 5, 1.0),  # never more than half of the run
    ({"steps": 1, "schedule": "cosine"}, 0, 1.0),
    ({"steps": 1, "schedule": "wsd"}, 0, 1.0),
]


@pytest.mark.parametrize(("changes", "step", "share"), RATES)
def test_learning_rate(changes: dict[str, Any], step: int, share: float) -> None:
    """The learning rate rises in equal steps, is level, and falls to 0 just after the last step."""
    rate = schedule(dataclasses.replace(CONSTANT, **changes), 0.02)
    assert float(rate(mx.array(step))) == pytest.approx(0.02 * share, abs=1e-8)


@pytest.mark.parametrize("kind", ["constant", "cosine", "linear", "wsd"])
def test_no_step_is_lost(kind: str) -> None:
    """Every step of a run, the first and the last included, has a learning rate above 0 and at most the peak."""
    config = dataclasses.replace(CONSTANT, schedule=kind, steps=40)
    rates = [float(schedule(config, 1.0)(mx.array(step))) for step in range(40)]
    assert min(rates) > 0
    assert max(rates) == pytest.approx(1.0)


EMBEDDINGS = {"gpt2": {"wte.weight", "wpe.weight"}, "qwen3": {"model.embed_tokens.weight"}}


@pytest.mark.parametrize("family", ["gpt2", "qwen3"])
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_groups(family: str, optimizer: str) -> None:
    """Each weight is in one group: Muon has the hidden matrices, AdamW the tables, AdamW without decay the vectors."""
    state = new_state(dataclasses.replace(PLAIN, family=family, optimizer=optimizer), shape(family))
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
    state = new_state(config, shape(family))
    before = weights(state)
    state.optimizer.update(state.model, tree_map(mx.zeros_like, state.model.trainable_parameters()))
    for name, tensor in weights(state).items():
        kept = 1.0 if tensor.ndim == 1 else 1 - 0.1 * 0.5 if name in EMBEDDINGS[family] else 1 - 0.2 * 0.25
        np.testing.assert_allclose(tensor, kept * before[name], rtol=1e-6, err_msg=name)


def test_adamw_corrects_its_bias() -> None:
    """The first step of AdamW moves a weight by the learning rate, whatever the size of its gradient."""
    state = new_state(dataclasses.replace(PLAIN, weight_decay=0.0, learning_rate=0.01), shape("gpt2"))
    before = weights(state)
    gradient = tree_map(lambda tensor: mx.full(tensor.shape, -123.0), state.model.trainable_parameters())
    state.optimizer.update(state.model, gradient)
    for name, tensor in weights(state).items():
        np.testing.assert_allclose(tensor - before[name], 0.01, rtol=1e-3, err_msg=name)


@pytest.mark.parametrize("matrix", [(12, 12), (8, 20), (20, 8)], ids=str)
def test_muon_follows_its_formula(matrix: tuple[int, int]) -> None:
    """Three steps of DecayedMuon equal momentum, Newton-Schulz and decoupled decay written out in NumPy."""
    random = np.random.default_rng(0)
    parameter = random.standard_normal(matrix).astype(np.float32)
    gradients = random.standard_normal((3, *matrix)).astype(np.float32)
    muon = DecayedMuon(level(0.05), decay=0.3)
    ours = {"weight": mx.array(parameter)}
    muon.init(ours)
    expected, momentum = parameter.astype(np.float64), np.zeros(matrix)
    for gradient in gradients:
        ours = muon.apply_gradients({"weight": mx.array(gradient)}, ours)
        momentum = 0.95 * momentum + 0.05 * gradient
        update = orthogonal(0.95 * momentum + 0.05 * gradient) * max(1, matrix[0] / matrix[1]) ** 0.5
        expected = (1 - 0.05 * 0.3) * expected - 0.05 * update
        np.testing.assert_allclose(np.array(ours["weight"]), expected, atol=2e-5)


@pytest.mark.parametrize("count", [1, 2])
def test_muon_moves_each_matrix_as_if_alone(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Matrices of equal shape share a stack, but neither an update nor a momentum; others keep to their own."""
    monkeypatch.setattr("mlx_tinylm.training.optimizer.lanes", lambda most: lanes(min(most, count)))
    random = np.random.default_rng(2)
    shapes = {"a": (8, 8), "b": (8, 20), "c": (8, 8), "d": (20, 8), "e": (8, 8), "f": (20, 8), "g": (20, 8)}
    drawn = [{name: mx.array(random.standard_normal(shape)) for name, shape in shapes.items()} for _ in range(4)]

    def moved(names: str) -> dict[str, mx.array]:
        muon = DecayedMuon(level(0.05), decay=0.3)
        weights = {name: drawn[0][name] for name in names}
        muon.init(weights)
        for gradients in drawn[1:]:
            weights = muon.apply_gradients({name: gradients[name] for name in names}, weights)
        assert muon.step.item() == 3
        return weights

    together = moved("abcdefg")
    for name, shape in shapes.items():
        assert together[name].shape == shape
        np.testing.assert_allclose(np.array(together[name]), np.array(moved(name)[name]), atol=1e-5, err_msg=name)


def test_muon_steps_have_one_size() -> None:
    """Muon's update has singular values near 1 even where the gradient is nearly of rank one."""
    random = np.random.default_rng(1)
    gradient = np.outer(random.standard_normal(16), random.standard_normal(16)) + 0.1 * random.standard_normal((16, 16))
    muon = DecayedMuon(level(1.0), decay=0.0)
    ours = {"weight": mx.zeros((16, 16))}
    muon.init(ours)
    update = np.array(muon.apply_gradients({"weight": mx.array(gradient.astype(np.float32))}, ours)["weight"])
    values = np.linalg.svd(update, compute_uv=False)
    assert values[0] < 1.3
    assert np.median(values) > 0.5
    assert np.linalg.svd(gradient, compute_uv=False)[0] > 5 * np.median(np.linalg.svd(gradient, compute_uv=False))


def orthogonal(update: Array) -> Array:
    """Five steps of Newton-Schulz with the coefficients of Jordan et al. 2024, in float64."""
    x = update.T if update.shape[0] > update.shape[1] else update
    x = x / np.linalg.norm(x)
    for _ in range(5):
        square = x @ x.T
        x = 3.4445 * x - 4.7750 * square @ x + 2.0315 * square @ square @ x
    return x.T if update.shape[0] > update.shape[1] else x


def shape(family: str) -> Any:
    return dataclasses.replace(RICH, family=family).model_config(vocab_size=11, eos_id=10)


def weights(state: TrainState) -> dict[str, Array]:
    return {name: np.array(tensor) for name, tensor in tree_flatten(state.model.trainable_parameters())}


def group(state: dict[str, Any]) -> set[str]:
    """The names of the weights that an optimizer keeps a state for."""
    names = {name.rpartition(".")[0] for name, _ in tree_flatten(state)}
    return names - {""}
