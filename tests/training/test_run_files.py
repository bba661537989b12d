"""What a run under way writes: snapshots of its weights, through interruptions, full disks and changes of mind."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faulty_disk import FaultyDisk
from tiny_runs import (
    PLAIN,
    RICH,
    equal,
    losses,
    on_streams,
    resume,
    same_run,
    tensors,
    train,
    train_until,
    weights_of,
    write_text,
)

import mlx_tinylm
from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.export.folder import export
from mlx_tinylm.integrity import sealed
from mlx_tinylm.model_folder.folder import read_config
from mlx_tinylm.model_folder.tensor_files import Tensors
from mlx_tinylm.run_folder.events import Evaluated, Saved
from mlx_tinylm.run_folder.history import read_snapshot, snapshots
from mlx_tinylm.run_folder.record import RunRecord
from mlx_tinylm.training import resumption, run

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def text(tmp_path: Path) -> Path:
    return write_text(tmp_path / "text.txt")


def steps(folder: Path) -> list[int]:
    return [step for step, _ in snapshots(folder)]


def contents(folder: Path) -> dict[str, bytes]:
    """Everything in history/, what has no final name too."""
    return {path.name: path.read_bytes() for path in (folder / "history").iterdir()}


def halved(weights: Tensors) -> Tensors:
    return {name: tensor.astype(np.float16).astype(np.float32) for name, tensor in weights.items()}


def test_each_snapshot_is_what_the_model_was(tmp_path: Path, text: Path) -> None:
    """A snapshot holds the weights that would be kept after its step, averaged where the run averages."""
    config = dataclasses.replace(RICH, history=2, steps=4)
    expected: dict[int, Tensors] = {}
    with run.start(on_streams(), tmp_path / "run", config, [str(text)]) as running:
        expected[0] = weights_of(running.state)
        for event in running.events():
            if event.step == running.state.step:  # no later step is dispatched yet
                expected[event.step] = weights_of(running.state)
    assert steps(tmp_path / "run") == [0, 1, 3, 4]
    model = read_config(tmp_path / "run")
    for step, path in snapshots(tmp_path / "run"):
        assert equal(read_snapshot(path, model), halved(expected[step])), step
    assert not equal(expected[3], expected[4])


def test_without_history(tmp_path: Path, text: Path) -> None:
    """A run that is to keep no snapshots has no folder for them; the steps are the same as with them."""
    train(tmp_path / "without", dataclasses.replace(PLAIN, history=None), text)
    train(tmp_path / "with", dataclasses.replace(PLAIN, history=5), text)
    assert not (tmp_path / "without" / "history").exists()
    assert steps(tmp_path / "with") == [0, 1, 2, 3, 4, 6, 8]
    same_run(tmp_path / "without", tmp_path / "with")


@pytest.mark.parametrize("stop", [1, 2, 3, 5])
def test_resumed_equals_uninterrupted(tmp_path: Path, text: Path, stop: int) -> None:
    """However a run was interrupted, it ends with the very snapshots of one that was not."""
    config = dataclasses.replace(RICH, save_every=3)
    train(tmp_path / "whole", config, text)
    train_until(tmp_path / "halves", config, text, stop)
    resume(tmp_path / "halves")
    assert steps(tmp_path / "whole") == [0, 1, 2, 5, 8]
    assert contents(tmp_path / "halves") == contents(tmp_path / "whole")


def test_snapshots_after_the_checkpoint_are_made_again(tmp_path: Path, text: Path) -> None:
    """What a killed run kept beyond its last checkpoint goes, and what is half written, and comes again."""
    config = dataclasses.replace(PLAIN, save_every=4)
    train(tmp_path / "whole", config, text)
    with run.start(on_streams(), tmp_path / "run", config, [str(text)]) as running:
        for event in running.events():
            if event.step == 3:
                break  # as if it were killed
    folder = tmp_path / "run"
    assert steps(folder) == [0, 1, 2]
    (folder / "history" / "00000002.safetensors").write_text("of another machine")
    (folder / "history" / ".00000005.safetensors.77.tmp").write_text("half")
    (folder / "history" / "00000000.safetensors").write_text("damaged")
    with resumption.resume(on_streams(), folder, {}) as running:
        assert running.state.step == 0
        assert list(contents(folder)) == ["00000000.safetensors"]
        list(running.events())
    assert contents(folder) == contents(tmp_path / "whole")


def test_a_longer_run_goes_on_with_the_same_spacing(tmp_path: Path, text: Path) -> None:
    """More steps add the snapshots that a longer run would have; the last of the shorter one stays."""
    train(tmp_path / "longer", dataclasses.replace(PLAIN, steps=25), text)
    train(tmp_path / "extended", PLAIN, text)
    resume(tmp_path / "extended", steps=25)
    longer, extended = contents(tmp_path / "longer"), contents(tmp_path / "extended")
    assert steps(tmp_path / "extended") == [0, 1, 2, 5, 8, 10, 20, 25]
    del extended["00000008.safetensors"]
    assert extended == longer


def test_another_density_from_here_on(tmp_path: Path, text: Path) -> None:
    """A resumed run may keep more snapshots, or none any more; those that it has stay."""
    for density, expected in ((5, [0, 1, 2, 4, 6, 8]), (None, [0, 1, 2])):
        folder = tmp_path / str(density)
        train_until(folder, dataclasses.replace(PLAIN, save_every=4), text, 3)
        assert resume(folder, history=density).state.step == 8
        assert steps(folder) == expected
        assert RunRecord.read(folder).settings.history == density


def test_a_run_from_before_there_was_a_history(tmp_path: Path, text: Path) -> None:
    """A run whose train.json does not know the setting goes on as it began, and can be told to keep snapshots."""
    folder = tmp_path / "run"
    train_until(folder, dataclasses.replace(PLAIN, history=None), text, 3)
    raw = json.loads((folder / "train.json").read_text())
    del raw["settings"]["history"], raw["sha256"]
    (folder / "train.json").write_text(sealed(raw))
    shutil.copytree(folder, tmp_path / "kept")
    assert resume(folder).state.step == 8
    assert not (folder / "history").exists()
    resume(tmp_path / "kept", history=3)
    assert steps(tmp_path / "kept") == [5, 8]
    assert losses(folder) == losses(tmp_path / "kept")


def test_fine_tuning_begins_with_what_it_was_given(tmp_path: Path, text: Path) -> None:
    """The snapshot of step 0 is the model that a run starts from."""
    train(tmp_path / "first", PLAIN, text)
    train(tmp_path / "second", PLAIN, text, init_from=tmp_path / "first")
    _, path = snapshots(tmp_path / "second")[0]
    begun = read_snapshot(path, read_config(tmp_path / "second"))
    assert equal(begun, halved(tensors(tmp_path / "first")))


def test_force_leaves_nothing_of_an_earlier_history(tmp_path: Path, text: Path) -> None:
    """The snapshots of a run that is replaced go, also where the new one keeps none; what no run wrote is refused."""
    folder = tmp_path / "run"
    train(folder, dataclasses.replace(PLAIN, steps=30), text)
    train(folder, PLAIN, text, force=True)
    assert steps(folder) == [0, 1, 2, 5, 8]
    train(folder, dataclasses.replace(PLAIN, history=None), text, force=True)
    assert not (folder / "history").exists()
    train(folder, PLAIN, text, force=True)
    (folder / "history" / "family.txt").write_text("a chronicle")
    with pytest.raises(TinyLMError, match=r"history: holds family\.txt, which no run wrote; move it away, or choose"):
        train(folder, PLAIN, text, force=True)


def test_an_export_has_no_history(tmp_path: Path, text: Path) -> None:
    """What is published is the model alone."""
    train(tmp_path / "run", PLAIN, text)
    export(tmp_path / "run", tmp_path / "out")
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_dir() or path.name[:1].isdigit()]


def test_from_python(tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`mlx_tinylm.train` keeps snapshots by default, and none where that is off."""
    small: dict[str, Any] = {"steps": 2, "width": 16, "layers": 1, "heads": 1, "context": 8, "batch_size": 2}
    for name, more, expected in (("a", {}, [0, 1, 2]), ("b", {"history": None}, []), ("c", {"history": 1}, [0, 1, 2])):
        list(mlx_tinylm.train(text, "nano", out=tmp_path / name, **small, **more))
        assert steps(tmp_path / name) == expected
    with pytest.raises(TinyLMError, match="history must be a whole number from 1 to 5, not 'yes'"):
        next(mlx_tinylm.train(text, history="yes"))


