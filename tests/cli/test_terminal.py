"""What a person sees: tables, escapes, and text as it is made."""

from __future__ import annotations

import io
import sys
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_tinylm.cli.terminal import note, one_line, preset_table, rows_as_they_come, stream_text, table, visible

KEPT = "\n\t\u200c\u200d"


def test_table() -> None:
    """Two columns side by side, numbers with four decimals, nothing for nothing."""
    assert table([("a", 1), ("longer", 0.123456), ("b", "text")]) == "a       1\nlonger  0.1235\nb       text"
    assert table([]) == ""


def test_a_table_fits_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """A value that is too long goes on below itself; in a pipe each row is one line, and so is what is not too long."""
    rows = [("hint", "install the extra, which is faster"), ("path", "x" * 30), ("short", "a - b")]
    monkeypatch.setenv("COLUMNS", "25")
    assert table(rows).splitlines() == [
        *("hint   install the extra,", "       which is faster"),
        *(f"path   {'x' * 18}", f"       {'x' * 12}", "short  a - b"),
    ]
    monkeypatch.delenv("COLUMNS")
    assert len(table(rows).splitlines()) == 3


def test_rows_that_take_a_while(capsys: pytest.CaptureFixture[str]) -> None:
    """Each row is printed before the next is asked for, in columns that need not know what follows."""
    for name, value in [("speed", 12345), ("time", 0.25)]:
        rows_as_they_come(iter([(name, value)]))
    assert capsys.readouterr().out == f"{'speed':<34}12,345\n{'time':<34}0.25\n"


def test_preset_table() -> None:
    """The presets stand side by side with all in which they differ, below each other where they do not fit."""
    rows = {line.split()[0]: line.split()[1:] for line in preset_table(80).splitlines()}
    assert rows["tiny"] == ["best", "baby", "seed", "nano"]
    assert rows["vocab-size"] == ["4096", "4096", "8192", "2048", "1024"]
    assert rows["width"] == ["160", "160", "384", "256", "128"]
    assert rows["learning-rate"] == ["0.003", "0.003", "0.001", "0.0003", "0.003"]
    assert rows["grad-clip"] == ["off", "off", "1.0", "off", "1.0"]
    assert "grad-accumulation-steps" not in rows
    blocks = preset_table(46).split("\n\n\b\n")
    assert [block.split()[: block.split().index("vocab-size")] for block in blocks] == [
        ["tiny", "best", "baby"],
        ["seed", "nano"],
    ]
    assert max(len(line) for block in blocks for line in block.splitlines()) <= 46


def test_one_line() -> None:
    """A cell of a table is one line, and nothing in it is obeyed."""
    assert one_line(" a\n\tb\x1b[2J\u200d ") == "a b\\x1b[2J\u200d"


@settings(max_examples=100, deadline=None)
@given(st.text())
def test_no_control_character_is_shown(text: str) -> None:
    """Nothing that a terminal obeys comes through, and what can simply be shown is not changed."""
    shown = visible(text)
    assert not any(unicodedata.category(c) in ("Cc", "Cf", "Cs", "Co", "Cn") for c in shown if c not in KEPT)
    assert visible(shown) == shown
    if all(unicodedata.category(c)[0] in "LMNPS" or unicodedata.category(c) == "Zs" for c in text):
        assert shown == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("می\u200cخواهم 👩\u200d👩\u200d👧", "می\u200cخواهم 👩\u200d👩\u200d👧"),
        ("\x07\x08\r\x7f\x9b\0\x1b[2J", r"\x07\x08\r\x7f\x9b\x00\x1b[2J"),
        ("\u202eevil\U000e0041", r"\u202eevil\U000e0041"),
        ("a\n\tb é 😀 e\u0301 שלום a\u00a0b\u3000c", "a\n\tb é 😀 e\u0301 שלום a\u00a0b\u3000c"),
    ],
)
def test_visible(text: str, expected: str) -> None:
    """Escape sequences and direction overrides become readable escapes; spaces of any width stay spaces."""
    assert visible(text) == expected


class Screen(io.StringIO):
    """Standard output that says whether it is a terminal, and remembers what stood there when it was flushed."""

    def __init__(self, terminal: bool) -> None:
        super().__init__()
        self.terminal = terminal
        self.flushed: list[str] = []

    def isatty(self) -> bool:
        return self.terminal

    def flush(self) -> None:
        self.flushed.append(self.getvalue())


@pytest.mark.parametrize(("terminal", "shown"), [(True, r"\x1b[2J"), (False, "\x1b[2J")])
def test_streamed_text(
    terminal: bool, shown: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each piece is shown at once, escaped on a terminal and as it is in a pipe; the speed goes to stderr."""
    screen = Screen(terminal)
    monkeypatch.setattr(sys, "stdout", screen)
    stream_text("To", iter(["\x1b[2J", " be"]), 0, 1, "numpy")
    assert screen.getvalue() == f"To{shown} be\n"
    assert screen.flushed[:3] == ["To", f"To{shown}", f"To{shown} be"]
    assert capsys.readouterr().err.startswith("[7 characters, ")


def test_several_samples_are_told_apart(capsys: pytest.CaptureFixture[str]) -> None:
    """Several texts are numbered, a single one is not; no piece at all is a text, too."""
    for number in range(2):
        stream_text("x", iter(["y"]), number, 2, "mlx")
    assert capsys.readouterr().out == "--- 1 of 2 ---\nxy\n\n--- 2 of 2 ---\nxy\n"
    stream_text("x", iter([]), 0, 1, "mlx")
    out, err = capsys.readouterr()
    assert out == "x\n"
    assert err.startswith("[0 characters, ")
    assert err.endswith(" a second, mlx]\n")


def test_notes_leave_the_pipe_alone(capsys: pytest.CaptureFixture[str]) -> None:
    """A note is for the person, not for what reads standard output."""
    note("hello")
    assert capsys.readouterr() == ("", "hello\n")
