"""The losses of a run as a picture in the terminal."""

from __future__ import annotations

import io
import json
import math
import sys
from pathlib import Path

import pytest

from mlx_tinylm.cli.curve import curve, show_curve
from mlx_tinylm.run_folder.metrics import Losses

GUESSING = 4.2
LINE = Losses(tuple((step, 4.0 - step / 40) for step in range(1, 101)), ((0, 4.2), (50, 2.8), (100, 1.6)), None, ())


def test_what_is_drawn() -> None:
    """A line that falls is a line that falls, with the validations where they belong, its numbers and its steps."""
    falling = Losses(tuple((step, 12.0 - step) for step in range(12)), ((11, 1.0),), None, ())
    assert curve(falling, 100.0, 40, plain=True) == [
        "12.00 |...",
        "      |  ...",
        "      |    ...",
        "      |      ...",
        "      |        ...",
        "      |          ...",
        " 6.00 |            ....",
        "      |               ...",
        "      |                 ...",
        "      |                   ...",
        "      |                     ...",
        " 1.00 |                       o",
        "      +------------------------",
        "       0                step 11",
        "  loss in nats: o validation, . training",
    ]


def test_braille_has_eight_dots_a_cell() -> None:
    """Dots are those of Unicode's braille: a level line along the lower edge, a step up, a corner."""
    level = Losses(tuple((step, 1.0) for step in range(1, 99)), ((0, 2.0), (98, 1.0)), None, ())
    lines = curve(level, 100.0, 60)
    assert lines[11].split("│")[1] == "⢀" + "⣀" * 42 + "●"  # from step 1 on
    steep = Losses(((0, 2.0), (1, 1.0)), (), None, ())
    drawn = "".join(line.partition("│")[2] for line in curve(steep, 100.0, 40)[:12]).replace(" ", "")
    assert sum((ord(cell) - 0x2800).bit_count() for cell in drawn) >= 48  # without gaps from edge to edge


def test_noise_is_smoothed() -> None:
    """Of steps that share a column the mean is drawn: noise of a whole nat around 2 stays within a line or two."""
    noisy = Losses(tuple((step, 2.0 + (-1) ** step) for step in range(1, 10_001)), ((0, 4.0), (10_000, 1.0)), None, ())
    lines = curve(noisy, 100.0, 80, plain=True)[:12]
    assert len([line for line in lines if "." in line.partition("|")[2]]) <= 2
    assert lines[0].startswith(" 4.00 |")  # and the picture is no larger than what is drawn
    one = Losses(tuple((step, 0.5 if step == 60 else 2.0) for step in range(1, 2_000)), ((0, 4.0),), None, ())
    assert float(curve(one, 100.0, 80)[11].split()[0]) > 1.8


def test_what_the_losses_compare_with() -> None:
    """Guessing and n-gram models are lines with names, where they lie within the picture and have their own row."""
    known = Losses(LINE.training, LINE.validations, 4.19, (3.3, 2.5, 2.48, 0.5))
    named = {line.split()[-1]: row for row, line in enumerate(curve(known, 4.19, 80)[:12]) if line[-1].isalpha()}
    assert list(named) == ["guessing", "1-gram", "2-gram"]  # 3 shares the row of 2, and 4 lies below
    assert named["guessing"] < named["1-gram"] < named["2-gram"]
    assert "┄" in curve(known, 4.19, 80)[named["2-gram"]]
    assert not any("guessing" in line for line in curve(LINE, 9.0, 80))


def test_a_loss_that_shot_up_flattens_nothing() -> None:
    """A loss far above guessing is drawn at the upper edge."""
    spiked = Losses(((1, 4.0), (2, 900.0), (3, 3.0)), (), None, ())
    assert curve(spiked, GUESSING, 80)[0].startswith(" 5.25 │")


@pytest.mark.parametrize("width", [40, 57, 80, 200])
@pytest.mark.parametrize("plain", [False, True])
def test_it_fits(width: int, plain: bool) -> None:
    """No line is wider than the terminal, nor than 80; ASCII is ASCII."""
    known = Losses(LINE.training, LINE.validations, GUESSING, (3.3, 2.5))
    lines = curve(known, GUESSING, width, plain)
    assert len(lines) == 15
    assert max(map(len, lines)) <= min(width, 80)
    assert "".join(lines).isascii() == plain


def test_nothing_to_draw() -> None:
    """A terminal that is too narrow, a single step, and no step get no picture; a level line does."""
    assert curve(LINE, GUESSING, 39) == []
    assert curve(Losses(((1, 4.0),), ((0, 4.0), (1, 3.9)), None, ()), GUESSING, 80) == []
    assert curve(Losses((), (), None, ()), GUESSING, 80) == []
    assert len(curve(Losses(((1, 2.0), (2, 2.0)), (), None, ()), GUESSING, 80)) == 15


class Screen(io.TextIOWrapper):
    """Standard error in some encoding."""

    def __init__(self, encoding: str) -> None:
        super().__init__(io.BytesIO(), encoding=encoding, write_through=True)

    def shown(self) -> str:
        return self.buffer.getvalue().decode(self.encoding)  # type: ignore[attr-defined, no-any-return]


@pytest.mark.parametrize(
    ("encoding", "term", "plain"),
    [("utf-8", "xterm-256color", False), ("cp1252", "xterm", True), ("ascii", "xterm", True), ("utf-8", "linux", True)],
)
def test_what_the_terminal_can_show(
    encoding: str, term: str, plain: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the encoding or the font of a terminal has no braille, the picture is ASCII."""
    screen = Screen(encoding)
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", term)
    lines = ({"step": step, "loss": loss} for step, loss in LINE.training)
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    show_curve(tmp_path, math.log(66), 80)
    assert screen.shown().isascii() == plain
    assert "loss in nats" in screen.shown()


def test_a_curve_is_no_reason_to_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run whose metrics cannot be read, and a terminal that is gone, cost the picture and nothing else."""
    show_curve(tmp_path / "gone", GUESSING, 80)
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 4.0}\n{"step": 2, "loss": 3.0}\n')

    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(sys, "stderr", Closed())
    show_curve(tmp_path, GUESSING, 80)
