"""The table of `bench`."""

from __future__ import annotations

import dataclasses
import json

import pytest
from tiny_runs import PLAIN, RICH

from mlx_tinylm import benchmark


def test_measurements(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each preset and back end is measured, each figure is above 0, fits the others, and JSON holds all."""
    runs = {"tiny": dataclasses.replace(RICH, steps=50), "seed": dataclasses.replace(PLAIN, steps=50)}
    monkeypatch.setattr(benchmark, "preset", runs.__getitem__)
    monkeypatch.setattr(benchmark, "CHARACTERS", 60)
    monkeypatch.setattr(benchmark, "STARTS", 1)
    found = dict(benchmark.measurements())
    assert json.loads(json.dumps(found)) == found
    assert {"python", "mlx", "numpy", "device", "matrix products"} <= found.keys()
    for name, config in runs.items():
        tokens = config.batch_size * config.grad_accumulation_steps * config.context
        assert 0 < found[f"training {name}, s/step"] < 30
        product = found[f"training {name}, tokens/s"] * found[f"training {name}, s/step"]
        assert product == pytest.approx(tokens, rel=0.2)
        assert found[f"training {name}, MiB"] > 0
    assert found["generation mlx, characters/s"] > 0
    assert found["generation numpy, characters/s"] > 0
    assert 0 < found["first character, s"] < 60


def test_the_wait_for_a_character_is_the_program_s(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time to the first character is that of a whole process, and a process that fails is no measurement."""
    monkeypatch.setattr(benchmark, "ONE_CHARACTER", [benchmark.sys.executable, "-c", "import time; time.sleep(0.3)"])
    assert 0.3 <= benchmark.first_character_seconds() < 10
    monkeypatch.setattr(benchmark, "ONE_CHARACTER", [benchmark.sys.executable, "-c", "raise SystemExit(1)"])
    with pytest.raises(benchmark.subprocess.CalledProcessError):
        benchmark.first_character_seconds()
