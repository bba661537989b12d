"""Whose matrix products MLX uses on Linux: which library, whether it is right, and every way it can fail."""

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from mlx_tinylm.backend import blas as platform_blas
from mlx_tinylm.backend.blas import PRODUCTS, SKYLAKEX_NEEDS, Blas

ROOT = Path(__file__).parents[1]
OURS = ("OPENBLAS", "GOTO", "OMP_NUM", "MKL_", "MLX_TINYLM_BLAS", "XDG_CACHE_HOME", "LD_")
# SYSTEM is emptied, so that the tests mean the same where a libopenblas is installed and where none is.
BEFORE = """
import json, os, sys, tempfile
from pathlib import Path
from mlx_tinylm.backend import blas as platform_blas
platform_blas.SYSTEM = ()
def mapped():
    lines = Path("/proc/self/maps").read_text().splitlines()
    return sorted({line.split()[5] for line in lines if "libopenblas" in line or "libmkl" in line})
answer = {}
"""
AFTER = """
blas = platform_blas.use_fast_blas()
answer |= {"source": blas.source, "path": str(blas.path), "hint": blas.hint, "mapped": mapped()}
"""
PRINT = "\nprint(json.dumps(answer))"

linux = pytest.mark.skipif(sys.platform != "linux", reason="another BLAS is opened on Linux only")


def start(cache: Path, before: str, after: str, env: Mapping[str, str | Path]) -> "subprocess.Popen[str]":
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
    environment = inherited | {"XDG_CACHE_HOME": str(cache)} | {name: str(value) for name, value in env.items()}
    code = BEFORE + before + AFTER + after + PRINT
    return subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def finish(process: "subprocess.Popen[str]") -> Any:
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return json.loads(out)


def ask(cache: Path, before: str = "", after: str = "", **env: str | Path) -> Any:
    """What a fresh process answers, with code of ours before and after the one call."""
    return finish(start(cache, before, after, env))


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy made by the program itself, for tests to take and bend."""
    cache = tmp_path_factory.mktemp("cache")
    answer = ask(cache)
    assert answer["hint"] is None, answer
    return Path(answer["path"])


@pytest.fixture
def cache(tmp_path: Path, built: Path) -> Path:
    """A cache of the test's own that already holds the copy."""
    folder = tmp_path / "cache" / "mlx-tinylm"
    folder.mkdir(parents=True)
    shutil.copy(built, folder)
    return folder.parent


def renamed(library: Path, to: Path, names: Mapping[str, str]) -> Path:
    """Another library, made of the copy: some names changed."""
    table = to.with_suffix(".names")
    table.write_text("".join(f"{old} {new}\n" for old, new in names.items()))
    program = platform_blas._patchelf()
    subprocess.run([program, "--rename-dynamic-symbols", table, "--output", to, library], check=True)
    return to


# ---------------------------------------------------------------------------------------------- what it does


@linux
def test_the_products_are_right(cache: Path) -> None:
    """With the library opened, MLX's products equal float64 NumPy's in many shapes, transposed or not."""
    after = """
import mlx.core as mx
import numpy as np
mx.set_default_device(mx.cpu)
draw = np.random.default_rng(0).standard_normal
def stored(x, transposed):
    return mx.array(x.swapaxes(-1, -2).copy()).swapaxes(-1, -2) if transposed else mx.array(x)
def check(a, b, a_t, b_t):
    left, right = stored(a, a_t), stored(b, b_t)
    wide = np.complex128 if a.dtype.kind == "c" else np.float64
    exact = a.astype(wide) @ b.astype(wide)
    return float(np.abs(np.array(left @ right) - exact).max() / np.abs(exact).max())
shapes = [((1, 1), (1, 1)), ((3, 7), (7, 5)), ((1, 256), (256, 1024)), ((512, 256), (256, 1024)),
          ((1024, 97), (97, 33)), ((8, 256, 64), (8, 64, 256)), ((2, 3, 65, 66), (2, 3, 66, 17))]
answer["errors"] = {}
for dtype in ("float32", "complex64"):
    for a, b in shapes:
        a, b = ((draw(s) + (1j * draw(s) if dtype[0] == "c" else 0)).astype(dtype) for s in (a, b))
        for transposed in ((0, 0), (0, 1), (1, 0), (1, 1)):
            answer["errors"][f"{dtype} {a.shape} @ {b.shape} {transposed}"] = check(a, b, *transposed)
"""
    errors = ask(cache, after=after)["errors"]
    assert len(errors) == 56
    assert {what: error for what, error in errors.items() if not error < 2e-6} == {}


