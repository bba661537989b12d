"""Keys and values of the positions read so far, and the attention over them.

Shapes: T new positions, S stored positions, C capacity, H heads, G key-value heads, R = H / G heads that
share one key-value head, K head size.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]


class KVCache:
    """The keys and values of one layer, in two buffers of a fixed capacity.

    Past its capacity it slides, if it may: a new position takes the place of the oldest. That is meant
    for models with rotary positions, whose keys know where they stand; the order of the slots then does
    not matter.
    """

    def __init__(self, capacity: int, kv_heads: int, head_dim: int, *, slides: bool) -> None:
        self.capacity = capacity
        self.slides = slides
        self.position = 0
        self._keys = np.zeros((kv_heads, capacity, head_dim), np.float32)
        self._values = np.zeros((kv_heads, capacity, head_dim), np.float32)

    def append(self, keys: Array, values: Array) -> tuple[Array, Array]:
        """(G, T, K) twice -> all that is stored, (G, S, K) twice, with S = min(position + T, C).

        Several positions at once must fit behind those already there: raises ValueError where they do not.
        """
        new = keys.shape[1]
        end = self.position + new
        if end > self.capacity and (new > 1 or not self.slides):
            raise ValueError(f"{new} positions do not fit at {self.position} of {self.capacity}")
        slot = self.position % self.capacity
        self._keys[:, slot : slot + new] = keys
        self._values[:, slot : slot + new] = values
        self.position = end
        return self._keys[:, :end], self._values[:, :end]


def attend(q: Array, k: Array, v: Array) -> Array:
    """(T, H, K), (G, S, K), (G, S, K) -> (T, H * K): softmax(q k^T) v, the queries being scaled already.

    The T queries belong to the last T of the S positions; each sees itself and what came before it.
    """
    T, H, K = q.shape
    G, S, _ = k.shape
    if T > 1:
        q = q.reshape(T, G, H // G, K).transpose(1, 2, 0, 3)
    q = q.reshape(G, -1, K)  # (G, R T, K)
    weights = q @ k.swapaxes(1, 2)  # (G, R T, S)
    if T > 1:
        by_query = weights.reshape(-1, T, S)
        by_query += np.triu(np.full((T, S), -np.inf, np.float32), S - T + 1)
    weights -= weights.max(-1, keepdims=True)
    np.exp(weights, out=weights)
    y: Array = (weights @ v) / weights.sum(-1, keepdims=True)  # (G, R T, K)
    return y.reshape(H, T, K).swapaxes(0, 1).reshape(T, H * K)
