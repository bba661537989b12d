"""How fast this program is on this machine: a table to compare, or to paste into an issue.

Each speed is measured in a process of its own. Threads, allocator, compiled kernels and the peak of memory belong to
a process, so one that had trained would generate neither as `mlx-tinylm generate` does nor from a known state.
"""

from __future__ import annotations

import multiprocessing
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

import numpy as np

from mlx_tinylm.backend.choose import SMALL, load
from mlx_tinylm.backend.devices import prepare, prepare_if_possible
from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.generation import stream_generate
from mlx_tinylm.info import SystemFacts, system_facts
from mlx_tinylm.model_folder.folder import shipped_weights
from mlx_tinylm.run_folder.presets import PRESETS
from mlx_tinylm.run_folder.settings import TrainConfig

TRAINED = {name: PRESETS[name] for name in ("tiny", "seed")}
VOCABULARY = 66
WARM_UP, STEPS, SECONDS = 5, 5, 2.0  # steps left out; and timed at least, for at least so long
FIRST, CHARACTERS = 40, 400  # left out, while the cache is filled and kernels are compiled; and all that are written
STARTS = 3
ONE_CHARACTER = (sys.executable, "-m", "mlx_tinylm", "generate", "--prompt", "R", "--max-tokens", "1")
T = TypeVar("T")


@dataclass(frozen=True)
class Training:
    """A step of training with a preset."""

    preset: str
    tokens: int  # in a step
    seconds: float  # the median step
    peak_mib: float  # the most that MLX held at once

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds

    def rows(self) -> list[tuple[str, Any]]:
        """Labels and values, rounded for people."""
        return [
            (f"training {self.preset}, tokens/s", round(self.tokens_per_second)),
            (f"training {self.preset}, s/step", round(self.seconds, 4)),
            (f"training {self.preset}, MiB", round(self.peak_mib, 1)),
        ]

    def to_json(self) -> dict[str, Any]:
        return {
            "tokens_per_second": self.tokens_per_second,
            "seconds_per_step": self.seconds,
            "peak_mib": self.peak_mib,
        }


@dataclass(frozen=True)
class Generation:
    """How fast a back end writes."""

    backend: str
    characters_per_second: float

    def rows(self) -> list[tuple[str, Any]]:
        """Labels and values, rounded for people."""
        return [(f"generation {self.backend}, characters/s", round(self.characters_per_second))]

    def to_json(self) -> dict[str, Any]:
        return {"characters_per_second": self.characters_per_second}


@dataclass(frozen=True)
class Choice:
    """What `--backend auto` takes to write with the weights that ship."""

    backend: str
    largest: int | None  # of the models for which it takes NumPy here, in parameters; None where size decides nothing

    def rows(self) -> list[tuple[str, Any]]:
        """A label and a value for people."""
        limit = "" if self.largest is None else f" (up to {self.largest // 10**6} million parameters)"
        return [("generation auto takes", f"{self.backend}{limit}")]

    def to_json(self) -> dict[str, Any]:
        return {"backend": self.backend, "largest_numpy": self.largest}


@dataclass(frozen=True)
class Start:
    """From a command to its first character, the program's start included."""

    seconds: float

    def rows(self) -> list[tuple[str, Any]]:
        """Labels and values, rounded for people."""
        return [("first character, s", round(self.seconds, 3))]


Measurement = SystemFacts | Training | Generation | Choice | Start


@dataclass(frozen=True)
class Benchmark:
    """All that was measured."""

    system: SystemFacts
    training: tuple[Training, ...]  # none without MLX
    generation: tuple[Generation, ...]
    choice: Choice
    start: Start

    @classmethod
    def of(cls, found: Iterable[Measurement]) -> Benchmark:
        """The record of whole `measurements`."""
        found = list(found)
        (system,) = (each for each in found if isinstance(each, SystemFacts))
        (choice,) = (each for each in found if isinstance(each, Choice))
        (start,) = (each for each in found if isinstance(each, Start))
        training = tuple(each for each in found if isinstance(each, Training))
        return cls(system, training, tuple(each for each in found if isinstance(each, Generation)), choice, start)

    def to_json(self) -> dict[str, Any]:
        """The facts of the system as they are in `info`, training by preset, generation by back end."""
        return self.system.to_json() | {
            "training": {each.preset: each.to_json() for each in self.training},
            "generation": {each.backend: each.to_json() for each in self.generation},
            "generation_auto": self.choice.to_json(),
            "first_character_seconds": self.start.seconds,
        }