@linux
def test_mlx_binds_its_products_to_the_copy_and_nothing_else_to_it(cache: Path, tmp_path: Path) -> None:
    """The loader itself says that MLX takes just the three products from the copy, and NumPy nothing."""
    after = "import mlx.core, numpy"
    ask(cache, after=after, LD_DEBUG="bindings", LD_DEBUG_OUTPUT=tmp_path / "bindings")
    lines = [line for log in tmp_path.glob("bindings.*") for line in log.read_text().splitlines()]
    to_copy = [line for line in lines if f" to {cache}" in line and f"binding file {cache}" not in line]
    by_mlx = {line.split("`")[1].split("'")[0] for line in to_copy if "libmlx.so" in line.split(" to ")[0]}
    assert by_mlx == set(PRODUCTS)
    others = [line for line in to_copy if "libmlx.so" not in line.split(" to ")[0]]
    assert others == []


@linux
def test_the_answer_names_the_library(cache: Path) -> None:
    """`info` gets a line with version, origin, kernels and threads, and the path of what is mapped."""
    answer = ask(cache)
    assert answer["source"].startswith("OpenBLAS 0.")
    assert "(scipy-openblas32 wheel), " in answer["source"]
    assert answer["source"].endswith((" thread", " threads"))
    assert " kernels, " in answer["source"]
    assert answer["mapped"] == [answer["path"]]
    assert answer["hint"] is None


@linux
def test_a_second_call_gives_the_first_answer(cache: Path) -> None:
    """Asking again, even after MLX is imported, gives the same answer and opens nothing."""
    after = "import mlx.core; answer['same'] = platform_blas.use_fast_blas() is blas"
    assert ask(cache, after=after)["same"]


@linux
def test_the_copy_is_made_once(cache: Path) -> None:
    """A good copy is used as it is: not written again, and without the start-up time of NumPy."""
    copy = next(cache.glob("mlx-tinylm/*"))
    before = copy.stat().st_ino, copy.stat().st_mtime_ns
    without_patchelf = "platform_blas.shutil.which = lambda name: None"
    answer = ask(cache, without_patchelf, "answer['numpy'] = 'numpy' in sys.modules")
    assert not answer["numpy"]
    assert answer["path"] == str(copy)
    assert (copy.stat().st_ino, copy.stat().st_mtime_ns) == before


@linux
def test_an_upgraded_wheel_gets_a_copy_of_its_own(cache: Path) -> None:
    """A copy of one version of the wheel does not serve the next."""
    answer = ask(cache, "platform_blas.importlib.metadata.version = lambda name: '9.9'")
    assert Path(answer["path"]).name.startswith("libopenblas-9.9-")
    assert len(list(cache.glob("mlx-tinylm/*"))) == 2


@linux
def test_processes_may_make_the_copy_at_once(tmp_path: Path) -> None:
    """Four processes that start with an empty cache all get the library, and leave one whole file."""
    answers = [finish(process) for process in [start(tmp_path, "", "", {}) for _ in range(4)]]
    assert {answer["path"] for answer in answers} == {str(file) for file in tmp_path.glob("mlx-tinylm/*")}
    assert {answer["hint"] for answer in answers} == {None}


# ------------------------------------------------------------------------------------------ sources, in order


@linux
def test_the_environment_variable_comes_first(cache: Path, built: Path, tmp_path: Path) -> None:
    """MLX_TINYLM_BLAS=PATH is opened instead of anything else."""
    mine = shutil.copy(built, tmp_path / "libopenblas-mine.so")
    answer = ask(cache, MLX_TINYLM_BLAS=mine)
    assert answer["mapped"] == [answer["path"]] == [str(mine)]
    assert "(MLX_TINYLM_BLAS)" in answer["source"]


