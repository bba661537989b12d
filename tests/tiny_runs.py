"""Runs and steps that take a moment, and the program as a command of its own: what the tests of training share."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import numpy as np

from mlx_tinylm.backend.devices import Compute, prepare
from mlx_tinylm.model_folder.tensor_files import Tensors, read_safetensors
from mlx_tinylm.run_folder.events import Event, Stepped
from mlx_tinylm.run_folder.history import snapshots, spaced
from mlx_tinylm.run_folder.record import RunRecord
from mlx_tinylm.run_folder.settings import TrainConfig
from mlx_tinylm.text.ids import Ids
from mlx_tinylm.training import checkpoint, resumption, run
from mlx_tinylm.training.loop import run_steps
from mlx_tinylm.training.run import Run
from mlx_tinylm.training.state import TrainState, kept_tensors, new_state
from mlx_tinylm.training.step import make_step

# What decides a step is spelled out: these runs stay what they are when a default changes.
PLAIN = TrainConfig(
    family="gpt2",
    layers=1,
    heads=2,
    width=16,
    context=8,
    optimizer="adamw",
    learning_rate=3e-3,
    beta1=0.9,
    beta2=0.95,
    weight_decay=0.1,
    muon_learning_rate=0.02,
    muon_weight_decay=0.1,
    grad_clip=1.0,
    steps=8,
    schedule="constant",
    batch_size=4,
    eval_every=4,
    save_every=2,
    sample_every=None,
)
# Everything that keeps a state of its own: two kinds of optimizer, averaged weights, dropout masks, accumulation.
RICH = dataclasses.replace(
    PLAIN,
    family="qwen3",
    optimizer="muon",
    dropout=0.2,
    ema=0.9,
    warmup_steps=2,
    batch_size=2,
    grad_accumulation_steps=2,
)
CONFIGS = {"gpt2-adamw": PLAIN, "qwen3-muon-dropout-ema": RICH}
# A text without words, the same on every Python: what a run on it computes can be written down.
IDS: Ids = (np.arange(700) ** 2 // 5 % 37).astype(np.uint16)
SOAK = bool(os.environ.get("MLX_TINYLM_TEST_SOAK"))  # tests that take minutes
EXECUTABLE = [sys.executable, "-c", "from mlx_tinylm.cli import main; main(prog_name='mlx-tinylm')"]


def write_text(path: Path, characters: int = 2_000) -> Path:
    """Real English text that comes with every CPython."""
    path.write_text("".join(topics[name] for name in sorted(topics))[:characters], encoding="utf-8", newline="")
    return path


def on_streams(count: int | None = None) -> Compute:
    """How this machine trains, on so many CPU streams."""
    compute = prepare(spread=True)
    return compute if count is None else dataclasses.replace(compute, streams=count)


def fresh(config: TrainConfig, compute: Compute | None = None) -> TrainState:
    """The state before the first step on IDS."""
    return new_state(config, config.model_config(vocab_size=38, eos_id=37), compute or on_streams())


def trained(
    config: TrainConfig, until: int, ids: Ids = IDS, *, streams: int | None = None, compiled: bool | None = None
) -> tuple[TrainState, list[Stepped]]:
    """The state after so many steps without a folder, and what was said of each."""
    compute = on_streams(streams)
    state = fresh(config, compute)
    return state, go_on(state, config, until, ids, compute, compiled)


def go_on(
    state: TrainState,
    config: TrainConfig,
    until: int,
    ids: Ids = IDS,
    compute: Compute | None = None,
    compiled: bool | None = None,
) -> list[Stepped]:
    step = make_step(state, config, compute or on_streams(), compiled=compiled)
    return list(run_steps(step, state, config, ids, until, lambda: False))


def train(folder: Path, config: TrainConfig, text: Path, **more: Any) -> list[Event]:
    """A whole run."""
    with run.start(on_streams(), folder, config, [str(text)], **more) as running:
        return list(running.events())


def resume(folder: Path, **changes: Any) -> Run:
    """Go on to the end."""
    with resumption.resume(on_streams(), folder, changes) as running:
        list(running.events())
    return running


def train_until(folder: Path, config: TrainConfig, text: Path, step: int) -> None:
    """A run that is asked to stop when it reports `step`; the step under way by then is finished too."""
    with run.start(on_streams(), folder, config, [str(text)]) as running:
        for event in running.events():
            if event.step >= step:
                running.stop()


def metrics(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def losses(folder: Path) -> list[tuple[Any, ...]]:
    """What must not depend on how often a run was interrupted: all but the times."""
    kept = ("step", "loss", "grad_norm", "lr", "tokens", "val_loss")
    return [tuple(map(line.get, kept)) for line in metrics(folder)]


def stored(folder: Path) -> dict[str, bytes]:
    """The bytes of the best weights and of every tensor of the newest checkpoint."""
    newest = checkpoint.saved(folder)[0]
    files = [folder / "model.safetensors", *sorted(newest.glob("*.safetensors"))]
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def same_run(folder: Path, other: Path) -> None:
    """Assert that two runs cannot be told apart, bit for bit."""
    assert losses(folder) == losses(other)
    ours, theirs = stored(folder), stored(other)
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert ours[name] == theirs[name], f"{name} differs"
    ours, theirs = snapshots_of(folder), snapshots_of(other)
    for name in ours.keys() & theirs.keys():  # a run that was extended has the last of the shorter one, too
        assert ours[name] == theirs[name], f"{name} differs"


def snapshots_of(folder: Path) -> dict[str, bytes]:
    """The snapshots of a run, all that it should have among them."""
    found = snapshots(folder)
    settings = RunRecord.read(folder).settings
    assert not settings.history or {*spaced(settings.history, settings.steps)} <= {step for step, _ in found}
    return {path.name: path.read_bytes() for _, path in found}


def tensors(folder: Path) -> Tensors:
    return read_safetensors(folder / "model.safetensors")


def equal(ours: Tensors, theirs: Tensors) -> bool:
    return ours.keys() == theirs.keys() and all(np.array_equal(ours[name], theirs[name]) for name in ours)


def weights_of(state: TrainState) -> Tensors:
    return {name: np.array(tensor) for name, tensor in kept_tensors(state).items()}


def options(config: TrainConfig) -> list[str]:
    """The command-line options that make `config`, whatever the presets say."""
    settings = config.to_json()
    if config.tokenizer != "bpe":  # to which alone it belongs
        del settings["vocab_size"]
    pairs = ((f"--{name.replace('_', '-')}", value) for name, value in settings.items())
    given: list[str] = []
    for name, value in pairs:
        if isinstance(value, bool):  # what is true of text and of pairs alike is the default
            given += [] if value else [f"--no-{name[2:]}"]
        else:
            given += [name, "off" if value is None else str(value)]
    return given


def environment(cache: Path, **more: str) -> dict[str, str]:
    """For a process of its own: this very package, a cache of its own, and no progress bar's colours."""
    package = str(Path(checkpoint.__file__).parents[2])
    return {**os.environ, "PYTHONPATH": package, "XDG_CACHE_HOME": str(cache), **more}


def command(cache: Path, *arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the program with `arguments` to its end, with more variables in its environment."""
    given = [*EXECUTABLE, *map(str, arguments)]
    around = environment(cache, **variables)
    return subprocess.run(given, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=around, timeout=120)