# Interrupted, and full disks


def test_left_at_any_event(tmp_path: Path, text: Path) -> None:
    """Wherever a run is left, by Ctrl-C or from Python, it goes on to the same snapshots."""
    config = dataclasses.replace(PLAIN, steps=2, save_every=1)
    events = len(train(tmp_path / "whole", config, text))
    for at in range(events):
        for gently in (True, False):
            folder = tmp_path / f"{at}{gently}"
            with run.start(on_streams(), folder, config, [str(text)]) as running:
                for place, _ in enumerate(running.events()):
                    if place == at and gently:
                        running.stop()
                    elif place == at:
                        break
            if running.state.step < 2 or running.unvalidated:
                resume(folder)
            assert contents(folder) == contents(tmp_path / "whole")


def failing_snapshots(patch: pytest.MonkeyPatch, root: Path, step: int) -> None:
    """A disk on which the snapshot of a step cannot be written: the temporary file is cut short."""
    disk = FaultyDisk(patch, root, at=10**9, error=errno.ENOSPC)
    check = disk.check

    def checked(name: str, path: str, target: str = "") -> None:
        if name == "write" and f"{step:08}.safetensors" in path and "history" in path:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        check(name, path, target)

    disk.check = checked  # type: ignore[method-assign]


@pytest.mark.parametrize("step", [0, 2, 8])
def test_a_full_disk(step: int, tmp_path: Path, text: Path) -> None:
    """One line says what cannot be written and how to go on; the checkpoint is there, and no half file."""
    folder, config = tmp_path / "run", dataclasses.replace(PLAIN, eval_every=8)
    train(tmp_path / "whole", config, text)
    with pytest.MonkeyPatch.context() as patch:
        failing_snapshots(patch, tmp_path, step)
        with pytest.raises(TinyLMError) as caught:
            train(folder, config, text)
    message = str(caught.value)
    name = folder / "history" / f"{step:08}.safetensors"
    assert message.startswith(f"{name}: cannot be written (No space left on device); make room on its disk")
    assert message.endswith(f"Then go on from the last checkpoint: mlx-tinylm train --resume {folder}")
    assert "\n" not in message
    assert steps(folder) == [each for each in (0, 1, 2, 5, 8) if each < step]
    assert len(list((folder / "history").iterdir())) == len(steps(folder))
    assert (folder / "checkpoints" / f"{step:08}").exists()  # what was trained was saved first
    resume(folder)
    same_run(folder, tmp_path / "whole")
    assert contents(folder) == contents(tmp_path / "whole")


def kinds_in_order(folder: Path, config: Any, text: Path) -> Iterator[tuple[int, bool]]:
    with run.start(on_streams(), folder, config, [str(text)]) as running:
        for event in running.events():
            if isinstance(event, (Evaluated, Saved)):
                yield event.step, event.step in steps(folder)


def test_the_last_validation_finds_the_snapshot_there(tmp_path: Path, text: Path) -> None:
    """A checkpoint comes first, then the snapshot, then what may take long: a whole run never lacks its last one."""
    found = list(kinds_in_order(tmp_path / "run", dataclasses.replace(PLAIN, eval_every=8, save_every=8), text))
    assert found == [(0, True), (8, False), (8, True)]
