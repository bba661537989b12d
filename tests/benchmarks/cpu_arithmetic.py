"""Which is quicker on this CPU: MLX's own functions, or those of `models/cpu_ops.py`? In nanoseconds a number.

    python tests/benchmarks/cpu_arithmetic.py

Where ours win clearly on an architecture that `cpu_ops.ARCHITECTURES` does not list, it belongs there.
"""

# ruff: noqa: E402  (MLX is imported after it has been set up)

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable

from mlx_tinylm.backend.devices import prepare

prepare("cpu")

import mlx.core as mx
import mlx.nn as nn

from mlx_tinylm.models import cpu_ops

RUNS = 15
Function = Callable[[mx.array], mx.array]


def nanoseconds(function: Function, x: mx.array) -> float:
    """The median time of a call, divided by the numbers in `x`."""
    seconds = []
    for _ in range(RUNS):
        started = time.perf_counter()
        mx.eval(function(x))
        seconds.append(time.perf_counter() - started)
    return 1e9 * statistics.median(seconds) / x.size


def slope(function: Function) -> Function:
    return lambda x: mx.grad(lambda x: function(x).sum())(x)


def causal(attention: Callable[..., mx.array]) -> Function:
    return lambda q: attention(q, q, q, 0.2)


def fused(q: mx.array, k: mx.array, v: mx.array, scale: float) -> mx.array:
    return mx.fast.scaled_dot_product_attention(q, k, v, scale=scale, mask="causal")


def main() -> None:
    numbers, queries = mx.random.normal((16, 256, 432)), mx.random.normal((16, 4, 256, 40))
    mx.eval(numbers, queries)
    rows: list[tuple[str, Function, Function, mx.array]] = [
        ("2^x", lambda x: mx.exp(0.6931472 * x), cpu_ops.exp2, numbers),
        ("silu", nn.silu, cpu_ops.silu, numbers),
        ("silu, with slope", slope(nn.silu), slope(cpu_ops.silu), numbers),
        ("gelu", nn.gelu_approx, cpu_ops.gelu, numbers),
        ("gelu, with slope", slope(nn.gelu_approx), slope(cpu_ops.gelu), numbers),
        ("attention", causal(fused), causal(cpu_ops.attention), queries),
        ("attention, with slope", slope(causal(fused)), slope(causal(cpu_ops.attention)), queries),
    ]
    print(f"{platform.machine():<24}{'MLX':>10}{'cpu_ops':>10}   ns a number")
    for name, theirs, ours, x in rows:
        print(f"{name:<24}{nanoseconds(theirs, x):>10.2f}{nanoseconds(ours, x):>10.2f}", flush=True)


if __name__ == "__main__":
    main()
