"""Set up computing: one explicit call, which must come before MLX is imported.

What it changes belongs to the whole process: the BLAS behind MLX's matrix products and its threads, MLX's default
device, the order in which MLX dispatches work, and the allocator. Nothing else here or elsewhere changes any of it.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib.metadata
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mlx_tinylm.backend import DEVICES
from mlx_tinylm.backend.blas import Blas, cpus, open_fast_blas, set_threads
from mlx_tinylm.checks import check
from mlx_tinylm.errors import TinyLMError

MLX_MISSING = (
    "MLX is not installed here. On a Mac with Apple silicon: pip install mlx-tinylm; "
    "on Linux: pip install 'mlx-tinylm[cpu]' (or [cuda])"
)
FORKED = (
    "MLX cannot be used in a process forked from one that used it, as its threads stay behind; "
    "start processes with multiprocessing.get_context('spawn'), or load with backend='numpy'"
)
TF32 = "MLX_ENABLE_TF32"  # of MLX's environment: "0" keeps float32 products whole
BREADTH = "1000"  # more than any level of a training step's graph is wide
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of mallopt(3)
_forked = False  # whether this process was forked from one that had set up MLX


@dataclass(frozen=True)
class Compute:
    """What computes, once it is set up; handed down to whatever starts work on it."""

    device: str  # "cpu" or "gpu"
    streams: int  # how many MLX streams independent work is spread over; a GPU is parallel inside and has one
    blas_threads: int | None  # of one matrix product on a CPU; None where its BLAS cannot be told
    blas: Blas

    @property
    def compiles(self) -> bool:
        """Whether a training step is compiled: MLX's CPU back end gains nothing from it and needs a C++ compiler."""
        return self.device == "gpu"

    @property
    def may_use_tf32(self) -> bool:
        """Whether float32 products may be TF32, of ten bits' precision: CUDA and M5 do so unless told."""
        return self.device == "gpu" and os.environ.get(TF32) != "0"

    def memory(self) -> int | None:
        """Bytes for a model and its training: the machine's on a CPU, the GPU's on a GPU; None where unknown."""
        if self.device == "cpu":
            return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else None
        import mlx.core as mx

        return gpu_memory(mx.device_info(mx.Device(mx.gpu, 0)))


def gpu_memory(info: Mapping[str, Any]) -> int | None:
    """Bytes, of what MLX says of a GPU: all of it with CUDA, and with Metal as much as the system lets it hold well."""
    for key in ("total_memory", "max_recommended_working_set_size", "memory_size"):
        if info.get(key):
            return int(info[key])
    return None


def prepare(device: str = "auto", *, spread: bool = False) -> Compute:
    """Set up MLX on the "cpu" or the "gpu", or where it computes already ("auto").

    May be called again: the same call changes nothing, and of different ones the last counts, for the whole process.

    `spread` is for training and evaluation, whose batches can be cut up: on a CPU a stream a core, and one BLAS
    thread in each. Otherwise one stream, and all cores in each matrix product.
    Raises TinyLMError where MLX cannot be imported or has no such device, and in a process forked after a call.
    """
    check(device in DEVICES, f"no device {device!r}; there are {', '.join(DEVICES)}")
    check_not_forked()
    blas = open_fast_blas()
    try:
        import mlx.core as mx
    except ImportError:  # on Linux its wheel alone, without the one of a back end, cannot be imported
        raise TinyLMError(MLX_MISSING) from None
    _watch_for_forks()
    if device != "auto":
        if not mx.is_available(mx.Device(getattr(mx, device), 0)):
            raise TinyLMError(f"MLX has no {device} here; leave out --device")
        mx.set_default_device(getattr(mx, device))
    if mx.default_device() == mx.gpu:
        return Compute("gpu", 1, None, blas)
    _dispatch_breadth_first()
    if spread:
        _keep_freed_memory()
    streams = cpus() if spread else 1
    return Compute("cpu", streams, set_threads(cpus() // streams), blas)


def prepare_if_possible(*, spread: bool = False) -> Compute | None:
    """`prepare`, or None where MLX cannot be imported or, after a fork, not used."""
    try:
        return prepare(spread=spread)
    except TinyLMError:
        return None


def mlx_has_only_a_cpu() -> bool:
    """Whether of MLX's wheels that compute only the one for CPUs is installed; known without importing MLX."""

    def installed(wheel: str) -> bool:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return bool(importlib.metadata.version(wheel))
        return False

    return installed("mlx-cpu") and not any(map(installed, ("mlx-cuda", "mlx-cuda-12", "mlx-cuda-13")))


def check_not_forked() -> None:
    """Raise TinyLMError in a process forked from one that had set up MLX: what it computed would never come."""
    check(not _forked, FORKED)


@functools.cache  # once is enough: what is registered goes on in the children
def _watch_for_forks() -> None:
    """Let a process that is forked from this one know it: of MLX's threads, and of its GPU, it has nothing."""
    if hasattr(os, "register_at_fork"):  # where processes can be forked
        os.register_at_fork(after_in_child=_note_fork)


def _note_fork() -> None:
    global _forked
    _forked = True


def _dispatch_breadth_first() -> None:
    """Let MLX dispatch a graph level by level, so that the streams all have work; read when it first computes.

    It walks a graph breadth first up to a width (20 unless told), then depth first: that is one stream's whole pass,
    and at ten operations under way it waits, while the other streams are idle.
    """
    os.environ.setdefault("MLX_BFS_MAX_WIDTH", BREADTH)


def _keep_freed_memory() -> None:
    """Let the allocator keep large freed blocks: glibc returns them at once, and every operation gets zeroed pages."""
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        for parameter, value in ((_M_MMAP_THRESHOLD, 1 << 30), (_M_TRIM_THRESHOLD, 2**31 - 1)):
            libc.mallopt(parameter, value)
