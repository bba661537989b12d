"""Fast matrix products for MLX on Linux CPUs.

MLX's wheel for Linux CPUs brings the reference BLAS, which uses one core and is not blocked for its caches.
The dynamic loader searches libraries opened with RTLD_GLOBAL before a library's own dependencies (dlopen(3)):
an optimised BLAS opened that way, before MLX is imported, serves MLX's products. What is installed stays as
it is.
"""

import ctypes
import functools
import importlib.metadata
import importlib.util
import os
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mlx_tinylm.backend.blas_wheel import PREFIX, PRODUCTS, copies
from mlx_tinylm.errors import TinyLMError

# Names, not ctypes.util.find_library: where nothing is installed, that starts a compiler to look.
# Fedora's threaded build comes before its serial one; elsewhere the plain name is the threaded build.
SYSTEM = (
    *("libopenblasp.so.0", "libopenblas.so.0", "libopenblas.so"),
    *("libmkl_rt.so.3", "libmkl_rt.so.2", "libmkl_rt.so"),
)
CPUINFO = Path("/proc/cpuinfo")
CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")
SKYLAKEX_NEEDS = {"avx512f", "avx512cd", "avx512bw", "avx512dq", "avx512vl"}
THREADS_SET_BY = ("OPENBLAS_NUM_THREADS", "GOTO_NUM_THREADS", "OMP_NUM_THREADS")
WHEEL = "scipy-openblas32 wheel"
SLOW = "MLX's own (reference, slow)"
ADVICE = "matrix products will be slow; for fast ones: pip install 'mlx-tinylm[cpu]'"

_openblas: ctypes.CDLL | None = None  # the OpenBLAS that MLX was given; its file may be gone by now


@dataclass(frozen=True)
class Blas:
    """Whose matrix products MLX uses, for people to read."""

    source: str
    path: Path | None = None  # the library that was opened for MLX; None where MLX keeps its own
    hint: str | None = None  # one line, to be shown once


@functools.cache
def open_fast_blas() -> Blas:
    """Open the best BLAS at hand for MLX; must come before the first `import mlx.core`, and never raises."""
    try:
        return _choose()
    except Exception as error:  # slow products beat none, whatever is odd about this system
        return _slow(f"{type(error).__name__}: {error}")


def _choose() -> Blas:
    if sys.platform == "darwin":
        return Blas("Accelerate (macOS)")
    if sys.platform != "linux":
        return Blas("MLX's own")
    if importlib.util.find_spec("mlx") is None:
        return Blas("none (MLX is not installed)")
    wanted = os.environ.get("MLX_TINYLM_BLAS", "")
    if wanted == "off":
        return Blas(f"{SLOW}, MLX_TINYLM_BLAS=off")
    if "mlx.core" in sys.modules:  # its symbols are bound for good
        return _slow("MLX was imported too early: call mlx_tinylm.backend.devices.prepare() before importing mlx")
    _set_defaults()
    ignored = None
    if wanted:
        try:
            return _open(wanted, "MLX_TINYLM_BLAS")
        except TinyLMError as error:
            ignored = _one_line(f"MLX_TINYLM_BLAS={wanted} is ignored: {error}")
    for name in SYSTEM:
        with suppress(TinyLMError):
            return replace(_open(name, "system"), hint=ignored)
    try:
        return replace(_open_wheel(), hint=ignored)
    except TinyLMError as error:
        return _slow(ignored or str(error))


def _slow(reason: str) -> Blas:
    """MLX keeps its own BLAS. A hint only with the wheel that is known to bring the slow one: not on CUDA."""
    try:
        importlib.metadata.version("mlx-cpu")
    except importlib.metadata.PackageNotFoundError:
        return Blas("MLX's own")
    return Blas(SLOW, hint=_one_line(f"{ADVICE} ({reason})"))


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _set_defaults() -> None:
    """What OpenBLAS reads from the environment as it is opened; what the user set stays."""
    # Idle threads spin for 2^N cycles before they sleep. OpenBLAS's own N of 26 or more outlasts the gaps
    # between MLX's products, so they would spin all the time.
    os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "16")
    # OpenBLAS takes a CPU it does not know for a Haswell, whose kernels leave AVX-512 unused.
    with suppress(OSError):  # no /proc
        flags = CPUINFO.read_text(encoding="ascii", errors="replace").partition("\nflags")[2].partition("\n")[0]
        if set(flags.split()) >= SKYLAKEX_NEEDS:
            os.environ.setdefault("OPENBLAS_CORETYPE", "SKYLAKEX")