def measure() -> Benchmark:
    """The whole benchmark, in about a minute."""
    return Benchmark.of(measurements())


def measurements(
    trained: Mapping[str, TrainConfig] = TRAINED, characters: int = CHARACTERS, starts: int = STARTS
) -> Iterator[Measurement]:
    """One measurement after the other, as it becomes known; each has `rows` to print.

    Raises TinyLMError where one needs more memory than there is.
    """
    system = alone(system_facts)
    yield system
    if system.compute:
        for name, config in trained.items():
            yield alone(training_step, name, config)
    for backend in ("mlx", "numpy") if system.compute else ("numpy",):
        yield alone(writing, backend, characters)
    yield alone(auto_choice)
    yield first_character(starts)


def alone(measurement: Callable[..., T], *arguments: Any) -> T:
    """What a measurement returns in a fresh process of its own."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        try:
            return process.submit(measurement, *arguments).result()
        except BrokenProcessPool:
            raise TinyLMError(
                "the system ended a measurement, as it does where memory runs out; close other programs and try again"
            ) from None


def training_step(name: str, config: TrainConfig) -> Training:
    """How long a step on random text takes."""
    compute = prepare(spread=True)
    import mlx.core as mx

    from mlx_tinylm.training.loop import run_steps
    from mlx_tinylm.training.state import check_memory, new_state
    from mlx_tinylm.training.step import make_step

    model_config = config.model_config(VOCABULARY, VOCABULARY - 1)
    check_memory(config, model_config, compute)
    ids = np.random.default_rng(0).integers(VOCABULARY - 1, size=20 * config.batch_size * config.context)
    ids = ids.astype(np.uint16)
    state = new_state(config, model_config, compute)
    step = make_step(state, config, compute)
    steps = run_steps(step, state, config, ids, sys.maxsize, lambda: False)
    seconds = median_seconds(steps)
    return Training(name, config.tokens_per_step, seconds, mx.get_peak_memory() / 2**20)


def median_seconds(
    events: Iterator[object], warm_up: int = WARM_UP, timed: int = STEPS, least: float = SECONDS
) -> float:
    """The median time that an event takes, from the one before, after the first `warm_up`.

    Of `timed` events, and of as many more as come in `least` seconds.
    """
    for _ in islice(events, warm_up):
        pass
    seconds: list[float] = []
    began = before = time.perf_counter()
    while len(seconds) < timed or before - began < least:
        next(events)
        now = time.perf_counter()
        seconds.append(now - before)
        before = now
    return statistics.median(seconds)


def writing(backend: str, characters: int) -> Generation:
    """How fast the weights that ship write on a back end."""
    model, tokenizer = load(shipped_weights(), backend)
    pieces = stream_generate(model, tokenizer, "ROMEO:", max_tokens=characters, seed=1)
    return Generation(backend, characters_per_second(pieces))


def auto_choice() -> Choice:
    """Which back end writes where none is asked for."""
    model, _ = load(shipped_weights())
    compute = prepare_if_possible()
    return Choice(model.backend, SMALL if compute and compute.device == "cpu" else None)


def characters_per_second(pieces: Iterator[str], left_out: int = FIRST) -> float:
    """The speed at which text comes, the first pieces left out."""
    for _ in islice(pieces, left_out):
        pass
    started = time.perf_counter()
    return sum(map(len, pieces)) / (time.perf_counter() - started)


def first_character(starts: int = STARTS, command: Sequence[str] = ONE_CHARACTER) -> Start:
    """The median time of a whole process that writes one character and ends."""
    seconds = []
    for _ in range(starts):
        started = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        seconds.append(time.perf_counter() - started)
    return Start(statistics.median(seconds))
