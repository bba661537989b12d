"""Independent work spread over a CPU's cores: each of MLX's CPU streams is a thread of its own, a lane.

MLX's CPU back end runs the operations of a stream one after the other, most of them on one core. Parts of a batch on
several streams keep as many cores busy with everything, not only with matrix products.
"""

from __future__ import annotations

import threading

import mlx.core as mx

from mlx_tinylm.backend.devices import Compute

_made = threading.local()  # a stream belongs to the thread that made it


def streams(compute: Compute, most: int) -> list[mx.Stream]:
    """The streams to spread `most` independent pieces of work over: at most `compute.streams`, at least one."""
    if compute.streams == 1:
        return [mx.default_stream(mx.default_device())]
    ours: list[mx.Stream] = vars(_made).setdefault("streams", [])
    while len(ours) < compute.streams:
        ours.append(mx.new_stream(mx.cpu))
    return ours[: min(most, compute.streams)]


def shards(count: int, parts: int) -> list[slice]:
    """`count` things in `parts` pieces of nearly equal length."""
    return [slice(count * i // parts, count * (i + 1) // parts) for i in range(parts)]
