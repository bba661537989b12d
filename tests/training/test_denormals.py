"""No denormal numbers in a training step: some CPUs take a hundred times as long for each product with one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten
from tiny_runs import on_streams

from mlx_tinylm.model_folder.folder import open_folder, shipped_weights
from mlx_tinylm.run_folder.presets import PRESETS
from mlx_tinylm.training.loop import run_steps
from mlx_tinylm.training.state import new_state
from mlx_tinylm.training.step import make_step

OPERATORS = ["__mul__", "__rmul__", "__add__", "__radd__", "__sub__", "__rsub__", "__truediv__", "__matmul__"]
FUNCTIONS = ("sum", "maximum", "clip", "addmm", "square", "concatenate", "contiguous")
# 2^-126 is the smallest normal float32. What is multiplied with these numbers may be small itself, as a gradient is.
NEARLY_DENORMAL = 2.0**-110


def recorded(results: list[mx.array], function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function; what it returns is put into `results`, too."""

    def call(*args: Any, **options: Any) -> Any:
        result = function(*args, **options)
        if isinstance(result, mx.array) and result.dtype == mx.float32:
            results.append(result)
        return result

    return call


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_a_step_computes_no_denormals(optimizer: str, english: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forwards, backwards and in the optimizer, no number of a step from trained weights is denormal, or nearly so."""
    folder = open_folder(shipped_weights())
    known = "".join(character for character in english[:20_000] if character in (folder.tokenizer.alphabet or ""))
    ids = np.array(folder.tokenizer.encode(known), np.uint16)
    config = dataclasses.replace(PRESETS["best"], batch_size=2, optimizer=optimizer, ema=0.99)
    compute = on_streams(1)
    state = new_state(config, folder.config, compute, folder.tensors())
    results: list[mx.array] = []
    for name in OPERATORS:
        monkeypatch.setattr(mx.array, name, recorded(results, getattr(mx.array, name)))
    for name in FUNCTIONS:
        monkeypatch.setattr(mx, name, recorded(results, getattr(mx, name)))
    list(run_steps(make_step(state, config, compute), state, config, ids, 2, lambda: False))
    monkeypatch.undo()
    kept = [state.model.parameters(), state.optimizer.state, state.average.state if state.average else {}]
    results += [array for _, array in tree_flatten(kept) if array.dtype == mx.float32]
    mx.eval(results)
    assert sum(array.size for array in results) > 10_000_000
    tiny = sum(mx.sum((mx.abs(array) < NEARLY_DENORMAL) & (array != 0)) for array in results)
    assert int(tiny) == 0
