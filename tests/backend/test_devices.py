"""Computing is set up by one call, for training or for generation, as often as one likes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from conftest import random_folder

import mlx_tinylm
from mlx_tinylm.backend import devices
from mlx_tinylm.backend.blas import cpus
from mlx_tinylm.backend.devices import Compute, prepare
from mlx_tinylm.backend.lanes import shards, streams
from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.model_folder.config import GPT2Config

PROCESS = """
import json, os, sys
import mlx_tinylm, mlx_tinylm.backend.choose, mlx_tinylm.evaluation, mlx_tinylm.info, mlx_tinylm.cli.main
before = dict(os.environ)
answer = {"imported": "mlx" in sys.modules}
from mlx_tinylm.backend.devices import prepare
computes = [prepare("cpu", spread=spread) for spread in (True, True, False, True)]
answer["settings"] = [[c.streams, c.blas_threads] for c in computes]
answer["same"] = computes[0] == computes[1] == computes[3]
answer["width"] = os.environ.get("MLX_BFS_MAX_WIDTH")
answer["set"] = sorted(os.environ.keys() - before.keys())
print(json.dumps(answer))
"""


def fresh_process(**environment: str) -> Any:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("OPENBLAS", "MLX", "OMP"))}
    path = {"PYTHONPATH": str(Path(mlx_tinylm.__file__).parents[1])}
    command = [sys.executable, "-c", PROCESS]
    done = subprocess.run(command, env=inherited | path | environment, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere MLX's BLAS is the system's")
def test_prepare() -> None:
    """Importing sets up nothing; `prepare` does, the last call counts, and the same call gives the same answer."""
    answer = fresh_process()
    assert not answer["imported"]
    assert answer["same"]
    spread, whole = [cpus(), 1], [1, cpus()]
    assert answer["settings"] == [spread, spread, whole, spread]
    assert answer["width"] == "1000"
    assert {"MLX_BFS_MAX_WIDTH", "OPENBLAS_THREAD_TIMEOUT"} <= set(answer["set"])


def test_what_the_user_set_stays() -> None:
    """Neither the breadth of the dispatch nor the number of BLAS threads is changed where the environment names one."""
    answer = fresh_process(MLX_BFS_MAX_WIDTH="7", OPENBLAS_NUM_THREADS="1")
    assert answer["width"] == "7"
    assert {threads for _, threads in answer["settings"]} == {1}


def test_a_device_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that MLX does not have is refused in one line, and the default device stays."""
    monkeypatch.setattr(mx, "is_available", lambda device: False)
    with pytest.raises(TinyLMError, match="MLX has no gpu here; leave out --device"):
        prepare("gpu")
    assert mx.default_device() == mx.cpu


def test_a_gpu_has_one_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU nothing of the CPU is set up."""
    monkeypatch.delenv("MLX_BFS_MAX_WIDTH", raising=False)
    monkeypatch.setattr(mx, "is_available", lambda device: True)
    monkeypatch.setattr(mx, "set_default_device", lambda device: None)
    monkeypatch.setattr(mx, "default_device", lambda: mx.Device(mx.gpu, 0))
    compute = prepare("gpu", spread=True)
    assert (compute.device, compute.streams, compute.blas_threads) == ("gpu", 1, None)
    assert "MLX_BFS_MAX_WIDTH" not in os.environ


def test_without_mlx(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where MLX cannot be imported, `prepare` says what to install and `prepare_if_possible` gives None."""
    monkeypatch.setitem(sys.modules, "mlx.core", None)
    with pytest.raises(TinyLMError, match=r"MLX is not installed here.*pip install 'mlx-tinylm\[cpu\]'"):
        prepare()
    assert devices.prepare_if_possible() is None