@linux
def test_off_opens_nothing(cache: Path) -> None:
    """MLX_TINYLM_BLAS=off leaves MLX its own, without a hint: the user knows."""
    answer = ask(cache, MLX_TINYLM_BLAS="off")
    assert (answer["mapped"], answer["path"], answer["hint"]) == ([], "None", None)
    assert "MLX_TINYLM_BLAS=off" in answer["source"]


@linux
@pytest.mark.parametrize("value", ["/no/such/library.so", "nonsense", __file__, "libc.so.6"])
def test_a_useless_variable_is_said_and_passed_over(cache: Path, value: str) -> None:
    """Where MLX_TINYLM_BLAS names no BLAS, one line says so, and the next source serves."""
    answer = ask(cache, MLX_TINYLM_BLAS=value)
    assert answer["hint"].startswith(f"MLX_TINYLM_BLAS={value} is ignored: ")
    assert "\n" not in answer["hint"]
    assert "(scipy-openblas32 wheel)" in answer["source"]


@linux
def test_a_system_library_comes_before_the_wheel(cache: Path, built: Path, tmp_path: Path) -> None:
    """A libopenblas that the loader finds is used, after NumPy has bound its own."""
    shutil.copy(built, tmp_path / "libopenblas.so.0")
    before = "platform_blas.SYSTEM = ('libopenblas.so.0',); answer['early'] = 'numpy' in sys.modules"
    after = "answer['numpy'] = 'numpy' in sys.modules"
    answer = ask(cache, before, after, LD_LIBRARY_PATH=tmp_path)
    assert answer["mapped"] == [str(tmp_path / "libopenblas.so.0")]
    assert "(system)" in answer["source"]
    assert (answer["early"], answer["numpy"]) == (False, True)


@linux
def test_64_bit_integers_are_refused(cache: Path, built: Path, tmp_path: Path) -> None:
    """A library built for 64-bit integers (ILP64) is never given to MLX."""
    wide = renamed(
        built, tmp_path / "libopenblas.so.0", {"mlx_tinylm_scipy_openblas_get_config": "openblas_get_config"}
    )
    content = wide.read_bytes()
    assert content.count(b" DYNAMIC_ARCH ")
    wide.write_bytes(content.replace(b" DYNAMIC_ARCH ", b" USE64BITINT  "))
    answer = ask(cache, MLX_TINYLM_BLAS=wide)
    assert "64-bit integers" in answer["hint"]
    assert "(scipy-openblas32 wheel)" in answer["source"]
    system = ask(cache, "platform_blas.SYSTEM = ('libopenblas.so.0',)", LD_LIBRARY_PATH=tmp_path)
    assert "(scipy-openblas32 wheel)" in system["source"]


@linux
def test_an_mkl_that_does_not_multiply_is_passed_over(cache: Path, built: Path, tmp_path: Path) -> None:
    """MKL is tried in another process first, as one with missing parts would end this one."""
    before = "platform_blas.SYSTEM = ('libmkl_rt.so.2',)"
    shutil.copy(built, tmp_path / "libmkl_rt.so.2")
    assert "(system)" in ask(cache, before, LD_LIBRARY_PATH=tmp_path)["source"]
    wide = ask(cache, before, LD_LIBRARY_PATH=tmp_path, MKL_INTERFACE_LAYER="ILP64")
    assert "(scipy-openblas32 wheel)" in wide["source"]
    wrong = {"cblas_sgemm": "unused_sgemm", "cblas_dgemm": "cblas_sgemm", "cblas_cgemm": "cblas_cgemm"}
    renamed(built, tmp_path / "wrong.so", wrong | {"mlx_tinylm_scipy_cblas_zgemm": "cblas_dgemm"})
    os.replace(tmp_path / "wrong.so", tmp_path / "libmkl_rt.so.2")
    assert "(scipy-openblas32 wheel)" in ask(cache, before, LD_LIBRARY_PATH=tmp_path)["source"]


# ------------------------------------------------------------------------------------- settings of OpenBLAS


def cpuinfo(flags: set[str]) -> str:
    return f"processor\t: 0\nvendor_id\t: Some\nflags\t\t: fpu avx2 {' '.join(sorted(flags))}\nbugs\t\t:\n"


