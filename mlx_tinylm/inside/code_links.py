"""Which lines of this program compute what a view shows."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

PACKAGE = Path(__file__).parents[1]
SHOWN = 3  # lines
# For each view the file, and what its first line begins with.
FIRST = {
    "next": ("sampling.py", "cumulative = np.cumsum(probabilities(logits), "),
    "writing": ("generation.py", "id = sample(_finite("),
    "surprise": ("backend/numpy_model.py", "shifted = logits - logits.max"),
    "layers": ("inside/trace.py", "x = x + parts.bring("),
    "attention": ("inside/numpy_parts.py", "weights = q @ k.swapaxes(1, 2)"),
    "characters": ("inside/neighbours.py", "alike = directions[rows] @"),
    "growing": ("training/step.py", "loss, gradient = mean_gradient("),
    "guess": ("inside/counter.py", "seen = counts[first:end]"),
}


@dataclass(frozen=True)
class Link:
    """A place in the source, from the folder of the project."""

    file: str
    line: int  # from 1
    lines: list[str]  # without what they are indented by


@functools.cache
def code_links() -> dict[str, Link]:
    """The place for each view; left out where it has moved, which a test notices."""
    found = {}
    for view, (file, start) in FIRST.items():
        lines = (PACKAGE / file).read_text(encoding="utf-8").splitlines()
        here = next((number for number, line in enumerate(lines) if line.lstrip().startswith(start)), None)
        if here is not None:
            margin = len(lines[here]) - len(lines[here].lstrip())
            shown = [line[min(margin, len(line) - len(line.lstrip())) :] for line in lines[here : here + SHOWN]]
            found[view] = Link(f"{PACKAGE.name}/{file}", here + 1, shown)
    return found
