"""Folders for runs: fresh ones, filled ones, and what is left of an earlier run."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.run_folder.folder import clear, fresh_folder, refuse_filled


def test_fresh_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fresh folder is the first of run-1, run-2, ... that does not exist."""
    monkeypatch.chdir(tmp_path)
    assert fresh_folder() == Path("weights/run-1")
    (tmp_path / "weights" / "run-1").mkdir(parents=True)
    (tmp_path / "weights" / "run-3").mkdir()
    assert fresh_folder() == Path("weights/run-2")


def test_a_filled_folder_is_refused(tmp_path: Path) -> None:
    """What is in a folder is shown and stays, unless --force is given; a lock alone is nothing."""
    (tmp_path / ".lock").touch()
    refuse_filled(tmp_path, force=False)
    for name in "dcba":
        (tmp_path / name).touch()
    for refuse in (refuse_filled, clear):
        with pytest.raises(TinyLMError, match=r"has something in it already \(a, b, c\); choose another --out, "):
            refuse(tmp_path, force=False)
    clear(tmp_path, force=True)
    assert {path.name for path in tmp_path.iterdir()} == {".lock", *"abcd"}


def test_an_earlier_run_is_cleared(tmp_path: Path) -> None:
    """What would be taken for part of the new run goes; what somebody else put there does not."""
    (tmp_path / "checkpoints" / "00000001").mkdir(parents=True)
    for name in ("train.json", "metrics.jsonl", "text.txt", ".model.safetensors.7.tmp", "README.md", "notes.txt"):
        (tmp_path / name).touch()
    clear(tmp_path, force=True)
    assert {path.name for path in tmp_path.iterdir()} == {"README.md", "notes.txt"}