@pytest.mark.parametrize(
    ("text", "environment", "kernels"),
    [
        (cpuinfo(SKYLAKEX_NEEDS), {}, "SKYLAKEX"),
        (cpuinfo(SKYLAKEX_NEEDS), {"OPENBLAS_CORETYPE": "HASWELL"}, "HASWELL"),
        (cpuinfo(set()), {}, None),
        *((cpuinfo(SKYLAKEX_NEEDS - {flag}), {}, None) for flag in sorted(SKYLAKEX_NEEDS)),
        ("processor : 0\nFeatures : asimd sve\n", {}, None),  # an Arm
        ("", {}, None),
        (None, {}, None),  # no /proc
    ],
)
def test_avx512_kernels_are_asked_for(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    text: str | None,
    environment: dict[str, str],
    kernels: str | None,
) -> None:
    """SKYLAKEX kernels where /proc/cpuinfo shows all that they need and the user asked for nothing else."""
    if text is not None:
        (tmp_path / "cpuinfo").write_text(text)
    monkeypatch.setattr(platform_blas, "CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(os, "environ", environment)
    platform_blas._set_defaults()
    assert environment.get("OPENBLAS_CORETYPE") == kernels


@linux
def test_the_kernels_are_asked_for_before_the_library_is_opened(cache: Path) -> None:
    """What the environment names is what OpenBLAS then runs."""
    assert "Nehalem kernels" in ask(cache, OPENBLAS_CORETYPE="NEHALEM")["source"] or os.uname().machine != "x86_64"


@pytest.mark.parametrize(("mine", "expected"), [({}, "16"), ({"OPENBLAS_THREAD_TIMEOUT": "26"}, "26")])
def test_idle_threads_soon_sleep(monkeypatch: pytest.MonkeyPatch, mine: dict[str, str], expected: str) -> None:
    """Idle BLAS threads spin for a short while only, unless the user set another time."""
    monkeypatch.setattr(os, "environ", mine)
    platform_blas._set_defaults()
    assert mine["OPENBLAS_THREAD_TIMEOUT"] == expected


@linux
@pytest.mark.parametrize(
    ("quota", "cpus"),
    [
        ("max 100000", 4),
        ("200000 100000", 2),
        ("150000 100000", 2),
        ("50000 100000", 1),
        ("900000 100000", 4),
        (None, 4),
    ],
)
def test_cpus_are_counted_by_affinity_and_quota(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quota: str | None, cpus: int
) -> None:
    """The CPUs to use are those that the process may run on, or fewer where its container has a quota."""
    if quota is not None:
        (tmp_path / "cpu.max").write_text(quota)
    monkeypatch.setattr(platform_blas, "CPU_QUOTA", tmp_path / "cpu.max")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3})
    assert platform_blas.cpus() == cpus


@linux
def test_threads_are_limited_unless_the_user_said_how_many(cache: Path) -> None:
    """OpenBLAS gets no more threads than there are CPUs to use; OPENBLAS_NUM_THREADS stays as it was set."""
    one_cpu = "platform_blas.cpus = lambda: 1"
    assert ask(cache, one_cpu)["source"].endswith(", 1 thread")
    if len(os.sched_getaffinity(0)) > 1:
        assert ask(cache, one_cpu, OPENBLAS_NUM_THREADS="2")["source"].endswith(", 2 threads")


# ---------------------------------------------------------------------------------------------------- faults


@linux
@pytest.mark.parametrize("damage", ["truncated", "empty", "one bit", "no library"])
def test_a_damaged_copy_is_made_anew(cache: Path, built: Path, damage: str) -> None:
    """However the copy was damaged, it is neither mapped nor trusted, and replaced."""
    copy, good = cache / "mlx-tinylm" / built.name, built.read_bytes()
    middle = len(good) // 2
    copy.write_bytes(
        {
            "truncated": good[:middle],
            "empty": b"",
            "one bit": good[:middle] + bytes([good[middle] ^ 1]) + good[middle + 1 :],
            "no library": b"text" + zlib.crc32(b"text").to_bytes(4, "little"),
        }[damage]
    )
    answer = ask(cache)
    assert (answer["path"], answer["hint"]) == (str(copy), None)
    assert platform_blas._intact(copy)
    assert copy.stat().st_size == len(good)


