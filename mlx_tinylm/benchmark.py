"""How fast this program is on this machine: a table to compare, or to paste into an issue."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from mlx_tinylm.backend.choose import has_mlx, load, require_mlx
from mlx_tinylm.generation import stream_generate
from mlx_tinylm.info import system_facts
from mlx_tinylm.model_folder.folder import shipped_weights
from mlx_tinylm.run_folder.presets import preset

TRAINED = ("tiny", "seed")  # presets
VOCABULARY = 66
WARM_UP, STEPS = 2, 5
CHARACTERS, FIRST = 400, 40  # written, and left out of the speed: the cache is filled, kernels are compiled
STARTS = 3
ONE_CHARACTER = [sys.executable, "-m", "mlx_tinylm", "generate", "--prompt", "R", "--max-tokens", "1"]


def measurements() -> Iterator[tuple[str, Any]]:
    """Name and value of one fact after the other, those that take a while as they become known.

    Speeds are medians or means over some seconds; memory is the most that MLX held at once.
    """
    yield from system_facts().items()
    if has_mlx():
        for name in TRAINED:
            seconds, mebibytes = step_seconds(name)
            config = preset(name)
            tokens = config.batch_size * config.grad_accumulation_steps * config.context
            yield f"training {name}, tokens/s", round(tokens / seconds)
            yield f"training {name}, s/step", round(seconds, 4)
            yield f"training {name}, MiB", round(mebibytes, 1)
    for backend in ["mlx", "numpy"] if has_mlx() else ["numpy"]:
        yield f"generation {backend}, characters/s", round(characters_per_second(backend))
    yield "first character, s", round(first_character_seconds(), 3)


def step_seconds(name: str) -> tuple[float, float]:
    """The median time of a training step with a preset, and the most memory that MLX held, in MiB."""
    require_mlx()
    import mlx.core as mx

    from mlx_tinylm.training.loop import run_steps
    from mlx_tinylm.training.state import check_memory, new_state
    from mlx_tinylm.training.step import make_step

    config = preset(name)
    model_config = config.model_config(VOCABULARY, VOCABULARY - 1)
    check_memory(config, model_config)
    ids = np.random.default_rng(0).integers(VOCABULARY - 1, size=20 * config.batch_size * config.context)
    ids = ids.astype(np.uint16)
    mx.clear_cache()
    mx.reset_peak_memory()
    state = new_state(config, model_config)
    seconds, before = [], time.perf_counter()
    # A step is on its way while the last one's loss is read, so one more is begun than is timed.
    steps = run_steps(make_step(state, config, ids), state, config, len(ids), WARM_UP + STEPS + 1, lambda: False)
    for _ in range(WARM_UP + STEPS):
        next(steps)
        seconds.append(time.perf_counter() - before)
        before = time.perf_counter()
    return statistics.median(seconds[WARM_UP:]), mx.get_peak_memory() / 2**20


def characters_per_second(backend: str) -> float:
    """The speed at which the weights that ship write, the first few characters left out."""
    model, tokenizer = load(shipped_weights(), backend)
    pieces = stream_generate(model, tokenizer, "ROMEO:", max_tokens=CHARACTERS, seed=1)
    for _ in range(FIRST):
        next(pieces)
    started = time.perf_counter()
    return len(list(pieces)) / (time.perf_counter() - started)


def first_character_seconds() -> float:
    """From the command to its first character, the program's start included: the median of a few."""
    seconds = []
    for _ in range(STARTS):
        started = time.perf_counter()
        subprocess.run(ONE_CHARACTER, check=True, capture_output=True)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)
