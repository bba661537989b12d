"""Keys and values of the positions read so far, so that each new id costs one position, not all.

Shapes: B batch, H key-value heads, T new positions, S stored positions, C capacity, K head size.
"""

import mlx.core as mx


class KVCache:
    """The keys and values of one layer, in two buffers of a fixed capacity.

    Past its capacity it slides: a new position takes the place of the oldest. That is meant for models
    with rotary positions, whose keys know where they stand; the order of the slots then does not matter.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.position = 0
        self._keys: mx.array | None = None
        self._values: mx.array | None = None

    def append(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """(B, H, T, K) twice -> all that is stored, (B, H, S, K) twice, with S = min(position + T, C).

        Several positions at once must fit behind those already there.
        """
        new = keys.shape[2]
        slot = self.position % self.capacity
        if slot + new > self.capacity or (new > 1 and self.position + new > self.capacity):
            raise ValueError(f"{new} positions do not fit at {self.position} of {self.capacity}")
        if self._keys is None or self._values is None:
            B, H, _, K = keys.shape
            self._keys = mx.zeros((B, H, self.capacity, K), keys.dtype)
            self._values = mx.zeros((B, H, self.capacity, K), values.dtype)
        self._keys[:, :, slot : slot + new] = keys
        self._values[:, :, slot : slot + new] = values
        self.position += new
        stored = min(self.position, self.capacity)
        return self._keys[:, :, :stored], self._values[:, :, :stored]
