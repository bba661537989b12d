"""Where MLX computes."""

from __future__ import annotations

import mlx.core as mx

from mlx_tinylm.backend.lanes import take_turns
from mlx_tinylm.errors import TinyLMError


def use_device(name: str) -> None:
    """Compute on the "cpu" or the "gpu" from now on, or where MLX does by itself ("auto")."""
    if name != "auto":
        if not mx.is_available(mx.Device(getattr(mx, name), 0)):
            raise TinyLMError(f"MLX has no {name} here; leave out --device")
        mx.set_default_device(getattr(mx, name))
    take_turns()
