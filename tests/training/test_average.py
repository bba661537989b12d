"""The moving average of the weights."""

from __future__ import annotations

import dataclasses

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten
from tiny_runs import PLAIN, fresh, go_on

from mlx_tinylm.training.average import Average


def test_average_follows_its_formula() -> None:
    """After step n the average has moved by 1 - min(decay, (n + 1) / (n + 10)) towards the weights, as in NumPy."""
    config = dataclasses.replace(PLAIN, ema=0.3)
    state = fresh(config)
    assert state.average is not None
    expected = {name: np.array(tensor, np.float64) for name, tensor in tree_flatten(state.model.parameters())}
    for step in range(1, 6):
        go_on(state, config, step)
        for name, tensor in tree_flatten(state.model.parameters()):
            decay = min(0.3, (step + 1) / (step + 10))
            expected[name] = decay * expected[name] + (1 - decay) * np.array(tensor, np.float64)
            np.testing.assert_allclose(np.array(state.average.weights[name]), expected[name], atol=1e-6, err_msg=name)
    assert not np.allclose(np.array(state.model.wte.weight), expected["wte.weight"], atol=1e-4)


def test_a_restored_average_goes_on() -> None:
    """An average that is put back after n steps moves at step n + 1 as if it had never been away."""
    values = [mx.array([float(number)]) for number in range(6)]
    whole, halves = (Average(0.99, {"a": values[0]}) for _ in range(2))
    for value in values[1:4]:
        whole.update({"a": value})
    halves.restore(3, {"a": whole.weights["a"]})
    for value in values[4:]:
        whole.update({"a": value})
        halves.update({"a": value})
    assert whole.weights["a"].item() == halves.weights["a"].item() != 0
