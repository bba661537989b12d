"""A folder with all that commands are pointed at, and the commands run in it."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from tiny_runs import PLAIN, train, train_until, write_text

from mlx_tinylm.cli.main import main

Invoke = Callable[..., Result]


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole model, half a run, texts, and folders that are something else."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLX_TINYLM_CACHE", str(folder / "ids"))
        text = write_text(folder / "text.txt")
        train(folder / "model", dataclasses.replace(PLAIN, steps=4), text)
        train_until(folder / "half", PLAIN, text, 1)
    write_text(folder / "other.txt", 1_500)
    (folder / "unknown.txt").write_text("été " * 500, encoding="utf-8")
    (folder / "full").mkdir()
    (folder / "full" / "thesis.doc").write_text("years of work")
    (folder / "no-weights").mkdir()
    for name in ("config.json", "tokenizer.json"):
        shutil.copy(folder / "model" / name, folder / "no-weights" / name)
    return folder


@pytest.fixture
def invoke(made: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Invoke:
    """Run the program in that folder; what stands in it must be left as it is."""
    monkeypatch.chdir(made)

    def run(*arguments: object, stdin: str | bytes = "") -> Result:
        return CliRunner().invoke(main, [str(argument) for argument in arguments], input=stdin)

    return run