def _open_wheel() -> Blas:
    reason = ""
    for copy in copies():
        try:
            return _open(copy, WHEEL)
        except TinyLMError as error:
            reason = str(error)
    raise TinyLMError(reason)


def _open(library: str | Path, origin: str) -> Blas:
    """Open one library privately, check it, and only then let MLX see it; raises TinyLMError where it is unfit."""
    global _openblas
    try:
        private = ctypes.CDLL(str(library))
    except OSError as error:
        raise TinyLMError(str(error)) from error
    if missing := [name for name in PRODUCTS if not hasattr(private, name)]:
        raise TinyLMError(f"{library} has no {missing[0]}")
    config = (_call(private, "get_config", ctypes.c_char_p) or b"").decode("ascii", "replace")
    if "USE64BITINT" in config:
        raise TinyLMError(f"{library} takes 64-bit integers, MLX passes 32-bit ones")
    if is_mkl := "mkl_rt" in str(library):
        _try_mkl(str(library))
    if origin != WHEEL:
        # A whole OpenBLAS shares hundreds of inner names with NumPy's: imported first, NumPy keeps its own.
        import numpy  # noqa: F401
    ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
    if not config:
        return Blas(f"{'MKL' if is_mkl else library} ({origin})", Path(library))
    _openblas = private
    name = " ".join(config.split()[:2])  # "OpenBLAS 0.3.34 DYNAMIC_ARCH ..."
    kernels = (_call(private, "get_corename", ctypes.c_char_p) or b"unknown").decode("ascii", "replace")
    return Blas(f"{name} ({origin}), {kernels} kernels", Path(library))


def _try_mkl(name: str) -> None:
    """Multiply once in another process: MKL ends the process when a part of it is missing."""
    if "ILP64" in os.environ.get("MKL_INTERFACE_LAYER", "").upper():
        raise TinyLMError("MKL_INTERFACE_LAYER asks for 64-bit integers, MLX passes 32-bit ones")
    product = (
        "import ctypes, sys; x, one = (ctypes.c_float * 1)(2), ctypes.c_float(1);"
        "ctypes.CDLL(sys.argv[1]).cblas_sgemm(101, 111, 111, 1, 1, 1, one, x, 1, x, 1, one, x, 1);"
        "sys.exit(x[0] != 6)"
    )
    try:
        subprocess.run([sys.executable, "-c", product, name], check=True, capture_output=True, timeout=60)
    except subprocess.SubprocessError as error:
        raise TinyLMError(f"{name} does not work") from error


def set_threads(count: int) -> int | None:
    """Let a product use `count` threads from now on, unless the user has set a number; how many it uses now.

    None where MLX was given no OpenBLAS: then nothing is set.
    """
    if _openblas is not None and not any(os.environ.get(name) for name in THREADS_SET_BY):
        _call(_openblas, "set_num_threads", None, count)
    return threads()


def threads() -> int | None:
    """How many threads a product uses; None where MLX was given no OpenBLAS."""
    return None if _openblas is None else int(_call(_openblas, "get_num_threads", ctypes.c_int) or 1)


def cpus() -> int:
    """CPUs this process may use: its affinity, and a container's quota, which OpenBLAS does not look at."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with suppress(OSError, ValueError):  # no cgroup v2, or "max 100000"
        quota, period = map(int, CPU_QUOTA.read_text(encoding="ascii").split())
        count = max(1, min(count, -(-quota // period)))
    return count


def _call(library: ctypes.CDLL, name: str, returns: type | None, *arguments: int) -> Any:
    """Call OpenBLAS's own `openblas_NAME`, under either prefix; None where the library is no OpenBLAS."""
    for prefix in ("", f"{PREFIX}scipy_"):
        if function := getattr(library, f"{prefix}openblas_{name}", None):
            function.restype = returns
            return function(*arguments)
    return None
