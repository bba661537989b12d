"""What has become of runs: those in a folder, how far they came, and those that are damaged."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_runs import PLAIN, train, train_until, write_text

from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.locks import lock
from mlx_tinylm.run_folder.runs import DamagedRun, Run, find_run, find_runs


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run and one that was stopped, a day apart, and folders that are no run."""
    folder = tmp_path_factory.mktemp("weights")
    text = write_text(folder / "text.txt")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLX_TINYLM_CACHE", str(folder / ".ids"))
        train(folder / "finished", PLAIN, text)
        train_until(folder / "early", dataclasses.replace(PLAIN, steps=100, eval_every=50), text, 3)
    os.utime(folder / "early" / "metrics.jsonl", (1e9, 1e9))
    (folder / "exported").mkdir()
    shutil.copy(folder / "finished" / "model.safetensors", folder / "exported")
    (folder / "thesis").mkdir()
    (folder / "other").mkdir()
    (folder / "other" / "train.json").write_text('{"lr": 3}')  # of another program
    return folder


def the(folder: Path) -> Run:
    found = find_run(folder)
    assert isinstance(found, Run)
    return found


def test_runs_are_found(made: Path) -> None:
    """All runs in a folder, the latest last, and nothing that is none; a run's own folder gives that run."""
    assert [run.folder.name for run in find_runs(made)] == ["early", "finished"]
    assert find_runs(made / "finished") == [the(made / "finished")]
    assert find_run(made / "exported") is None
    assert find_runs(made / "thesis") == []


def test_a_finished_run(made: Path) -> None:
    """What it was trained on, how far it came, and its validations are those of its files."""
    run = the(made / "finished")
    lines = [json.loads(line) for line in (made / "finished" / "metrics.jsonl").read_text().splitlines()]
    losses = [(line["step"], line["val_loss"]) for line in lines if "val_loss" in line]
    assert (run.text.name, run.text.characters) == (str(made / "text.txt"), 2000)
    assert (run.steps, run.asked, run.state) == (8, 8, "done")
    assert list(run.validations) == losses
    assert run.best == min(losses, key=lambda each: each[1])
    assert run.date.timestamp() == pytest.approx((made / "finished" / "metrics.jsonl").stat().st_mtime, abs=1e-3)
    found = json.loads(json.dumps(run.to_json()))
    assert (found["name"], found["steps"], found["best_loss"]) == ("finished", 8, run.best[1] if run.best else None)
    assert found["parameters"] > 1000
    assert found["snapshots"] == [0, 1, 2, 5, 8]


def test_a_run_that_is_not_finished(made: Path) -> None:
    """It is under way while a process writes there, and stopped when none does; looking at it leaves no trace."""
    folder = made / "early"
    before = sorted((path.name, path.stat().st_mtime_ns) for path in folder.iterdir())
    run = the(folder)
    assert (run.state, run.asked) == ("stopped", 100)
    assert 3 <= run.steps < 100
    with lock(folder):
        assert the(folder).state == "under way"
        assert the(folder).state == "under way"
    assert the(folder).state == "stopped"
    assert sorted((path.name, path.stat().st_mtime_ns) for path in folder.iterdir()) == before
    with lock(folder):  # nobody holds it any more
        pass


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda run: (run / "train.json").write_text("{"), "train.json: not valid JSON"),
        (lambda run: (run / "train.json").unlink(), "train.json: is missing"),
        (lambda run: (run / "train.json").write_bytes(b"\xff\xfe"), "train.json: "),
        (lambda run: (run / "config.json").unlink(), "config.json: is missing"),
        (lambda run: (run / "metrics.jsonl").unlink() or (run / "metrics.jsonl").mkdir(), "metrics.jsonl: "),
    ],
)
def test_a_damaged_run(made: Path, tmp_path: Path, damage: Callable[[Path], object], problem: str) -> None:
    """It is found with what is wrong in one line, beside those that are whole."""
    for name in ("finished", "broken"):
        shutil.copytree(made / "finished", tmp_path / name)
    damage(tmp_path / "broken")
    found = {run.folder.name: run for run in find_runs(tmp_path)}
    assert isinstance(found["finished"], Run)
    broken = found["broken"]
    assert isinstance(broken, DamagedRun)
    assert problem in broken.problem
    assert str(tmp_path) not in broken.problem
    assert "\n" not in broken.problem
    assert broken.to_json()["state"] == "damaged"


def test_bits_per_byte(made: Path, tmp_path: Path) -> None:
    """Those of the best validation, as its line says; None in a run that did not record them."""
    run = the(made / "finished")
    step, loss = run.best or (0, 0.0)
    assert run.bits_per_byte == pytest.approx(loss / math.log(2), rel=0.05)  # one byte a character, but for a few
    assert run.to_json()["best_bits_per_byte"] == run.bits_per_byte
    older = Path(shutil.copytree(made / "finished", tmp_path / "older"))
    lines = (older / "metrics.jsonl").read_text().replace("val_bits_per_byte", "something")
    (older / "metrics.jsonl").write_text(lines)
    assert (the(older).best, the(older).bits_per_byte) == ((step, loss), None)


def test_damaged_lines_of_metrics(made: Path, tmp_path: Path) -> None:
    """What cannot be read in metrics.jsonl is left out, and a run that has just begun has no loss yet."""
    run = Path(shutil.copytree(made / "finished", tmp_path / "run"))
    with open(run / "metrics.jsonl", "ab") as file:
        file.write(b'{"step": 9, "val_loss": NaN}\n{"step": 10, "val_loss": "x"}\n\xff\n{"step": 11')
    assert (the(run).steps, the(run).validations) == (10, the(made / "finished").validations)
    (run / "metrics.jsonl").unlink()
    assert (the(run).steps, the(run).best, the(run).state) == (0, None, "stopped")


def test_no_folder(tmp_path: Path) -> None:
    """A folder that is not there is refused with its name."""
    with pytest.raises(TinyLMError, match=r"nowhere: cannot be read \(No such file or directory\)"):
        find_runs(tmp_path / "nowhere")
