"""Threads of the BLAS behind NumPy: limited around our own products, and left as they were."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import random_folder, random_tensors
from threadpoolctl import ThreadpoolController

from mlx_tinylm.backend import numpy_model
from mlx_tinylm.backend.numpy_model import NumpyModel
from mlx_tinylm.backend.numpy_threads import spread_over_cores
from mlx_tinylm.model_folder.config import GPT2Config

NARROW = GPT2Config(vocab_size=13, context=12, width=15, layers=2, heads=3)
WIDE = dataclasses.replace(NARROW, width=numpy_model.NARROW + 1, heads=1, layers=1)
IDS = np.random.default_rng(0).integers(0, 13, (5, 9)).astype(np.int32)


def now() -> set[int]:
    """How many threads a product uses in each BLAS whose threads can be told; MLX's is none of them."""
    return {each.num_threads for each in ThreadpoolController().select(user_api="blas").lib_controllers}


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    """A setting of the caller's, on any machine."""
    if not now():
        pytest.skip("the threads of this NumPy's BLAS cannot be told")  # Accelerate, on a Mac
    with ThreadpoolController().limit(limits=2, user_api="blas"):
        assert now() == {2}
        yield


def seen_by(model: NumpyModel, monkeypatch: pytest.MonkeyPatch, compute: Callable[[NumpyModel], Any]) -> set[int]:
    """The numbers of threads that the passes of a model had."""
    seen: set[int] = set()
    passes = model.network.hidden_states

    class Network:
        head = staticmethod(model.network.head)

        def hidden_states(self, *given: Any) -> Any:
            seen.update(now())
            return passes(*given)

    monkeypatch.setattr(model, "network", Network())
    compute(model)
    assert now() == {2}
    return seen


@pytest.mark.parametrize(
    ("config", "cores", "compute", "threads"),
    [
        (NARROW, 2, lambda model: model.losses(IDS, IDS), 1),
        (NARROW, 1, lambda model: model.logits(IDS), 1),
        (WIDE, 2, lambda model: model.losses(IDS, IDS), 1),
        (WIDE, 2, lambda model: model.logits(IDS[:1]), 2),  # one window: its products have all cores
        (WIDE, 16, lambda model: model.logits(IDS[:1]), 2),  # no more than the caller allows
    ],
)
def test_one_thread_in_each_product(
    config: GPT2Config, cores: int, compute: Any, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each window has its share of the cores, small products never more than one; then all is as it was."""
    monkeypatch.setattr(numpy_model, "cpus", lambda: cores)
    assert seen_by(NumpyModel(config, random_tensors(config)), monkeypatch, compute) == {threads}


@pytest.mark.parametrize(("ids", "threads"), [([1, 2], 1), ([1], 2)])
def test_reading_a_prompt(ids: list[int], threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A prompt has one thread where products are small; nothing is set for a single id: that would take as long."""
    model = NumpyModel(NARROW, random_tensors(NARROW))
    cache = model.new_cache(4)
    assert seen_by(model, monkeypatch, lambda model: model.next_logits(ids, cache)) == {threads}


@pytest.mark.parametrize("cores", [1, 3, 16])
def test_any_number_of_cores(cores: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many windows are computed at once, each has its own losses, in order, with no warning from a thread."""
    model = NumpyModel(NARROW, random_tensors(NARROW))
    expected = [model.losses(IDS[row : row + 1], IDS[::-1][row : row + 1])[0] for row in range(5)]
    monkeypatch.setattr(numpy_model, "cpus", lambda: cores)
    np.testing.assert_array_equal(model.losses(IDS, IDS[::-1]), expected)


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of windows whose attention needs much memory fewer are computed at once."""
    at_once = running = 0
    lock = threading.Lock()
    model = NumpyModel(NARROW, random_tensors(NARROW))
    passes, together = model.network.hidden_states, threading.Barrier(2)

    class Network:
        head = staticmethod(model.network.head)

        def hidden_states(self, ids: Any) -> Any:
            nonlocal at_once, running
            with lock:
                running += 1
                at_once = max(at_once, running)
            if wait:
                together.wait(timeout=60)
            found = passes(ids)
            with lock:
                running -= 1
            return found

    monkeypatch.setattr(model, "network", Network())
    monkeypatch.setattr(numpy_model, "cpus", lambda: 2)
    wait = True
    model.logits(IDS[:4])
    assert at_once == 2
    wait, at_once = False, 0
    monkeypatch.setattr(numpy_model, "SCORES_AT_ONCE", 3 * 9 * 9)
    model.logits(IDS)
    assert at_once == 1


def test_a_failure_leaves_the_threads_alone() -> None:
    """An error or Ctrl-C in the middle comes through, and the setting is what it was."""

    def fail(row: int) -> None:
        raise KeyboardInterrupt

    for workers in (1, 2):
        with pytest.raises(KeyboardInterrupt):
            spread_over_cores(fail, range(4), workers=workers, threads=1)
        assert now() == {2}


PROGRAM = """
import json, sys
import numpy
from threadpoolctl import threadpool_info
def now():
    return sorted((each["filepath"], each["num_threads"]) for each in threadpool_info())
found = [now()]
import mlx_tinylm
from mlx_tinylm.backend import numpy_model, numpy_threads
found.append(now())
model, tokenizer = mlx_tinylm.load(sys.argv[1], "numpy")
model.losses(*numpy.ones((2, 3, 5), numpy.int32))
mlx_tinylm.generate(model, tokenizer, "!" * 5, max_tokens=3)
found.append(now())
print(json.dumps(found))
"""


def process(program: str, *arguments: object) -> Any:
    """What a process of its own prints as JSON, whose BLAS begins with two threads."""
    given = [sys.executable, "-W", "error", "-c", program, *map(str, arguments)]
    around = {**os.environ, "OPENBLAS_NUM_THREADS": "2"}
    done = subprocess.run(given, capture_output=True, text=True, timeout=120, env=around)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_importing_changes_no_threads(tmp_path: Path) -> None:
    """Neither importing this package nor evaluating and writing with it changes what the process has set."""
    before, imported, computed = process(PROGRAM, random_folder(tmp_path / "model", NARROW))
    assert before
    assert before == imported == computed


TWO = """
import json, numpy, sys, threading
from threadpoolctl import threadpool_info
from mlx_tinylm.backend.numpy_threads import at_most_threads
def now():
    return [each["num_threads"] for each in threadpool_info()]
found = [now()]
entered, leave = threading.Event(), threading.Event()
def other():
    with at_most_threads(1):
        entered.set()
        leave.wait(60)
thread = threading.Thread(target=other)
thread.start()
entered.wait(60)
with at_most_threads(1):
    found.append(now())
    if sys.argv[1] == "first in, first out":
        leave.set()
        thread.join()
leave.set()
thread.join()
print(json.dumps([*found, now()]))
"""


@pytest.mark.parametrize("order", ["first in, first out", "first in, last out"])
def test_two_at_a_time(order: str) -> None:
    """Where two threads compute at once, whichever ends first, the setting is in the end what it was."""
    assert process(TWO, order) == [[2], [1], [2]]
