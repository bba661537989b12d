"""What a person sees: tables, escapes, streamed text, and how a run ends."""

from __future__ import annotations

import io
import os
import shlex
import signal
import sys
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_tinylm.cli.terminal import facts, note, preset_table, stream_text, table, visible
from mlx_tinylm.cli.training_view import advice, conclusion, stopped_by_signals
from mlx_tinylm.run_folder.presets import PRESETS
from mlx_tinylm.run_folder.settings import TrainConfig
from mlx_tinylm.text.tokenizer import Tokenizer


def test_table() -> None:
    """Two columns side by side, numbers with four decimals, nothing for nothing."""
    assert table([("a", 1), ("longer", 0.123456), ("b", "text")]) == "a       1\nlonger  0.1235\nb       text"
    assert table([]) == ""


def test_facts() -> None:
    """Whole numbers are easy to read, and a model's tensors stand below in columns."""
    tensors = {"wte.weight": {"shape": [65, 256], "type": "float32", "parameters": 16640}}
    lines = facts({"parameters": 1234567, "device": "cpu", "tensors": tensors}).splitlines()
    assert lines[0].split() == ["parameters", "1,234,567"]
    assert lines[1].split() == ["device", "cpu"]
    assert lines[2] == ""
    assert lines[3].split() == ["wte.weight", "float32", "[65,", "256]", "16,640"]
    assert "\n" not in facts({"device": "cpu"})


def test_preset_table() -> None:
    """The presets stand side by side, each with its own values."""
    lines = preset_table().splitlines()
    assert lines[0] == "\b"
    assert lines[1].split() == ["Presets", *PRESETS]
    rows = {line.split()[0]: line.split()[1:] for line in lines[2:]}
    assert rows["width"] == [str(config.width) for config in PRESETS.values()]
    assert rows["learning-rate"] == [str(config.learning_rate) for config in PRESETS.values()]


# Text


@settings(max_examples=100, deadline=None)
@given(st.text())
def test_no_control_character_is_shown(text: str) -> None:
    """Nothing that a terminal obeys comes through, and what can simply be shown is not changed."""
    shown = visible(text)
    assert not any(unicodedata.category(c) in ("Cc", "Cf", "Cs", "Co", "Cn") for c in shown if c not in "\n\t")
    assert visible(shown) == shown
    if all(unicodedata.category(c)[0] in "LMNPS" for c in text):
        assert shown == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\x1b[2J", r"\x1b[2J"),
        ("\x07\x08\r\x7f\x9b\0", r"\x07\x08\r\x7f\x9b\x00"),
        ("\u202eevil", r"\u202eevil"),
        ("a\n\tb é 😀 e\u0301 שלום", "a\n\tb é 😀 e\u0301 שלום"),
        ("a\u00a0b\u3000c", "a\u00a0b\u3000c"),
        ("\U000e0041", r"\U000e0041"),
    ],
)
def test_visible(text: str, expected: str) -> None:
    """Escape sequences and direction overrides become readable escapes; spaces of any width stay spaces."""
    assert visible(text) == expected


class Screen(io.StringIO):
    """Standard output that says whether it is a terminal, and counts its flushes."""

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


# The end of a run


def run_of(step: int = 10, alphabet: str = "ROME:abc", **progress: Any) -> Any:
    """As much of a run as its last words need."""
    values = {"last_loss": 1.5, "best_loss": 1.5, "best_step": 10, "last_step": step, "train_loss": 1.4} | progress
    return SimpleNamespace(
        progress=SimpleNamespace(**values),
        config=TrainConfig(steps=10),
        folder=Path("my runs/a"),
        state=SimpleNamespace(step=step),
        tokenizer=Tokenizer.from_alphabet(alphabet),
        out_of_patience=False,
    )


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ({"last_loss": 1.6, "best_loss": 1.5}, "It overfits"),
        ({"last_loss": 1.5, "train_loss": 1.2}, "It begins to learn the text by heart"),
        ({"last_loss": 1.5, "train_loss": 1.4}, "It does not overfit yet"),
    ],
)
def test_advice(losses: dict[str, float], expected: str) -> None:
    """Overfitting is what the validation loss says, whatever the training loss is."""
    assert advice(run_of(**losses)).startswith(expected)


def test_advice_names_what_the_optimizer_has() -> None:
    """The cure for overfitting is a setting that works with the run's optimizer."""
    run = run_of(last_loss=1.6)
    assert "more --dropout" in advice(run)
    run.config = TrainConfig(steps=10, optimizer="muon")
    assert "a stronger --muon-weight-decay" in advice(run)


def test_conclusion_of_a_whole_run() -> None:
    """A finished run says how good it is and how to write with it, and not how to go on."""
    text = conclusion(run_of())
    assert "After 10 steps the validation loss is 1.5000; it was best, 1.5000, after step 10" in text
    assert "mlx-tinylm generate --weights 'my runs/a' --prompt ROMEO:" in text
    assert "--resume" not in text


def test_conclusion_of_an_interrupted_run() -> None:
    """A run that was stopped prints the command that goes on, before its first validation too."""
    for run in (run_of(step=4), run_of(step=4, best_loss=None, last_loss=None)):
        assert "mlx-tinylm train --resume 'my runs/a'" in conclusion(run)
    assert conclusion(run).startswith("Stopped at step 4 of 10, before the first validation.")
    between = conclusion(run_of(step=9, last_step=5, best_step=5))
    assert between.startswith("Stopped at step 9 of 10.\nAfter 5 steps the validation loss is 1.5000")


@pytest.mark.parametrize(
    ("alphabet", "prompt"),
    [
        ("ROMEO: abc", "ROMEO:"),
        ("\nzeb!", "b"),
        ("\n 0123", " "),
        ('"$`\\\n', '"'),
        ("'\t", "'"),
        ("אבג ", "א"),
        ("\n\r", None),
    ],
)
def test_the_printed_command_can_be_pasted(alphabet: str, prompt: str | None) -> None:
    """A shell gives the program a prompt that the model knows; without one that can be shown it is left out."""
    run = run_of(alphabet=alphabet)
    (line,) = (line for line in conclusion(run).splitlines() if "generate" in line)
    words = shlex.split(line.removeprefix("Write with it:"))
    expected = [] if prompt is None else ["--prompt", prompt]
    assert words == ["mlx-tinylm", "generate", "--weights", "my runs/a", *expected]
    run.tokenizer.encode(prompt or "\n")


# Signals


@pytest.fixture
def handlers() -> Iterator[list[Any]]:
    """The handlers of Ctrl-C and SIGTERM, put back afterwards."""
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    yield before
    for number, handler in zip((signal.SIGINT, signal.SIGTERM), before, strict=True):
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_the_run_gently(
    number: signal.Signals, handlers: list[Any], capfd: pytest.CaptureFixture[str]
) -> None:
    """The first signal asks the run to stop and says so, the next would end the process; handlers come back."""
    stops = []
    run: Any = SimpleNamespace(stop=lambda: stops.append(1))
    with stopped_by_signals(run) as received:
        assert received == []
        os.kill(os.getpid(), number)
        assert received == [number]
        assert stops == [1]
        # a second one, of either kind, is the system's to handle
        assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == [signal.SIG_DFL] * 2
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert "finishing this step and saving; once more leaves at once" in capfd.readouterr().err
