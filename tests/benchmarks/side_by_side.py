"""This program against others on this machine: each pair in turn, several rounds, medians and their ratio.

    pip install -e '.[cpu,interop]' torch
    python tests/benchmarks/side_by_side.py train --preset seed --dropout 0
    python tests/benchmarks/side_by_side.py train --preset tiny [--bf16]
    python tests/benchmarks/side_by_side.py generate
    python tests/benchmarks/side_by_side.py start
    python tests/benchmarks/side_by_side.py encode --megabytes 200

Each measurement runs in a process of its own, which prints one line of JSON; nothing else should run meanwhile.
With `--smallest` a command only shows that it still runs: the least work, one round, beside whoever is installed.
"""

from __future__ import annotations

import importlib.util
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np

from mlx_tinylm.model_folder.folder import open_folder, shipped_weights
from mlx_tinylm.run_folder.presets import PRESETS, preset

Result = dict[str, Any]
VOCABULARY = 66
IDS = (np.arange(300_000) ** 2 // 7 % (VOCABULARY - 1)).astype(np.uint16)
WARM_UP, STEPS = 2, 6
CHARACTERS = 512
SMALLEST = {"layers": 1, "heads": 2, "width": 16, "context": 8, "batch_size": 2}
PROGRAM = [sys.executable, "-m", "mlx_tinylm"]
NEEDS = {"pytorch": "torch", "pytorch_without_cache": "torch", "mlx_lm": "mlx_lm", "mlx_lm_one_character": "mlx_lm"}
# The twin has no warm-up, clipping or cosine.
COVERED = [name for name, config in PRESETS.items() if config.schedule in ("constant", "linear")]
WORKERS: dict[str, Callable[..., Result]] = {}


def worker(function: Callable[..., Result]) -> Callable[..., Result]:
    """Makes a function callable in a process of its own, by its name."""
    WORKERS[function.__name__] = function
    return function


def measured(name: str, /, **arguments: Any) -> Result:
    """The result of a worker that has a process for itself."""
    command = [sys.executable, __file__, "worker", name, json.dumps(arguments)]
    result: Result = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    return result


def alternated(rounds: int, smallest: bool, names: list[str], **arguments: Any) -> dict[str, list[Result]]:
    """`rounds` results of each worker, in turn; if `smallest`, one of each that can run here."""
    if smallest:
        rounds, names = 1, [name for name in names if name not in NEEDS or importlib.util.find_spec(NEEDS[name])]
    results: dict[str, list[Result]] = {name: [] for name in names}
    for number in range(rounds):
        for name in names:
            results[name].append(measured(name, **arguments))
            click.echo(f"round {number + 1}: {name} {results[name][-1]}", err=True)
    return results


def median(results: list[Result], key: str) -> float:
    return statistics.median(float(result[key]) for result in results)


def report(title: str, results: dict[str, list[Result]], key: str, unit: str, *, larger: bool) -> None:
    """A table of medians; each ratio says how many times better the first one is."""
    click.echo(f"\n{title}: median of {len(next(iter(results.values())))}, {unit}")
    first = median(next(iter(results.values())), key)
    for name, each in results.items():
        value = median(each, key)
        low, high = min(float(r[key]) for r in each), max(float(r[key]) for r in each)
        ratio = first / value if larger else value / first
        click.echo(f"  {name:<22}{value:>10.4g}   ({low:.4g} to {high:.4g})   ratio {ratio:.2f}")


def peak_mib() -> float:
    bytes_each = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * bytes_each / 2**20


# Training


def per_step(step: Callable[[int], float]) -> Result:
    losses, seconds = [], []
    for number in range(WARM_UP + STEPS):
        started = time.perf_counter()
        losses.append(step(number))
        seconds.append(time.perf_counter() - started)
    return {"seconds": statistics.median(seconds[WARM_UP:]), "losses": losses, "peak_mib": peak_mib()}


@worker
def initial(name: str, changes: dict[str, Any], folder: str) -> Result:
    """Write the weights from which both sides begin."""
    from mlx_tinylm.backend.devices import prepare

    compute = prepare("cpu", spread=True)
    from mlx_tinylm.model_folder.tensor_files import write_tensors
    from mlx_tinylm.training.state import kept_tensors, new_state

    config = preset(name, **changes)
    state = new_state(config, config.model_config(VOCABULARY, VOCABULARY - 1), compute)
    write_tensors(Path(folder) / "initial.safetensors", kept_tensors(state))
    return {}


@worker
def ours(name: str, changes: dict[str, Any], folder: str, **_: Any) -> Result:
    from mlx_tinylm.backend.devices import prepare

    compute = prepare("cpu", spread=True)
    from mlx_tinylm.model_folder.tensor_files import read_safetensors
    from mlx_tinylm.training.loop import run_steps
    from mlx_tinylm.training.state import new_state
    from mlx_tinylm.training.step import make_step

    config = preset(name, **changes)
    tensors = read_safetensors(Path(folder) / "initial.safetensors")
    state = new_state(config, config.model_config(VOCABULARY, VOCABULARY - 1), compute, tensors)
    step = make_step(state, config, compute)
    steps = run_steps(step, state, config, IDS, WARM_UP + STEPS + 1, lambda: False)
    return per_step(lambda _: next(steps).loss)


@worker
def pytorch(name: str, changes: dict[str, Any], folder: str, bf16: bool = False) -> Result:
    import torch
    from torch_twin import Trainer

    from mlx_tinylm.model_folder.tensor_files import read_safetensors
    from mlx_tinylm.training.batches import batch_offsets

    config = preset(name, **changes)
    trainer = Trainer(config, read_safetensors(Path(folder) / "initial.safetensors"), bf16)
    places = np.arange(config.context + 1)

    def step(number: int) -> float:
        offsets = batch_offsets(config.seed, number, len(IDS), config.batch_size, config.context)
        return trainer.step(torch.tensor(IDS[offsets[:, None] + places].astype(np.int64)))

    return per_step(step)


@click.group()
def main() -> None:
    """This program against others; see the top of this file."""


@main.command("worker", hidden=True)
@click.argument("name")
@click.argument("arguments")
def run_worker(name: str, arguments: str) -> None:
    click.echo(json.dumps(WORKERS[name](**json.loads(arguments))))


rounds_option = click.option("--rounds", default=5, show_default=True)
smallest_option = click.option("--smallest", is_flag=True, help="Only show that it runs: the least work, one round.")


@main.command()
@click.option("--preset", "name", type=click.Choice(COVERED), default="tiny", show_default=True)
@click.option("--dropout", type=float, help="Instead of the preset's.")
@click.option("--bf16", is_flag=True, help="Let PyTorch compute in bfloat16 (autocast).")
@rounds_option
@smallest_option
def train(name: str, dropout: float | None, bf16: bool, rounds: int, smallest: bool) -> None:
    """A training step, the optimizer included, against the PyTorch twin with the same recipe."""
    changes: dict[str, Any] = dict(SMALLEST) if smallest else {}
    if dropout is not None:
        changes["dropout"] = dropout
    config = preset(name, **changes)
    with tempfile.TemporaryDirectory() as folder:
        measured("initial", name=name, changes=changes, folder=folder)
        sides = ["ours", "pytorch"]
        results = alternated(rounds, smallest, sides, name=name, changes=changes, folder=folder, bf16=bf16)
    if not config.dropout and "pytorch" in results:  # masks differ, all else is the same recipe
        tolerance = 3e-2 if bf16 else 1e-3
        np.testing.assert_allclose(results["ours"][0]["losses"], results["pytorch"][0]["losses"], atol=tolerance)
        click.echo(f"both sides compute the same: losses agree within {tolerance:g}")
    report(f"{name}, {changes or 'as it is'}", results, "seconds", "seconds a step", larger=False)
    report("peak memory of the process", results, "peak_mib", "MiB", larger=False)
    tokens = config.batch_size * config.grad_accumulation_steps * config.context
    click.echo(f"\nours: {tokens / median(results['ours'], 'seconds'):,.0f} tokens/s")


# Generation


@worker
def mlx(weights: str) -> Result:
    return written_by_us(weights, "mlx")


@worker
def numpy(weights: str) -> Result:
    return written_by_us(weights, "numpy")


def written_by_us(weights: str, backend: str) -> Result:
    import mlx_tinylm

    model, tokenizer = mlx_tinylm.load(weights, backend)
    return speed(mlx_tinylm.stream_generate(model, tokenizer, "ROMEO:", max_tokens=CHARACTERS, seed=1))


def speed(pieces: Any) -> Result:
    """Characters a second after the first sixteenth."""
    count, started, skipped = 0, time.perf_counter(), 0
    for _ in pieces:
        count += 1
        if count == CHARACTERS // 16:
            started, skipped = time.perf_counter(), count
    return {"rate": (count - skipped) / (time.perf_counter() - started), "peak_mib": peak_mib()}


@worker
def mlx_lm(weights: str) -> Result:
    from mlx_lm import load, stream_generate
    from mlx_lm.sample_utils import make_sampler

    model, tokenizer = load(weights)[:2]
    prompt = tokenizer.encode("ROMEO:")
    return speed(stream_generate(model, tokenizer, prompt, max_tokens=CHARACTERS, sampler=make_sampler(temp=0.8)))


@worker
def pytorch_without_cache(weights: str) -> Result:
    import torch
    from torch_twin import write_without_cache

    folder = open_folder(Path(weights))
    config = folder.config
    p = {name: torch.tensor(tensor) for name, tensor in folder.tensors().items()}
    ids = (folder.tokenizer.encode("ROMEO:\n") * config.context)[: config.context]
    write_without_cache(p, config.family, config.heads, ids, 2, config.context)
    started = time.perf_counter()
    write_without_cache(p, config.family, config.heads, ids, 20, config.context)
    return {"rate": 20 / (time.perf_counter() - started), "peak_mib": peak_mib()}


@main.command()
@click.option("--weights", type=click.Path(path_type=Path), show_default="the weights that ship")
@rounds_option
@smallest_option
def generate(weights: Path | None, rounds: int, smallest: bool) -> None:
    """Streaming: both back ends against mlx-lm, and against PyTorch that reads the whole context for each character."""
    with tempfile.TemporaryDirectory() as exported:
        folder = exported_copy(weights or shipped_weights(), Path(exported))
        names = ["mlx", "numpy", "mlx_lm", "pytorch_without_cache"]
        results = alternated(rounds, smallest, names, weights=str(folder))
    report("generation", results, "rate", "characters a second", larger=True)


def exported_copy(weights: Path, beside: Path) -> Path:
    """The float32 export that all sides read."""
    folder = beside / "model"
    subprocess.run([*PROGRAM, "export", weights, "--out", folder], check=True, stdout=subprocess.DEVNULL)
    return folder


# Starting


def wall(command: list[str]) -> Result:
    started = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return {"seconds": time.perf_counter() - started}


@worker
def help_text(weights: str) -> Result:
    return wall([*PROGRAM, "--help"])


@worker
def imports(weights: str) -> Result:
    return wall([sys.executable, "-c", "import click, numpy"])


@worker
def one_character(weights: str) -> Result:
    return wall([*PROGRAM, "generate", "--weights", weights, "--prompt", "R", "--max-tokens", "1"])


@worker
def mlx_lm_one_character(weights: str) -> Result:
    return wall(
        [
            str(Path(sys.executable).with_name("mlx_lm.generate")),
            "--model",
            weights,
            "--prompt",
            "R",
            "--max-tokens",
            "1",
        ]
    )


@main.command()
@rounds_option
@smallest_option
def start(rounds: int, smallest: bool) -> None:
    """How long a command takes from the shell: the help, and one character."""
    with tempfile.TemporaryDirectory() as exported:
        folder = exported_copy(shipped_weights(), Path(exported))
        shown = alternated(rounds, smallest, ["help_text", "imports"], weights=str(folder))
        sides = ["one_character", "mlx_lm_one_character"]
        written = alternated(rounds, smallest, sides, weights=str(folder))
    report("mlx-tinylm --help against import click, numpy", shown, "seconds", "seconds", larger=False)
    report("one character", written, "seconds", "seconds", larger=False)


# Encoding


@worker
def encoding(path: str) -> Result:
    from mlx_tinylm.text.corpus import open_corpus
    from mlx_tinylm.text.ids import encode
    from mlx_tinylm.text.tokenizer import Tokenizer

    started = time.perf_counter()
    corpus = open_corpus([path])
    encode(corpus, Tokenizer.from_alphabet(corpus.alphabet))
    megabytes = Path(path).stat().st_size / 1e6
    return {"rate": megabytes / (time.perf_counter() - started), "peak_mib": peak_mib()}


@main.command()
@click.option("--megabytes", default=200, show_default=True)
@rounds_option
@smallest_option
def encode(megabytes: int, rounds: int, smallest: bool) -> None:
    """Reading a large text, finding its alphabet, encoding it and keeping the ids."""
    from pydoc_data.topics import topics

    from mlx_tinylm.files import cache_dir

    text = "".join(topics.values()).encode()
    if smallest:
        megabytes, rounds = 1, 1
    with tempfile.TemporaryDirectory() as folder:
        results: dict[str, list[Result]] = {"encoding": []}
        for number in range(rounds):  # a text of its own each time, so that nothing is kept from before
            path = Path(folder, "text.txt")
            with path.open("wb") as file:
                file.write(f"{number} {time.time_ns()}\n".encode())
                for _ in range(megabytes * 1_000_000 // len(text)):
                    file.write(text)
            before = set((cache_dir() / "ids").glob("*"))
            results["encoding"].append(measured("encoding", path=str(path)))
            for kept in set((cache_dir() / "ids").glob("*")) - before:
                kept.unlink()
    report(f"encoding {megabytes} MB", results, "rate", "MB/s", larger=True)
    report("peak memory of the process", results, "peak_mib", "MiB", larger=False)


if __name__ == "__main__":
    main()
