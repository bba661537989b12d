"""history/: which steps are kept, what is kept of them, and what is not taken for a snapshot."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import random_tensors

from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.model_folder.config import GPT2Config, ModelConfig, Qwen3Config
from mlx_tinylm.model_folder.tensor_files import stored_types, write_tensors
from mlx_tinylm.run_folder.history import keep, planned, read_snapshot, snapshots, spaced, truncate
from mlx_tinylm.run_folder.presets import PRESETS

GPT2 = GPT2Config(vocab_size=13, context=8, width=32, layers=2, heads=2)
QWEN3 = Qwen3Config(vocab_size=13, context=8, width=32, layers=2, heads=2, kv_heads=1, head_dim=6, hidden=20)


@pytest.mark.parametrize(
    ("density", "steps", "expected"),
    [
        (3, 1000, [0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000]),
        (3, 600, [0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 600]),
        (2, 5000, [0, 1, 3, 10, 30, 100, 300, 1000, 3000, 5000]),
        (1, 99, [0, 1, 10, 99]),
        (5, 12, [0, 1, 2, 3, 4, 6, 10, 12]),
        (3, 1, [0, 1]),
        (3, 2, [0, 1, 2]),
    ],
)
def test_the_steps_that_are_kept(density: int, steps: int, expected: list[int]) -> None:
    """They are even on a log axis and round, with the first and the last among them, each once."""
    assert list(spaced(density, steps)) == expected


def test_a_dozen() -> None:
    """Whatever the preset, there are about a dozen; and the longest run has not many more."""
    for config in PRESETS.values():
        assert config.history is not None
        assert 10 <= len(spaced(config.history, config.steps)) <= 14
    assert len(spaced(5, 10**9)) < 50


@pytest.mark.parametrize("density", [1, 2, 3, 4, 5])
def test_a_longer_run_has_those_of_a_shorter_one(density: int) -> None:
    """But for the last step, the steps do not depend on how long a run is to be."""
    longer = spaced(density, 10**6)
    for steps in (1, 7, 50, 999, 4321):
        assert set(spaced(density, steps)) - {steps} <= set(longer)
        assert set(spaced(density, steps)) >= {step for step in longer if step <= steps}


@pytest.mark.parametrize("config", [GPT2, QWEN3], ids=lambda config: config.family)
def test_kept_and_read(config: ModelConfig, tmp_path: Path) -> None:
    """A snapshot is the model in float16 under its stored names, and half as large."""
    tensors = random_tensors(config)
    keep(tmp_path, 100, tensors)
    path = tmp_path / "history" / "00000100.safetensors"
    assert snapshots(tmp_path) == [(100, path)]
    assert set(stored_types(path).values()) == {"float16"}
    numbers = sum(tensor.size for tensor in tensors.values())
    assert 2 * numbers < path.stat().st_size < 2 * numbers + 8_000
    found = read_snapshot(path, config)
    assert found.keys() == tensors.keys()
    for name, tensor in found.items():
        assert tensor.dtype == np.float32
        assert np.array_equal(tensor, tensors[name].astype(np.float16).astype(np.float32))


def test_weights_too_large_for_float16(tmp_path: Path) -> None:
    """A run goes on whatever its weights: where float16 cannot hold one, that snapshot is float32."""
    tensors = random_tensors(QWEN3)
    tensors["model.norm.weight"][3] = -7e4
    keep(tmp_path, 1, tensors)
    ((_, path),) = snapshots(tmp_path)
    assert np.array_equal(read_snapshot(path, QWEN3)["model.norm.weight"], tensors["model.norm.weight"])


def test_what_is_no_snapshot(tmp_path: Path) -> None:
    """Only the names that a run gives count, in the order of the steps; where there is no history, there is none."""
    assert snapshots(tmp_path) == []
    keep(tmp_path, 5, random_tensors(QWEN3))
    keep(tmp_path, 100_000_000, random_tensors(QWEN3))
    for name in ("5.safetensors", "00000007.txt", "00000008", ".00000009.safetensors.1.tmp", "٠٠٠٠٠٠٠٧.safetensors"):
        (tmp_path / "history" / name).write_text("x")
    assert [step for step, _ in snapshots(tmp_path)] == [5, 100_000_000]


def test_damage_is_named(tmp_path: Path) -> None:
    """A snapshot that was cut short, altered, or is of another shape or type is refused by its name."""
    keep(tmp_path, 2, random_tensors(QWEN3))
    ((_, path),) = snapshots(tmp_path)
    whole = path.read_bytes()
    for damaged in (whole[:-1], whole[:-3] + bytes([whole[-3] ^ 1]) + whole[-2:], b"", b"x" * 100):
        path.write_bytes(damaged)
        with pytest.raises(TinyLMError, match=r"00000002\.safetensors: (not a safetensors file|is damaged)"):
            read_snapshot(path, QWEN3)
    path.write_bytes(whole)
    with pytest.raises(TinyLMError, match=r"00000002\.safetensors: does not fit its config\.json: missing h\.0\."):
        read_snapshot(path, GPT2)
    write_tensors(path, random_tensors(QWEN3) | {"model.norm.weight": np.full(32, np.nan, np.float32)})
    with pytest.raises(TinyLMError, match=r"00000002\.safetensors: model\.norm\.weight holds numbers that are not fin"):
        read_snapshot(path, QWEN3)


def test_truncated(tmp_path: Path) -> None:
    """What comes after a step goes, and what was half written; without a history nothing happens."""
    truncate(tmp_path, 3)
    assert not (tmp_path / "history").exists()
    for step in (0, 3, 4, 10):
        keep(tmp_path, step, random_tensors(QWEN3))
    (tmp_path / "history" / ".00000020.safetensors.77.tmp").write_text("half")
    truncate(tmp_path, 3)
    assert sorted(path.name for path in (tmp_path / "history").iterdir()) == [
        "00000000.safetensors",
        "00000003.safetensors",
    ]


def test_what_cannot_be_written_or_removed_is_named(tmp_path: Path) -> None:
    """A file where the folder should be, a folder where a file should be, and a run that is gone are one message."""
    tensors = random_tensors(QWEN3)
    (tmp_path / "history").write_text("mine")
    with pytest.raises(TinyLMError, match=r"history/00000001\.safetensors: cannot be written"):
        keep(tmp_path, 1, tensors)
    assert (tmp_path / "history").read_text() == "mine"
    (tmp_path / "run" / "history" / "00000009.safetensors").mkdir(parents=True)
    with pytest.raises(TinyLMError, match=r"00000009\.safetensors: cannot be removed"):
        truncate(tmp_path / "run", 3)
    with pytest.raises(TinyLMError, match=r"history: cannot be written \(No such file or directory\); its folder is g"):
        keep(tmp_path / "gone", 1, tensors)
    assert not (tmp_path / "gone").exists()


def test_how_many_there_will_be(tmp_path: Path) -> None:
    """Those that are there count, and those that are to come; of a run that keeps none, the former alone."""
    assert planned(tmp_path, 3, 0, 10) == 5
    assert planned(tmp_path, None, 0, 10) == 0
    for step in (0, 1, 8):
        keep(tmp_path, step, random_tensors(QWEN3))
    assert planned(tmp_path, 3, 8, 20) == 5  # 0, 1, 8, 10, 20
    assert planned(tmp_path, None, 8, 20) == 3
