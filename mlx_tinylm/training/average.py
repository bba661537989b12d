"""An exponential moving average of the weights, which often does better than the weights themselves."""

from __future__ import annotations

from typing import Any

import mlx.core as mx


class Average:
    """Moves towards the weights after each step, by 1 - min(decay, (n + 1) / (n + 10)) after step n.

    So the first weights count for little. `state` is a tree of arrays, as an optimizer's is, and a compiled step sees
    it change: the averages by tensor name, and the number of steps that went into them.
    """

    def __init__(self, decay: float, weights: dict[str, mx.array]) -> None:
        self.decay = decay
        self.state: dict[str, Any] = {"steps": mx.array(0), "weights": dict(weights)}

    @property
    def weights(self) -> dict[str, mx.array]:
        weights: dict[str, mx.array] = self.state["weights"]
        return weights

    def restore(self, steps: int, weights: dict[str, mx.array]) -> None:
        """The average as it was after `steps` steps."""
        self.state["steps"] = mx.array(steps)
        self.weights.update(weights)

    def update(self, weights: dict[str, mx.array]) -> None:
        """Take in the weights of one more step."""
        steps = self.state["steps"] = self.state["steps"] + 1
        decay = mx.minimum(self.decay, (steps + 1) / (steps + 10))
        for name, tensor in weights.items():
            average = self.weights[name]
            self.weights[name] = average + (1 - decay) * (tensor - average)  # += would change whoever shares it, too
