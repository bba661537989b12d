"""How many steps fit into a time."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

import pytest
from tiny_runs import PLAIN, RICH, on_streams, write_text

from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.run_folder.record import RunRecord
from mlx_tinylm.training import run
from mlx_tinylm.training.pace import Pace

pytestmark = pytest.mark.usefixtures("own_cache")


def test_the_time_of_a_run() -> None:
    """Steps, what comes once, each validation, sample, checkpoint and snapshot, those of the last step included."""
    pace = Pace(step=1.0, once=0.5, validation=10.0, sample=100.0, save=1000.0, snapshot=1e4)
    config = dataclasses.replace(PLAIN, eval_every=4, sample_every=3, save_every=5, history=None)
    assert pace.seconds(dataclasses.replace(config, steps=1)) == 0.5 + 10 + 1 + 10 + 100 + 1000
    assert pace.seconds(dataclasses.replace(config, steps=9)) == 0.5 + 10 + 9 + 3 * 10 + 3 * 100 + 2 * 1000
    assert pace.seconds(dataclasses.replace(config, steps=9, sample_every=None)) == 0.5 + 10 + 9 + 3 * 10 + 2000
    looked_back = dataclasses.replace(config, steps=9, history=3)  # at 0, 1, 2, 5 and 9
    assert pace.seconds(looked_back) == pace.seconds(dataclasses.replace(config, steps=9)) + 5e4


def test_steps_are_found_and_recorded(tmp_path: Path) -> None:
    """A run for a time has as many steps as take about that, and can be repeated with them, bit for bit."""
    text = write_text(tmp_path / "text.txt")
    config = dataclasses.replace(RICH, eval_every=10**6, save_every=10**6)
    began = time.perf_counter()
    with run.start(on_streams(), tmp_path / "run", config, [str(text)], minutes=0.1) as running:
        steps = running.config.steps
        first = running.state.model.model.embed_tokens.weight.tolist()
    assert time.perf_counter() - began < 6
    assert RunRecord.read(tmp_path / "run").settings == dataclasses.replace(config, steps=steps)
    assert steps > 50
    with run.start(on_streams(), tmp_path / "again", running.config, [str(text)]) as again:
        assert again.state.model.model.embed_tokens.weight.tolist() == first


def test_too_short_a_time_is_refused(tmp_path: Path) -> None:
    """Where not even one step fits, the message says what one takes; no folder is made."""
    text = write_text(tmp_path / "text.txt", 50_000)
    with pytest.raises(TinyLMError, match=r"^0\.0001 minutes are too short: .* take 0\.\d+ minutes here; give more"):
        run.start(on_streams(), tmp_path / "run", PLAIN, [str(text)], minutes=1e-4).__enter__()
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("minutes", [0, -1, float("nan"), "2"])
def test_what_is_no_time(minutes: Any, tmp_path: Path) -> None:
    """No time, and what is none, is refused."""
    with pytest.raises(TinyLMError, match=r"minutes must be a number above 0"):
        run.start(on_streams(), tmp_path / "run", PLAIN, [str(write_text(tmp_path / "t"))], minutes=minutes).__enter__()
    with pytest.raises(TinyLMError, match=r"minutes decide how many steps there are: leave one of them out"):
        run.start(on_streams(), tmp_path / "run", PLAIN, given={"steps"}, minutes=1).__enter__()
