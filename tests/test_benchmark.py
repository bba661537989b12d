"""The figures of `bench`: what is timed, what is left out, and how it is shown."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest
from tiny_runs import PLAIN

from mlx_tinylm.backend.choose import SMALL
from mlx_tinylm.benchmark import (
    Benchmark,
    Choice,
    Generation,
    Start,
    Training,
    alone,
    characters_per_second,
    first_character,
    measurements,
    median_seconds,
)
from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.info import SystemFacts

SYSTEM = SystemFacts("3.11", "Linux", {"mlx-tinylm": "0.1"}, 4, None)
MEASURED = [SYSTEM, Training("tiny", 4096, 0.8, 667.77), Generation("mlx", 251.7), Generation("numpy", 664)]
MEASURED += [Choice("numpy", 120_000_000), Start(0.4)]


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Iterator[str]]:
    """Makes pieces that come after given waits in seconds, by a clock that goes on by nothing else."""
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def pieces(waits: list[float], piece: str = "x") -> Iterator[str]:
        for wait in waits:
            now[0] += wait
            yield piece

    return pieces


def test_the_whole_benchmark() -> None:
    """Each preset and back end is measured, a larger step takes longer, and each counts its own memory."""
    trained = {
        "large": dataclasses.replace(PLAIN, context=128, width=64, batch_size=64, steps=50),
        "small": dataclasses.replace(PLAIN, batch_size=2, grad_accumulation_steps=2, steps=50),
    }
    found = Benchmark.of(measurements(trained, characters=60, starts=1))
    large, small = found.training
    assert (small.preset, small.tokens) == ("small", 2 * 2 * 8)
    assert (large.preset, large.tokens) == ("large", 64 * 128)
    assert large.seconds > 2 * small.seconds > 0
    logits = 64 * 128 * 66 * 4 / 2**20
    assert small.peak_mib < logits < large.peak_mib < 1000  # each counts its own
    assert [each.backend for each in found.generation] == ["mlx", "numpy"]
    assert all(each.characters_per_second > 1 for each in found.generation)
    assert found.choice == Choice("numpy", SMALL)  # the tests run on a CPU
    assert 0.05 < found.start.seconds < 60


def test_the_record_and_the_table() -> None:
    """JSON has a place for each figure, with snake_case keys; people read them rounded, with their units."""
    found = Benchmark.of(MEASURED).to_json()
    assert found == SYSTEM.to_json() | {
        "training": {"tiny": {"tokens_per_second": 5120, "seconds_per_step": 0.8, "peak_mib": 667.77}},
        "generation": {"mlx": {"characters_per_second": 251.7}, "numpy": {"characters_per_second": 664}},
        "generation_auto": {"backend": "numpy", "largest_numpy": 120_000_000},
        "first_character_seconds": 0.4,
    }
    rows = [row for measured in MEASURED[1:] for row in measured.rows()]
    assert rows == [
        ("training tiny, tokens/s", 5120),
        ("training tiny, s/step", 0.8),
        ("training tiny, MiB", 667.8),
        ("generation mlx, characters/s", 252),
        ("generation numpy, characters/s", 664),
        ("generation auto takes", "numpy (up to 120 million parameters)"),
        ("first character, s", 0.4),
    ]
    assert Choice("mlx", None).rows() == [("generation auto takes", "mlx")]


def test_warm_up_and_outliers_do_not_count(slow: Callable[..., Iterator[str]]) -> None:
    """A step takes the median of those that follow the warm-up, and no more steps are made than are timed."""
    events = slow([9, 8, 1, 5, 2, 7])
    assert median_seconds(events, warm_up=2, timed=3) == 2
    assert len(list(events)) == 1


def test_short_steps_are_timed_for_a_while(slow: Callable[..., Iterator[str]]) -> None:
    """Five steps are left out, as caches and clocks settle; what takes a moment is timed for two seconds in all."""
    events = slow([*5 * [9], *8 * [0.25], 7])
    assert median_seconds(events) == 0.25
    assert list(events) == ["x"]
    assert median_seconds(slow([*5 * [9], *5 * [3]])) == 3


def test_a_speed_leaves_the_beginning_out(slow: Callable[..., Iterator[str]]) -> None:
    """Characters are counted, not pieces, after the first pieces."""
    assert characters_per_second(slow([9, 9, *10 * [0.5]], "two"), left_out=2) == 6


def test_the_wait_for_a_character_is_the_program_s() -> None:
    """It is that of a whole process, and a process that fails is no measurement."""
    assert 0.3 <= first_character(1, [sys.executable, "-c", "import time; time.sleep(0.3)"]).seconds < 10
    with pytest.raises(subprocess.CalledProcessError):
        first_character(1, [sys.executable, "-c", "raise SystemExit(1)"])


def test_a_measurement_has_a_process_of_its_own() -> None:
    """What it raises is raised here, and where the system ends it, one line says so."""
    assert alone(os.getpid) != os.getpid()
    with pytest.raises(ValueError, match="invalid literal"):
        alone(int, "x")
    with pytest.raises(TinyLMError, match="the system ended a measurement, as it does where memory runs out"):
        alone(os._exit, 1)
