"""What a GPU runs, run on a CPU: compiled steps and MLX's own attention, on one stream, equal to the plain ones.

MLX compiles without fusing here: it traces, simplifies and replays a step as on a GPU, and no kernel, for which a CPU
needs a C++ compiler, is made. That mode has no name in Python, only in the library.
"""

from __future__ import annotations

import ctypes
import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from tiny_runs import IDS, PLAIN, RICH, fresh, go_on, losses, metrics, on_streams, train, weights_of, write_text

from mlx_tinylm.backend.devices import Compute
from mlx_tinylm.backend.mlx_model import MLXModel
from mlx_tinylm.generation import generate
from mlx_tinylm.mean_loss import evaluate
from mlx_tinylm.models import cpu_ops
from mlx_tinylm.run_folder.settings import TrainConfig
from mlx_tinylm.text.tokenizer import Tokenizer
from mlx_tinylm.training import resumption, run
from mlx_tinylm.training.run import Run

LIBRARY = Path(mx.__file__).parent / "lib"
NO_FUSE, ENABLED = 2, 3  # mlx::core::CompileMode
STEPS = 20
EVERYTHING = {"dropout": 0.2, "ema": 0.9, "grad_clip": 1.0, "grad_accumulation_steps": 2, "warmup_steps": 3}
CONFIGS = {
    f"{family}-{optimizer}": dataclasses.replace(
        PLAIN, family=family, optimizer=optimizer, layers=2, steps=STEPS, schedule="cosine", **EVERYTHING
    )
    for family in ("gpt2", "qwen3")
    for optimizer in ("adamw", "muon")
}
every_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())


def set_compile_mode() -> Callable[[int], None]:
    (library,) = (path for path in LIBRARY.iterdir() if path.name in ("libmlx.so", "libmlx.dylib"))
    function: Any = ctypes.CDLL(str(library))["_ZN3mlx4core16set_compile_modeENS0_11CompileModeE"]
    function.argtypes, function.restype = [ctypes.c_int], None
    return function


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[Compute]:
    """How a GPU trains; nothing made by hand for CPUs is used, and steps are compiled without fusing."""
    monkeypatch.setattr(cpu_ops, "ARCHITECTURES", ())
    set_compile_mode()(NO_FUSE)
    yield Compute("gpu", 1, None, on_streams().blas)
    set_compile_mode()(ENABLED)


def plain(compute: Compute) -> Compute:
    """The same on the very branches of a CPU but for `models.ops`: nothing compiled, streams as many as cores."""
    return dataclasses.replace(on_streams(), blas=compute.blas)


@every_config
def test_training(config: TrainConfig, gpu: Compute) -> None:
    """Twenty compiled steps on MLX's own operations are the twenty plain ones."""
    compiled = fresh(config, gpu)
    ours = go_on(compiled, config, STEPS, IDS, gpu)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpu_ops, "ARCHITECTURES", ("x86_64", "amd64"))
        state = fresh(config, plain(gpu))
        theirs = go_on(state, config, STEPS, IDS, plain(gpu))
    assert [step.loss for step in ours] == pytest.approx([step.loss for step in theirs], rel=1e-4)
    assert [step.grad_norm for step in ours] == pytest.approx([step.grad_norm for step in theirs], rel=1e-3)
    assert ours[-1].loss < ours[0].loss - 0.1
    ours_kept, theirs_kept = weights_of(compiled), weights_of(state)
    for name, tensor in ours_kept.items():
        np.testing.assert_allclose(tensor, theirs_kept[name], atol=1e-3, err_msg=name)


@every_config
def test_a_step_is_traced_once(config: TrainConfig, gpu: Compute, monkeypatch: pytest.MonkeyPatch) -> None:
    """The step is compiled, and replayed: Python computes the loss of its batches in the first step alone."""
    traced: list[int] = []
    state = fresh(config, gpu)
    kind = type(state.model)
    call = kind.__call__

    def counted(*given: Any, **more: Any) -> mx.array:
        traced.append(1)
        return call(*given, **more)

    monkeypatch.setattr(kind, "__call__", counted)
    go_on(state, config, STEPS, IDS, gpu)
    assert len(traced) == config.grad_accumulation_steps


def test_compiled_accumulation_takes_the_memory_of_one_batch(gpu: Compute) -> None:
    """Compiling keeps what makes one batch wait for another."""
    one = dataclasses.replace(PLAIN, layers=3, context=64, batch_size=16, width=32)
    peaks = []
    for batches in (1, 8):
        config = dataclasses.replace(one, grad_accumulation_steps=batches)
        mx.reset_peak_memory()
        go_on(fresh(config, gpu), config, 2, IDS, gpu)
        peaks.append(mx.get_peak_memory())
    assert peaks[1] < 1.25 * peaks[0]


@pytest.mark.parametrize("family", ["gpt2", "qwen3"])
def test_writing_and_evaluating(family: str, gpu: Compute) -> None:
    """A model writes the same text, past its context too, and has the same loss on a GPU's branches and a CPU's."""
    config = dataclasses.replace(PLAIN, family=family, learning_rate=0.02)
    state = fresh(config, gpu)
    go_on(state, config, STEPS, IDS, gpu)
    tokenizer = Tokenizer.from_alphabet("".join(map(chr, range(ord("0"), ord("0") + 37))))

    def done(compute: Compute) -> tuple[str, float]:
        model = MLXModel(state.model, compute)
        return generate(model, tokenizer, "012", max_tokens=30, temperature=0), evaluate(model, IDS[:301]).loss

    text, loss = done(gpu)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpu_ops, "ARCHITECTURES", ("x86_64", "amd64"))
        plain_text, plain_loss = done(plain(gpu))
    assert text == plain_text
    assert len(text) == 30
    assert loss == pytest.approx(plain_loss, rel=1e-5)


def test_a_whole_run_and_its_rest(gpu: Compute, tmp_path: Path, own_cache: Path) -> None:
    """A run with validations, samples and checkpoints, stopped and resumed, is the run of one piece, bit for bit."""
    config = dataclasses.replace(RICH, steps=STEPS, eval_every=5, save_every=5, sample_every=10)
    text = write_text(tmp_path / "text.txt")

    def ended(running: Run, until: int = STEPS) -> None:
        for event in running.events():
            if event.step >= until:
                running.stop()

    with run.start(gpu, tmp_path / "ours", config, [str(text)]) as running:
        ended(running, 7)
    with resumption.resume(gpu, tmp_path / "ours", {}) as running:
        ended(running)
    with run.start(gpu, tmp_path / "whole", config, [str(text)]) as running:
        ended(running)
    assert losses(tmp_path / "ours") == losses(tmp_path / "whole")
    train(tmp_path / "plain", config, text)
    found, expected = ([line["loss"] for line in metrics(tmp_path / name)[1:]] for name in ("ours", "plain"))
    assert found == pytest.approx(expected, rel=1e-4)
    assert json.loads((tmp_path / "ours" / "train.json").read_text())["tf32"] is False


@pytest.mark.parametrize(("value", "noted"), [("0", False), ("1", True)])
def test_tf32_is_noted(
    value: str, noted: bool, gpu: Compute, tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """train.json says whether a GPU could multiply in TF32: with that, another machine may not repeat the run."""
    monkeypatch.setenv("MLX_ENABLE_TF32", value)
    text = write_text(tmp_path / "text.txt")
    with run.start(gpu, tmp_path / "run", dataclasses.replace(PLAIN, steps=1), [str(text)]):
        pass
    assert json.loads((tmp_path / "run" / "train.json").read_text())["tf32"] is noted
