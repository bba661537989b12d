"""A checkpoint gives back exactly what was saved, or is recognised as damaged."""

from __future__ import annotations

import builtins
import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlx.utils import tree_flatten
from tiny_runs import CONFIGS, PLAIN, RICH, fresh, go_on, trained

from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.run_folder.settings import TrainConfig
from mlx_tinylm.training import checkpoint
from mlx_tinylm.training.state import TrainState

PROGRESS = {"seconds": 1.25, "best_loss": 0.1 + 0.2, "best_step": 3, "last_loss": None}


def everything(state: TrainState) -> dict[str, Any]:
    average = state.average.state if state.average else {}
    parts = {"model": state.model.parameters(), "optimizer": state.optimizer.state, "average": average}
    return {name: (np.array(value).tobytes(), value.shape, value.dtype) for name, value in tree_flatten(parts)}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_what_is_saved_is_loaded(tmp_path: Path, config: TrainConfig) -> None:
    """Every weight, optimizer tensor, scalar and average comes back bit for bit, with step and progress."""
    state, _ = trained(config, 3)
    before = everything(state)
    assert checkpoint.save(tmp_path, state, PROGRESS) == tmp_path / "checkpoints" / "00000003"
    assert everything(state) == before  # saving leaves the run alone
    other = fresh(config)
    assert everything(other) != before
    assert checkpoint.load_newest(tmp_path, other) == (PROGRESS, [])
    assert (everything(other), other.step) == (before, 3)


def test_the_newest_are_kept(tmp_path: Path) -> None:
    """Only the newest checkpoints stay, in the order of their steps even past eight digits; one may be saved again."""
    state = fresh(PLAIN)
    for step in (99_999_998, 99_999_999, 100_000_000, 100_000_001, 100_000_001):
        state.step = step
        checkpoint.save(tmp_path, state, {"seconds": step})
        checkpoint.save(tmp_path, state, {"seconds": 7})
    names = [path.name for path in (tmp_path / "checkpoints").iterdir()]
    assert sorted(names) == ["100000000", "100000001"]
    assert [path.name for path in checkpoint.saved(tmp_path)] == ["100000001", "100000000"]
    assert checkpoint.load_newest(tmp_path, state) == ({"seconds": 7}, [])


def test_what_is_not_finite_is_not_kept(tmp_path: Path) -> None:
    """Weights that are no numbers are refused, and nothing of them is left; nor is a folder that is gone made anew."""
    state, _ = trained(RICH, 1)
    state.model.model.norm.weight = state.model.model.norm.weight * float("inf")
    with pytest.raises(TinyLMError, match=r"^step 1: its model is not finite any more$"):
        checkpoint.save(tmp_path, state, {})
    assert [*tmp_path.rglob("0*"), *tmp_path.rglob(".*")] == []
    with pytest.raises(TinyLMError, match=r"run: is gone"):
        checkpoint.save(tmp_path / "run", fresh(RICH), {})
    assert not (tmp_path / "run").exists()


def test_nothing_to_resume_from(tmp_path: Path) -> None:
    """Without a checkpoint the message says what to do instead."""
    with pytest.raises(TinyLMError, match=r"no checkpoint to resume from\. Start a new run: mlx-tinylm train"):
        checkpoint.load_newest(tmp_path, fresh(PLAIN))


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) * 2 // 3] ^= 1
    path.write_bytes(content)


HARM: dict[str, Callable[[Path], Any]] = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-5]),
    "empty": lambda path: path.write_bytes(b""),
    "flipped": flip,
    "vanished": Path.unlink,
    "directory": lambda path: (path.unlink(), path.mkdir()),
    "of another step": lambda path: shutil.copy(path.parents[1] / "00000002" / path.name, path),
    "edited": lambda path: path.write_bytes(path.read_bytes().replace(b"4", b"5")),
}
NAMES = ["model.safetensors", "optimizer.safetensors", "average.safetensors", "state.json"]


def two_saved(folder: Path) -> TrainState:
    state, _ = trained(RICH, 2)
    checkpoint.save(folder, state, {"seconds": 2})
    go_on(state, RICH, 4)
    checkpoint.save(folder, state, {"seconds": 4})
    return state


@pytest.mark.parametrize("harm", HARM)
@pytest.mark.parametrize("name", NAMES)
def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path, name: str, harm: str) -> None:
    """Whatever happens to any file of the newest checkpoint, a file is named, and the checkpoint before is taken."""
    two_saved(tmp_path)
    newest = tmp_path / "checkpoints" / "00000004"
    HARM[harm](newest / name)
    state = fresh(RICH)
    progress, wrong = checkpoint.load_newest(tmp_path, state)
    assert (state.step, progress) == (2, {"seconds": 2})
    assert everything(state) == everything(trained(RICH, 2)[0])
    # The state of another step is whole; it is the other files that are not those it vouches for.
    named = "model.safetensors" if (name, harm) == ("state.json", "of another step") else name
    assert [message.startswith(f"{newest / named}: ") for message in wrong] == [True]


def test_swapped_checkpoints_are_noticed(tmp_path: Path) -> None:
    """A checkpoint under the name of another step is not taken for it."""
    state = two_saved(tmp_path)
    old, new = (tmp_path / "checkpoints" / name for name in ("00000002", "00000004"))
    old.rename(tmp_path / "aside")
    new.rename(old)
    (tmp_path / "aside").rename(new)
    with pytest.raises(TinyLMError, match=r"holds the checkpoint of step 2; the folder was renamed or swapped"):
        checkpoint.load_newest(tmp_path, state)


def test_a_file_the_disk_cannot_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where reading a checkpoint fails, the one before is taken, and the file is named."""
    two_saved(tmp_path)
    broken = tmp_path / "checkpoints" / "00000004" / "optimizer.safetensors"
    opened = builtins.open

    def failing(path: Any, *more: Any, **settings: Any) -> Any:
        if path == broken:
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return opened(path, *more, **settings)

    monkeypatch.setattr(builtins, "open", failing)
    _, wrong = checkpoint.load_newest(tmp_path, fresh(RICH))
    assert wrong == [f"{broken}: cannot be read (Input/output error)"]


def test_damaged_checkpoints_do_not_push_out_good_ones(tmp_path: Path) -> None:
    """After a fall back, what is saved next stays, however many newer ones were damaged; all damaged are all named."""
    two_saved(tmp_path)
    for step in ("00000005", "00000006", "00000007"):
        shutil.copytree(tmp_path / "checkpoints" / "00000004", tmp_path / "checkpoints" / step)
    flip(tmp_path / "checkpoints" / "00000004" / "model.safetensors")
    state = fresh(RICH)
    checkpoint.load_newest(tmp_path, state)
    state.step = 3
    checkpoint.save(tmp_path, state, {})
    names = [path.name for path in checkpoint.saved(tmp_path)]
    assert names == ["00000003", "00000002"]
    for name in names:
        flip(tmp_path / "checkpoints" / name / "model.safetensors")
    with pytest.raises(TinyLMError, match=r"3/model\.safetensors: is damaged .*2/model\.safetensors: is damaged"):
        checkpoint.load_newest(tmp_path, state)


def test_another_shape_does_not_fit(tmp_path: Path) -> None:
    """A checkpoint of a model with other settings is not forced into this one."""
    checkpoint.save(tmp_path, fresh(PLAIN), {})
    before = fresh(RICH)
    with pytest.raises(TinyLMError, match=r"model\.safetensors: does not fit the settings in train\.json"):
        checkpoint.load_newest(tmp_path, before)
    assert everything(before) == everything(fresh(RICH))
