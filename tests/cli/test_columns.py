"""Tables that fit a terminal."""

from __future__ import annotations

import io
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_tinylm.cli.columns import Column, columns, cut, cut_left, measure, terminal_width, thinned

TABLE = [
    Column("name", ["a", "long name"], 9, least=4),
    Column("text", ["path/to/x", ""], 1, least=5, cut=cut_left),
    Column("loss", ["1.5", "12.25"], 5, right=True),
    Column("none", ["", ""], 7),
]


@pytest.mark.parametrize(
    ("width", "expected"),
    [
        (None, ["name       text        loss", "a          path/to/x    1.5", "long name             12.25"]),
        (27, ["name       text        loss", "a          path/to/x    1.5", "long name             12.25"]),
        (24, ["name     text       loss", "a        …th/to/x    1.5", "long n…            12.25"]),
        (18, ["name  text    loss", "a     …to/x    1.5", "lon…         12.25"]),
        (17, ["name        loss", "a            1.5", "long name  12.25"]),
        (11, ["name   loss", "a       1.5", "lon…  12.25"]),
        (10, ["name", "a", "long name"]),
        (3, ["name", "a", "lon…"]),
    ],
)
def test_columns(width: int | None, expected: list[str]) -> None:
    """Cells are cut as far as they may be, then the least wanted column goes; an empty one is never shown."""
    assert columns(TABLE, width) == expected


@given(st.integers(4, 60), st.lists(st.text(st.characters(codec="utf-8"), max_size=30), min_size=1, max_size=5))
def test_no_line_is_too_wide(width: int, names: list[str]) -> None:
    """Whatever the cells hold, as long as the last column may be cut far enough, no line is wider than asked."""
    names = [name.replace("\n", "").replace("\r", "") or "x" for name in names]
    table = [Column("", names, 2, least=4), Column("loss", ["1.25"] * len(names), 1)]
    assert max(map(measure, columns(table, width))) <= max(width, 4)


def test_cut() -> None:
    """What is missing is marked, at the end or the beginning; a wide character takes two places, a mark none."""
    assert [cut("abcdef", width) for width in (6, 5, 1)] == ["abcdef", "abcd…", "…"]
    assert cut_left("abcdef", 4) == "…def"
    assert (measure("滿紙"), measure("e\u0301"), measure("👩")) == (4, 1, 2)
    assert (cut("滿紙荒唐", 6), cut("滿紙荒唐", 5)) == ("滿紙…", "滿紙…")


def test_a_curve_keeps_its_ends() -> None:
    """A curve is thinned evenly, and neither its first point nor its last is lost."""
    assert [thinned("abcdefghi", width) for width in (9, 5, 3, 2)] == ["abcdefghi", "acegi", "aei", "ai"]


def test_the_width_of_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """COLUMNS counts first; a pipe has no width, so nothing is lost in it."""
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    for columns_variable, expected in [("50", 50), ("0", None), ("", None), ("wide", None)]:
        monkeypatch.setenv("COLUMNS", columns_variable)
        assert terminal_width() == expected