FORK = """
import os, signal, sys
from pathlib import Path
import mlx_tinylm
from mlx_tinylm.backend.choose import load_model
from mlx_tinylm.backend.devices import prepare
from mlx_tinylm.model_folder.folder import open_folder

def write(loaded):
    return mlx_tinylm.generate(*loaded, "The", max_tokens=3, temperature=0)

def child(work, *arguments):
    sys.stdout.flush()
    if os.fork() == 0:
        signal.alarm(20)  # rather than wait forever
        try:
            print(work(*arguments))
        except mlx_tinylm.TinyLMError as error:
            print("refused:", error)
        sys.stdout.flush()
        os._exit(0)
    assert os.wait()[1] == 0

assert "mlx.core" not in sys.modules
folder = Path(sys.argv[1])
child(lambda: write(mlx_tinylm.load(folder, "mlx")))  # nothing has been computed yet
loaded = mlx_tinylm.load(folder, "mlx")
print(write(loaded))
child(write, loaded)
child(lambda: loaded[0].logits(__import__("numpy").array([[1]])))
child(lambda: mlx_tinylm.load(folder, "mlx"))
child(prepare)
child(lambda: write(mlx_tinylm.load(folder)))
child(lambda: write(mlx_tinylm.load(folder, "numpy")))
child(lambda: load_model(open_folder(folder), spread=True).backend)
child(child, write, loaded)
print(write(loaded))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked here")
def test_after_a_fork(tmp_path: Path) -> None:
    """What MLX would never finish in a forked process is refused there at once, and NumPy takes its place.

    That goes for models from before, for new ones and for setting up; not for a process in which MLX did nothing yet.
    """
    folder = random_folder(tmp_path, GPT2Config(vocab_size=96, context=8, width=16, layers=1, heads=2))
    path = {"PYTHONPATH": str(Path(mlx_tinylm.__file__).parents[1])}
    command = [sys.executable, "-W", "ignore", "-c", FORK, folder]
    done = subprocess.run(command, env=os.environ | path, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    first, same, *after, last = done.stdout.splitlines()
    refused = [line.startswith("refused: MLX cannot be used in a process forked") for line in after]
    assert refused == [True, True, True, True, False, False, False, True, False]
    assert all("multiprocessing.get_context('spawn')" in line and "backend='numpy'" in line for line in after[:4])
    assert after[4:7] == [first, first, "numpy"]
    assert first == same == last


def compute(count: int) -> Compute:
    return Compute("cpu", count, 1, prepare().blas)


@pytest.mark.parametrize(("count", "most", "wanted"), [(1, 5, 1), (2, 5, 2), (3, 2, 2), (3, 1, 1)])
def test_streams(count: int, most: int, wanted: int) -> None:
    """There are as many streams as asked for and as there is work, all different, the same at every call."""
    streams(compute(4), 4)  # a later run may be spread less than one before
    made = streams(compute(count), most)
    assert len(made) == len({str(stream) for stream in made}) == wanted
    assert [str(stream) for stream in streams(compute(count), most)] == [str(stream) for stream in made]


def test_streams_belong_to_a_thread() -> None:
    """A second thread gets streams of its own, and can compute on them."""
    sums = []
    indices = {str(stream) for stream in streams(compute(2), 2)}

    def work() -> None:
        made = streams(compute(2), 2)
        indices.update(str(stream) for stream in made)
        for stream in made:
            with mx.stream(stream):
                sums.append(mx.arange(10).sum().item())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert sums == [45, 45]
    assert len(indices) == 4


@pytest.mark.parametrize(("count", "parts"), [(16, 2), (7, 3), (2, 2), (1, 1)])
def test_shards(count: int, parts: int) -> None:
    """Shards cover everything once, in order, and differ by one at most."""
    pieces = [range(count)[part] for part in shards(count, parts)]
    assert [thing for piece in pieces for thing in piece] == list(range(count))
    sizes = [len(piece) for piece in pieces]
    assert min(sizes) >= max(1, max(sizes) - 1)


@pytest.mark.parametrize(("value", "allowed"), [(None, True), ("1", True), ("0", False)])
def test_tf32(value: str | None, allowed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU may multiply float32 in TF32 unless told not to; a CPU has none; the tests ask for whole products."""
    assert os.environ["MLX_ENABLE_TF32"] == "0"
    monkeypatch.delenv("MLX_ENABLE_TF32")
    if value is not None:
        monkeypatch.setenv("MLX_ENABLE_TF32", value)
    assert Compute("gpu", 1, None, prepare().blas).may_use_tf32 == allowed
    assert not compute(1).may_use_tf32
