"""`eval`: what it shows while it computes, and no dead ends."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from tiny_runs import EXECUTABLE, PLAIN, environment, options

Invoke = Callable[..., Result]
MORE = ["eval", "--weights", "model", "--baselines", "--memorised"]


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals")
def test_a_bar_on_a_terminal(made: Path, own_cache: Path) -> None:
    """On a terminal each stage has its bar, before it takes any time; in the end only the table is left."""
    import fcntl
    import pty
    import termios

    main, child = pty.openpty()
    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("4H", 24, 50, 0, 0))
    with subprocess.Popen(
        [*EXECUTABLE, *MORE, "--backend", "numpy"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=child,
        cwd=made,
        env=environment(own_cache, TERM="xterm"),
        text=True,
    ) as program:
        os.close(child)
        shown = b""
        try:
            while piece := os.read(main, 1 << 12):
                shown += piece
        except OSError:  # Linux's way of saying that the other end is closed
            pass
        table, _ = program.communicate(timeout=120)
    os.close(main)
    assert program.returncode == 0, shown
    assert re.findall(r"^(loss|5_gram_loss|memorised) ", table, re.M) == ["loss", "5_gram_loss", "memorised"]
    stages = re.findall(r"\r(loss|baselines|memorised):\s+(\d+)%", shown.decode())
    assert list(dict.fromkeys(stage for stage, _ in stages)) == ["loss", "baselines", "memorised"]
    assert [dict(reversed(stages))[stage] for stage in ("loss", "baselines", "memorised")] == ["0"] * 3
    assert b"\n" not in shown
    assert shown.decode().rpartition("\r")[0].rpartition("\r")[2].strip() == ""


@pytest.mark.parametrize("as_json", [[], ["--json"]])
def test_silence_in_a_pipe(invoke: Invoke, as_json: list[str]) -> None:
    """What is no terminal gets the result and nothing else."""
    result = invoke(*MORE, *as_json)
    assert (result.exit_code, result.stderr) == (0, "")


def test_a_text_that_moved_is_no_dead_end(invoke: Invoke, made: Path, tmp_path: Path) -> None:
    """What the message about a lost text asks for is taken, with all options, and said to be what it is."""
    folder, text = tmp_path / "run", Path(shutil.copy(made / "text.txt", tmp_path / "mine.txt"))
    given = [*options(dataclasses.replace(PLAIN, steps=1)), "--data", text, "--out", folder]
    assert invoke("train", *given).exit_code == 0
    moved = text.rename(tmp_path / "moved.txt")
    more = ["eval", "--weights", folder, "--baselines", "--memorised"]
    lost = invoke(*more)
    assert (lost.exit_code, lost.stdout) == (1, "")
    assert re.fullmatch(r"Error: .*mine\.txt', is not here; give a text with --data\n", lost.stderr)
    other = invoke(*more, "--data", "other.txt")
    assert (other.exit_code, other.stdout) == (1, "")
    assert other.stderr.endswith("mine.txt', which is not here; give that text with --data\n")
    found = invoke(*more, "--data", moved)
    assert (found.exit_code, found.stderr) == (0, "")
    assert re.search(r"^part +held-out tenth, as the model was trained on the rest$", found.stdout, re.M)
    assert re.findall(r"^(loss|5_gram_loss|memorised) ", found.stdout, re.M) == ["loss", "5_gram_loss", "memorised"]
