"""A Mac does not fall asleep in the middle of a run; a stand-in plays its `caffeinate`."""

from __future__ import annotations

import dataclasses
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from tiny_runs import PLAIN, options

from mlx_tinylm.cli.awake import kept_awake

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the stand-in is a script")


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """On a Mac, where `caffeinate` writes what it was called with, and its own process, and waits."""
    log, program = tmp_path / "log", tmp_path / "bin" / "caffeinate"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\necho $* $$ > {log}.new && mv {log}.new {log}\nexec sleep 60\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    return log


def test_a_mac_stays_awake_meanwhile(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is kept awake for this process, which is said once, and no longer than it takes, an error included."""
    called: list[str] = []

    def work() -> None:
        deadline = time.monotonic() + 10
        while not log.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        called.extend(log.read_text().split())
        os.kill(int(called[-1]), 0)  # is there
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), kept_awake():
        work()
    process = called.pop()
    assert called == ["-i", "-w", str(os.getpid())]
    with pytest.raises(ProcessLookupError):
        os.kill(int(process), 0)
    (said,) = capsys.readouterr().err.splitlines()
    assert "stays awake" in said
    assert "--allow-sleep" in said


@pytest.mark.parametrize("why", ["allowed", "Linux", "missing"])
def test_a_machine_that_may_sleep(
    why: str, log: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With --allow-sleep, on other systems and where there is no `caffeinate` nothing is started or said."""
    if why == "Linux":
        monkeypatch.setattr(platform, "system", lambda: why)
    elif why == "missing":
        monkeypatch.setenv("PATH", str(log.parent))
    with kept_awake(allow_sleep=why == "allowed"):
        time.sleep(0.1)
    assert not log.exists()
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("more", [[], ["--allow-sleep"]], ids=["awake", "asleep"])
def test_training_keeps_a_mac_awake(more: list[str], log: Path, invoke: Callable[..., Result], tmp_path: Path) -> None:
    """`train` does so, unless it is told not to."""
    given = [*options(dataclasses.replace(PLAIN, steps=1)), "--data", "text.txt", "--out", tmp_path / "run", *more]
    done = invoke("train", *given)
    assert done.exit_code == 0, (done.output, done.exception)
    assert ("stays awake" in done.stderr) != bool(more)
