"""`runs`: a table that fits, JSON, and what it says where there is nothing."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from mlx_tinylm.cli.columns import measure
from mlx_tinylm.cli.runs import curve
from mlx_tinylm.locks import lock

Invoke = Callable[..., Result]


@pytest.fixture
def some(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, invoke: Invoke) -> Path:
    """A folder with `weights/`, in which there are runs of every kind."""
    for name, source in [
        ("run-1", "model"),
        ("run-2", "half"),
        ("run-3", "half"),
        ("a\x1b name that is long", "model"),
    ]:
        shutil.copytree(made / source, tmp_path / "weights" / name)
    (tmp_path / "weights" / "run-3" / "train.json").write_text("{")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_table(some: Path, invoke: Invoke) -> None:
    """Each run is a line with all there is to say; one under way, stopped or damaged is shown as such."""
    with lock(some / "weights" / "run-2"):
        result = invoke("runs")
    assert (result.exit_code, result.stderr) == (0, "")
    head, *lines = result.stdout.splitlines()
    assert head.split() == ["run", "text", "parameters", "steps", "best", "loss", "curve", "date"]
    rows = {re.split("  +", line)[0]: re.split("  +", line)[1:] for line in lines}
    assert rows.keys() == {"run-1", "run-2", "run-3", r"a\x1b name that is long"}
    text, parameters, steps, loss, points, date = rows["run-1"]
    assert text.endswith("text.txt")
    assert (int(parameters.replace(",", "")) > 1000, steps) == (True, "4")
    assert re.fullmatch("[▁-█]+▁", points)
    assert re.fullmatch(r"\d\.\d{4}", loss)
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d", date)
    assert re.fullmatch(r"\d of 8", rows["run-2"][2])
    assert rows["run-2"][3] == "under way"
    assert rows["run-3"][0].startswith("damaged: train.json: not valid JSON")
    assert re.search(r"run-2 .* stopped ", invoke("runs").stdout)
    assert invoke("runs", "weights").stdout == invoke("runs", some / "weights").stdout


@pytest.mark.parametrize(
    ("columns", "shown"),
    [
        (50, "run steps best loss curve"),
        (100, "run text parameters steps best loss curve date"),
        (30, "run steps"),
    ],
)
def test_it_fits(columns: int, shown: str, some: Path, invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    """No line is wider than the terminal: columns are cut or left out, the state of a run last."""
    monkeypatch.setenv("COLUMNS", str(columns))
    lines = invoke("runs").stdout.splitlines()
    assert max(map(measure, lines)) <= columns
    assert " ".join(lines[0].split()) == shown
    assert any(line.startswith("run-2") and "stopped" in line for line in lines)
    assert any(line.startswith("run-3  damaged:") for line in lines)


def test_json(some: Path, invoke: Invoke) -> None:
    """As JSON, a list of objects with the folder of each."""
    found = {run["name"]: run for run in json.loads(invoke("runs", "--json").stdout)}
    assert found["run-1"]["folder"] == "weights/run-1"
    assert (found["run-1"]["state"], found["run-2"]["state"]) == ("done", "stopped")
    assert found["run-3"]["state"] == "damaged"


def test_nothing_yet(tmp_path: Path, invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing was trained yet, a note says how to begin; as JSON it is an empty list."""
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        result = invoke("runs")
        assert (result.exit_code, result.stdout) == (0, "")
        assert result.stderr == "weights: no runs here yet. Train a model: mlx-tinylm train\n"
        assert json.loads(invoke("runs", "--json").stdout) == []
        (tmp_path / "weights" / "exported").mkdir(parents=True, exist_ok=True)


def test_curve() -> None:
    """The lowest loss is the lowest block; many points are thinned, and a level curve is no error."""
    assert curve([4.0, 3.0, 2.0, 0.5]) == "█▆▄▁"
    assert curve([2.0, 2.0]) == "▁▁"
    assert curve([]) == ""
    assert len(curve([float(loss) for loss in range(100)])) == 16
