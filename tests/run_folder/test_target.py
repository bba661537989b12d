"""Where a new run may go: numbered folders, filled ones, and what it may replace."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.model_folder.trained_on import TextRecord
from mlx_tinylm.run_folder.folder import OWN
from mlx_tinylm.run_folder.record import RunRecord
from mlx_tinylm.run_folder.settings import TrainConfig
from mlx_tinylm.run_folder.target import numbered, refuse_filled, refuse_sources


def filled(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_text("x")
    return folder


def test_numbers(tmp_path: Path) -> None:
    """A folder gets the first of run-1, run-2, ... that is free; an empty folder or a file is not free."""
    filled(tmp_path / "run-1")
    filled(tmp_path, "run-2")
    assert numbered(filled(tmp_path / "a", "file")) == tmp_path / "run-3"
    assert (tmp_path / "run-3" / "file").exists()
    assert not (tmp_path / "a").exists()


def test_runs_that_are_numbered_at_once_get_numbers_of_their_own(tmp_path: Path) -> None:
    """However many ask together, each gets a number, and nobody's folder is lost."""
    folders = [filled(tmp_path / f"new-{i}", f"file-{i}") for i in range(20)]
    barrier, found = threading.Barrier(len(folders)), []

    def ask(folder: Path) -> None:
        barrier.wait()
        found.append(numbered(folder))

    threads = [threading.Thread(target=ask, args=[folder]) for folder in folders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == sorted(tmp_path / f"run-{i + 1}" for i in range(20))
    assert len(list(tmp_path.rglob("file-*"))) == 20


def test_a_filled_folder_is_refused(tmp_path: Path) -> None:
    """What is in a folder is shown, unless --force is given; a lock alone is nothing, nor is a folder to be made."""
    refuse_filled(tmp_path / "new", force=False)
    filled(tmp_path, ".lock")
    refuse_filled(tmp_path, force=False)
    filled(tmp_path, *"dcba")
    with pytest.raises(TinyLMError, match=r"has something in it already \(a, b, c\); choose another --out, "):
        refuse_filled(tmp_path, force=False)
    refuse_filled(tmp_path, force=True)
    with pytest.raises(TinyLMError, match=r"a: is no folder, and none can be made there; choose another --out"):
        refuse_filled(tmp_path / "a", force=True)


@pytest.mark.parametrize("name", OWN)
def test_only_a_run_is_replaced(name: str, tmp_path: Path) -> None:
    """A file that a run would write, and none wrote, is somebody's own; so is a record that cannot be read."""
    if name == "train.json":
        (tmp_path / name).write_text('{"lr": 1}')
    else:
        filled(tmp_path, "notes.txt", name)
    with pytest.raises(TinyLMError, match=rf"has {name}, and no train.json that a run of this program wrote"):
        refuse_filled(tmp_path, force=True)
    filled(tmp_path, "train.json")
    with pytest.raises(TinyLMError, match=r"train\.json: not valid JSON .*replaces runs only, and this may be none"):
        refuse_filled(tmp_path, force=True)


def test_what_killed_processes_left_is_nothing(tmp_path: Path) -> None:
    """A folder with nothing but half a file of a process that was killed is free."""
    filled(tmp_path, ".new.123-0123abcd.tmp")
    refuse_filled(tmp_path, force=False)


def test_what_a_run_is_made_from_is_not_replaced(tmp_path: Path) -> None:
    """Neither a file that would be removed, nor one below it, nor the model in the folder itself, by any way there."""
    run = filled(tmp_path / "run", "metrics.jsonl", "text.txt", "mine.txt", "model.safetensors")
    filled(run / "checkpoints" / "1", "state.json")
    (tmp_path / "link").symlink_to(run)
    linked = filled(tmp_path / "linked", "config.json")
    (linked / "model.safetensors").symlink_to(run / "model.safetensors")
    for source in (linked, run / "metrics.jsonl", run / "checkpoints" / "1" / "state.json", run, tmp_path / "link"):
        with pytest.raises(TinyLMError, match=r"the new run is to be made from this, and --force would remove it"):
            refuse_sources(run, [tmp_path / "elsewhere", source])
    refuse_sources(run, [run / "text.txt", run / "mine.txt", tmp_path / "elsewhere"])
    refuse_sources(tmp_path / "new", [tmp_path / "new"])


def write_record(folder: Path) -> None:
    """As much of a run as its record is."""
    folder.mkdir()
    (folder / "checkpoints").mkdir()
    text = TextRecord("book.txt", "0" * 64, 1)
    RunRecord(TrainConfig(), None, ("book.txt",), text, {}, {}, "cpu").write(folder)


def test_what_lies_among_checkpoints_is_not_replaced(tmp_path: Path) -> None:
    """A run whose checkpoints/ holds something of the user's, and a place inside a run, are refused."""
    write_record(tmp_path / "run")
    filled(tmp_path / "run" / "checkpoints" / "00000001", "state.json")
    refuse_filled(tmp_path / "run", force=True)
    for inside in (tmp_path / "run" / "new", tmp_path / "run" / "checkpoints" / "a"):
        with pytest.raises(TinyLMError, match=r"lies in the folder of another run, .*run; choose another --out"):
            refuse_filled(inside, force=False)
    filled(tmp_path / "run" / "checkpoints" / "1066", "essay.txt")
    with pytest.raises(TinyLMError, match=r"checkpoints: holds 1066, which no run wrote; move it away"):
        refuse_filled(tmp_path / "run", force=True)
