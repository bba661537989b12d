"""A checkpoint gives back exactly what was saved, or is recognised as damaged."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten
from tiny_runs import CONFIGS, PLAIN, RICH

from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.files import sha256_of
from mlx_tinylm.run_folder.settings import TrainConfig
from mlx_tinylm.training import checkpoint
from mlx_tinylm.training.loop import run_steps
from mlx_tinylm.training.state import TrainState, new_state
from mlx_tinylm.training.step import make_step

IDS = (np.arange(500) ** 2 // 5 % 10).astype(np.uint16)
PROGRESS = {"seconds": 1.25, "best_loss": 0.1 + 0.2, "best_step": 3, "last_loss": None}
PARTS = ("model", "optimizer", "average")


def fresh(config: TrainConfig) -> TrainState:
    return new_state(config, config.model_config(vocab_size=11, eos_id=10))


def trained(config: TrainConfig, steps: int = 3) -> TrainState:
    state = fresh(config)
    list(run_steps(make_step(state, config, IDS), state, config, len(IDS), steps, lambda: False))
    return state


def everything(state: TrainState) -> dict[str, Any]:
    parts = {"model": state.model.parameters(), "optimizer": state.optimizer.state, "average": state.average}
    return {name: (np.array(value).tobytes(), value.shape, value.dtype) for name, value in tree_flatten(parts)}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_what_is_saved_is_loaded(tmp_path: Path, config: TrainConfig) -> None:
    """Every weight, optimizer tensor, scalar and average comes back bit for bit, with step and progress."""
    state = trained(config)
    path = checkpoint.save(tmp_path, state, PROGRESS)
    assert path == tmp_path / "checkpoints" / "00000003"
    other = fresh(config)
    assert everything(other) != everything(state)
    progress, wrong = checkpoint.load_newest(tmp_path, other)
    assert everything(other) == everything(state)
    assert (other.step, progress, wrong) == (3, PROGRESS, [])


def test_the_newest_are_kept(tmp_path: Path) -> None:
    """Only the newest checkpoints stay, in the order of their steps even past eight digits."""
    state = fresh(PLAIN)
    for step in (99_999_998, 99_999_999, 100_000_000, 100_000_001):
        state.step = step
        checkpoint.save(tmp_path, state, {})
    assert [path.name for path in checkpoint.saved(tmp_path)] == ["100000001", "100000000"]
    assert checkpoint.load_newest(tmp_path, state) == ({}, [])


def test_a_step_can_be_saved_again(tmp_path: Path) -> None:
    """A checkpoint of the same step takes the place of the first."""
    state = fresh(PLAIN)
    checkpoint.save(tmp_path, state, {"seconds": 1})
    checkpoint.save(tmp_path, state, {"seconds": 2})
    assert checkpoint.load_newest(tmp_path, state)[0] == {"seconds": 2}


def test_nothing_to_resume_from(tmp_path: Path) -> None:
    """Without a checkpoint the message says what to do instead."""
    with pytest.raises(TinyLMError, match=r"no checkpoint to resume from\. Start a new run: mlx-tinylm train"):
        checkpoint.load_newest(tmp_path, fresh(PLAIN))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) * 2 // 3] ^= 1
    path.write_bytes(content)


def vanish(path: Path) -> None:
    path.unlink()


def directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


HARM = {"truncate": truncate, "empty": empty, "flip": flip, "vanish": vanish, "directory": directory}


def two_saved(folder: Path, config: TrainConfig = RICH) -> TrainState:
    state = trained(config, 2)
    checkpoint.save(folder, state, {"seconds": 2})
    list(run_steps(make_step(state, config, IDS), state, config, len(IDS), 4, lambda: False))
    checkpoint.save(folder, state, {"seconds": 4})
    return state


@pytest.mark.parametrize("harm", HARM.values(), ids=HARM.keys())
@pytest.mark.parametrize("name", [f"{part}.safetensors" for part in PARTS] + ["state.json"])
def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path, name: str, harm: Any) -> None:
    """Whatever happens to any file of the newest checkpoint, it is named, and the one before is taken."""
    two_saved(tmp_path)
    damaged = tmp_path / "checkpoints" / "00000004" / name
    harm(damaged)
    state = fresh(RICH)
    progress, wrong = checkpoint.load_newest(tmp_path, state)
    assert (state.step, progress) == (2, {"seconds": 2})
    assert everything(state) == everything(trained(RICH, 2))
    assert len(wrong) == 1
    assert wrong[0].startswith(f"{damaged}: ")


@pytest.mark.parametrize("part", PARTS)
def test_a_file_of_another_checkpoint_is_noticed(tmp_path: Path, part: str) -> None:
    """A file swapped in from another checkpoint of the same run does not go unnoticed."""
    two_saved(tmp_path)
    old, new = (tmp_path / "checkpoints" / name / f"{part}.safetensors" for name in ("00000002", "00000004"))
    shutil.copy(old, new)
    _, wrong = checkpoint.load_newest(tmp_path, fresh(RICH))
    assert wrong == [f"{new}: is damaged (its SHA-256 is not the one recorded)"]


def test_swapped_checkpoints_are_noticed(tmp_path: Path) -> None:
    """A checkpoint under the name of another step is not taken for it."""
    state = two_saved(tmp_path)
    old, new = (tmp_path / "checkpoints" / name for name in ("00000002", "00000004"))
    old.rename(tmp_path / "aside")
    new.rename(old)
    (tmp_path / "aside").rename(new)
    with pytest.raises(TinyLMError, match=r"holds the checkpoint of step 2; the folder was renamed or swapped"):
        checkpoint.load_newest(tmp_path, state)


@pytest.mark.parametrize("key", ["step", "progress", "files", "sha256"])
def test_an_edited_state_is_noticed(tmp_path: Path, key: str) -> None:
    """state.json vouches for itself too: a changed step or progress is damage."""
    two_saved(tmp_path)
    path = tmp_path / "checkpoints" / "00000004" / "state.json"
    content = json.loads(path.read_text())
    content[key] = {"step": 5, "progress": {"seconds": 5}, "files": {}, "sha256": None}[key]
    path.write_text(json.dumps(content))
    _, wrong = checkpoint.load_newest(tmp_path, fresh(RICH))
    assert wrong == [f"{path}: is damaged or was edited (its SHA-256 is not the one recorded)"]


def test_a_file_the_disk_cannot_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where reading a checkpoint fails, the one before is taken, and the file is named."""
    two_saved(tmp_path)
    broken = tmp_path / "checkpoints" / "00000004" / "optimizer.safetensors"

    def failing(path: Path) -> str:
        if path == broken:
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return sha256_of(path)

    monkeypatch.setattr(checkpoint, "sha256_of", failing)
    _, wrong = checkpoint.load_newest(tmp_path, fresh(RICH))
    assert wrong == [f"{broken}: cannot be read (Input/output error)"]


