"""The benchmarks still run, each at its smallest size; beside others where they are installed."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_runs import environment

PROGRAM = Path(__file__).with_name("side_by_side.py")


@pytest.mark.parametrize(
    ("command", "sides", "others"),
    [
        ("train --preset tiny", ["ours"], {"pytorch": "torch"}),
        ("train --preset seed --dropout 0", ["ours"], {"pytorch": "torch"}),
        ("generate", ["mlx", "numpy"], {"mlx_lm": "mlx_lm", "pytorch_without_cache": "torch"}),
        ("start", ["help_text", "imports", "one_character"], {"mlx_lm_one_character": "mlx_lm"}),
        ("encode", ["encoding"], {}),
    ],
)
def test_the_smallest_size(command: str, sides: list[str], others: dict[str, str], tmp_path: Path) -> None:
    """A command measures each of our sides, and everybody else's that is installed, and prints a figure for it."""
    sides = sides + [side for side, package in others.items() if importlib.util.find_spec(package)]
    arguments = [sys.executable, PROGRAM, *command.split(), "--smallest"]
    done = subprocess.run(arguments, capture_output=True, text=True, env=environment(tmp_path), timeout=300)
    assert done.returncode == 0, done.stderr
    figures = dict(re.findall(r"^  (\w+) +([\d.e+-]+) +\(.* to .*\) +ratio [\d.]+$", done.stdout, re.M))
    assert sorted(figures) == sorted(sides)
    assert all(float(figure) > 0 for figure in figures.values())
    assert ("both sides compute the same" in done.stdout) == ("pytorch" in figures)
