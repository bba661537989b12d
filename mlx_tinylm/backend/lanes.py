"""Work that is spread over the CPU's cores: each of MLX's CPU streams is a thread of its own.

MLX's CPU back end runs one operation after the other, most of them on one core. Two halves of a batch on two streams
keep two cores busy with everything, not only with matrix products, as long as their operations are handed out in
turn: see `take_turns`. A GPU has one lane: it is parallel inside.
"""

from __future__ import annotations

import ctypes
import functools
import os
import platform

import mlx.core as mx

from mlx_tinylm.backend.blas import cpus, set_threads
from mlx_tinylm.models.ops import on_cpu

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of mallopt(3)


def lanes(most: int) -> list[mx.Stream]:
    """The streams to spread `most` independent pieces of work over, one a core at most."""
    if not on_cpu():
        return [mx.default_stream(mx.default_device())]
    streams = _cpu_streams()[:most]
    if len(streams) > 1:
        set_threads(1)  # the lanes use the cores; BLAS threads would fight over them, spinning
        _keep_freed_memory()
    return streams


def shares(count: int, parts: int) -> list[slice]:
    """`count` things in `parts` pieces of nearly equal length."""
    return [slice(count * i // parts, count * (i + 1) // parts) for i in range(parts)]


def take_turns() -> None:
    """Let MLX hand out work level by level, not lane by lane; must come before MLX first computes anything.

    It walks a graph breadth first only up to a width (20 unless told), then depth first: one lane's whole pass, and
    at ten operations under way it waits, while the other lane's core is idle. That cost a third of a step's time.
    """
    if on_cpu():
        os.environ.setdefault("MLX_BFS_MAX_WIDTH", "1000")


@functools.cache
def _cpu_streams() -> list[mx.Stream]:
    return [mx.new_stream(mx.cpu) for _ in range(cpus())]


@functools.cache
def _keep_freed_memory() -> None:
    """Let the allocator keep large freed blocks.

    glibc returns them to the system at once, so every operation pays for fresh, zeroed pages: a tenth of a step's time.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        for parameter, value in ((_M_MMAP_THRESHOLD, 1 << 30), (_M_TRIM_THRESHOLD, 2**31 - 1)):
            libc.mallopt(parameter, value)