def test_all_damaged(tmp_path: Path) -> None:
    """Where no checkpoint is whole, the message names what is wrong with each."""
    state = two_saved(tmp_path)
    for path in checkpoint.saved(tmp_path):
        flip(path / "model.safetensors")
    with pytest.raises(TinyLMError) as caught:
        checkpoint.load_newest(tmp_path, state)
    for step in ("00000002", "00000004"):
        assert f"{step}/model.safetensors: is damaged" in str(caught.value)


def test_damaged_checkpoints_do_not_push_out_good_ones(tmp_path: Path) -> None:
    """After a fall back, what is saved next stays, however many newer checkpoints were damaged."""
    two_saved(tmp_path)
    for step in ("00000005", "00000006", "00000007"):
        shutil.copytree(tmp_path / "checkpoints" / "00000004", tmp_path / "checkpoints" / step)
    flip(tmp_path / "checkpoints" / "00000004" / "model.safetensors")
    state = fresh(RICH)
    checkpoint.load_newest(tmp_path, state)
    state.step = 3
    checkpoint.save(tmp_path, state, {})
    assert [path.name for path in checkpoint.saved(tmp_path)] == ["00000003", "00000002"]


def test_another_shape_does_not_fit(tmp_path: Path) -> None:
    """A checkpoint of a model with other settings is not forced into this one."""
    checkpoint.save(tmp_path, fresh(PLAIN), {})
    before = fresh(RICH)
    with pytest.raises(TinyLMError, match=r"model\.safetensors: does not fit the settings in train\.json"):
        checkpoint.load_newest(tmp_path, before)
    assert everything(before) == everything(fresh(RICH))


def test_saving_leaves_the_run_alone(tmp_path: Path) -> None:
    """Saving changes nothing in the state that goes on training."""
    state = trained(RICH)
    before = everything(state)
    checkpoint.save(tmp_path, state, {})
    mx.eval(state.model.parameters())
    assert everything(state) == before