@linux
def test_without_a_writable_cache_a_private_folder_serves(tmp_path: Path) -> None:
    """Where the cache cannot be written, products are fast all the same, and nothing stays behind."""
    blocked, temporary = tmp_path / "file", tmp_path / "tmp"
    blocked.touch()
    temporary.mkdir()
    answer = ask(blocked, TMPDIR=temporary)
    assert answer["hint"] is None
    assert answer["path"].startswith(str(temporary))
    assert "(scipy-openblas32 wheel)" in answer["source"]
    assert list(temporary.iterdir()) == []


@linux
def test_with_nowhere_to_write_the_products_are_slow(tmp_path: Path) -> None:
    """Where no folder at all can be written, one line hints at the remedy, and MLX still multiplies."""
    blocked = tmp_path / "file"
    blocked.touch()
    after = "import mlx.core as mx; answer['two'] = (mx.ones((1, 2)) @ mx.ones((2, 1))).item()"
    answer = ask(blocked, f"tempfile.tempdir = {str(blocked)!r}", after)
    assert_slow(answer, "Not a directory")
    assert answer["two"] == 2


@linux
@pytest.mark.parametrize(
    ("before", "reason"),
    [
        ("platform_blas.shutil.which = lambda name: None", "patchelf is not installed"),
        ("platform_blas._patchelf = lambda: '/bin/false'", "patchelf failed"),
        ("platform_blas._patchelf = lambda: '/no/such/program'", "No such file"),
        ("sys.modules['scipy_openblas32'] = None", "scipy-openblas32 is not installed"),
        ("platform_blas._from_wheel = lambda: 1 / 0", "ZeroDivisionError"),
    ],
)
def test_what_is_missing_is_said_in_one_line(tmp_path: Path, before: str, reason: str) -> None:
    """Without a source of a library MLX keeps its own; the hint names the reason and the remedy."""
    assert_slow(ask(tmp_path, before), reason)
    assert [file for file in tmp_path.rglob("*") if file.is_file()] == []


@linux
def test_an_mlx_imported_before_is_said(cache: Path) -> None:
    """Once MLX is imported nothing can help it: nothing is opened, and the hint says why."""
    assert_slow(ask(cache, "import mlx.core"), "imported too early")


def assert_slow(answer: Any, reason: str) -> None:
    assert (answer["mapped"], answer["path"]) == ([], "None")
    assert "slow" in answer["source"]
    assert reason in answer["hint"]
    assert "pip install 'mlx-tinylm[cpu]'" in answer["hint"]
    assert "\n" not in answer["hint"]


def test_no_hint_where_the_slow_wheel_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """MLX on CUDA, or built by its user, is not called slow."""

    def version(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert platform_blas._slow("anything") == Blas("MLX's own")


@pytest.mark.parametrize(
    ("before", "source"),
    [
        ("sys.platform = 'darwin'", "Accelerate (macOS)"),
        ("sys.platform = 'win32'", "MLX's own"),
        ("sys.platform = 'linux'; sys.modules['mlx'] = None", "none (MLX is not installed)"),
    ],
)
def test_elsewhere_nothing_is_opened(tmp_path: Path, before: str, source: str) -> None:
    """On macOS, on Windows and without MLX nothing is looked for, opened, written or set."""
    before += """
def fail(*_, **__):
    raise SystemExit("opened")
platform_blas.ctypes.CDLL = fail
mapped = list
environment = dict(os.environ)
"""
    answer = ask(tmp_path, before, "answer['env'] = environment == dict(os.environ)")
    assert (answer["source"], answer["path"], answer["hint"], answer["env"]) == (source, "None", None, True)
    assert list(tmp_path.iterdir()) == []


def test_set_threads_reaches_the_library() -> None:
    """After set_threads(1), the library that MLX was given says so itself; a number the user set stays."""
    code = "import mlx_tinylm.platform_blas as b; b.use_fast_blas(); b.set_threads(1); print(b._threads(b._opened[-1]))"
    environment = {key: value for key, value in os.environ.items() if "NUM_THREADS" not in key}
    chosen = {**environment, "OPENBLAS_NUM_THREADS": "2"}
    runs = [
        subprocess.run([sys.executable, "-c", code], env=e, capture_output=True, text=True)
        for e in (environment, chosen)
    ]
    assert [run.stdout.strip() for run in runs] == ["1", "2"], [run.stderr for run in runs]
