"""Whether MLX multiplies right here: a wheel for a newer system than its name says installs all the same."""

from __future__ import annotations

import numpy as np

ADVICE = "this MLX does not fit the system: update the system, or install an older mlx"


def products_here() -> str:
    """What becomes of a float32 and a bfloat16 product on MLX's device, beside NumPy's; MLX can be imported.

    The numbers are small and whole, so that no type rounds them. On a wrong wheel the product fails or is nonsense
    (github.com/ml-explore/mlx/issues/4525).
    """
    import mlx.core as mx

    numbers = np.arange(64 * 64).reshape(64, 64) % 7 - 3
    expected = numbers @ numbers.T
    for name in ("float32", "bfloat16"):
        try:
            matrix = mx.array(numbers.astype(np.float32)).astype(getattr(mx, name))
            found = np.array((matrix @ matrix.T).astype(mx.float32))
        except RuntimeError as error:
            return f"{name} fails ({error}); {ADVICE}"
        # float32, and TF32 too, holds the sums; bfloat16 keeps eight bits of them.
        if not np.allclose(found, expected, rtol=0 if name == "float32" else 2**-8, atol=0):
            return f"wrong in {name}; {ADVICE}"
    return "right in float32 and bfloat16"
