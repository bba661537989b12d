"""What a person sees of a run: its introduction, the bar, samples and validations, signals, and its last words."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import re
import shlex
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mlx_tinylm.cli import training_view
from mlx_tinylm.cli.introduction import introduction
from mlx_tinylm.cli.training_view import Bar, advice, conclusion, show_training
from mlx_tinylm.run_folder.events import Baselines, Evaluated, Sampled, Saved, Stepped
from mlx_tinylm.run_folder.settings import TrainConfig
from mlx_tinylm.text.tokenizer import Tokenizer

SHAPE = {"family": "gpt2", "layers": 1, "heads": 1, "width": 8, "context": 4}
CONFIG = TrainConfig(**SHAPE, batch_size=5, grad_accumulation_steps=2, steps=10)  # type: ignore[arg-type]
EVENTS = [
    Evaluated(0, 4.26, False, 6.1),
    Stepped(1, 4.25, 1.0),
    Stepped(2, 4.0, 1.0),
    Baselines(2, 2.2, (4.0, 3.0, 2.0, 1.5, 1.25), 1000),
    Evaluated(2, 3.98766, True, 5.7529),
    Sampled(2, "\n To be\x1b[2J\nor not \n"),
    Saved(2, Path("checkpoints/2")),
    Stepped(3, 3.5, 1.0),
    Evaluated(3, 2.1, False, 3.0296),
]
SAID = [
    "baselines: guessing 2.200; 1- to 5-gram counters of 1,000 characters 4.000, 3.000, 2.000, 1.500, 1.250",
    "step 2: validation loss 3.9877, 5.753 bits per byte (best so far), no better than guessing",
    r"  | To be\x1b[2J",
    "  | or not",
    "step 3: validation loss 2.1000, 3.030 bits per byte, better than a 2-gram counter",
]
BEGINNING = "step 0: validation loss 4.2600, 6.100 bits per byte"


def run_of(step: int = 10, alphabet: str = "ROME:abc", events: Any = (), words: str = "", **progress: Any) -> Any:
    """As much of a run as its view needs; its events are given, and each step takes a quarter of a second."""
    losses = {"last_loss": 1.5, "best_loss": 1.5, "best_step": 10, "last_step": step, "train_loss": 1.4}
    losses |= {"before_last_loss": 1.7, "validations": 5}
    model = SimpleNamespace(config=CONFIG.model_config(len(alphabet) + 1, len(alphabet)))
    run = SimpleNamespace(
        progress=SimpleNamespace(**{**losses, "seconds": step / 4, **progress}),
        config=CONFIG,
        folder=Path("my runs/a"),
        notes=("something to know",),
        corpus=SimpleNamespace(
            name="book.txt",
            characters=12_345,
            alphabet=alphabet,
            documents=1,
            unit="documents",
            held_out_rule="the last 1,235 characters",
            first_words=lambda: words,
        ),
        tokenizer=Tokenizer.from_alphabet(alphabet),
        state=SimpleNamespace(step=step, model=model),
        compute=SimpleNamespace(device="cpu", compiles=False, blas=SimpleNamespace(source="OpenBLAS 1.2", hint=None)),
        peak_memory_mib=lambda: 1234.5,
        out_of_patience=False,
        unvalidated=False,
        fine_tuned=False,
        activity="finishing this step",
        stops=0,
    )

    def happen() -> Iterator[Any]:
        for event in events:
            run.state.step, run.progress.seconds = event.step, event.step / 4
            if isinstance(event, Evaluated):
                run.progress.last_loss = event.loss
            yield event

    def stop() -> None:
        run.stops += 1

    run.events, run.stop = happen, stop
    return run


def show(*events: Any) -> None:
    """A run from its very beginning."""
    run = run_of(0, events=events, last_loss=None, best_loss=None)
    with contextlib.closing(Bar(run)) as bar:
        for event in run.events():
            bar.show(event)


def test_without_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Where stderr is no terminal there is no bar: samples, validations, and a plain line at first and then seldom."""
    show(*EVENTS)
    # ten windows of four characters a step, four steps a second, nine steps left
    first = "step 1/10: loss 4.250, val 4.260, 160 tokens/s, 1,234 MiB, 00:02 left"
    assert capsys.readouterr() == ("", "\n".join([BEGINNING, first, *SAID, ""]))
    monkeypatch.setattr(training_view, "PLAIN_LINE_EVERY", 0.0)
    show(*EVENTS)
    lines = capsys.readouterr().err.splitlines()
    assert lines[1:3] == [first, "step 2/10: loss 4.000, val 4.260, 160 tokens/s, 1,234 MiB, 00:02 left"]
    assert lines[-2] == "step 3/10: loss 3.500, val 3.988, 160 tokens/s, 1,234 MiB, 00:01 left"


def test_on_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """On a terminal a bar says how far the run is and how it does; validations and samples stay above it."""
    screen = io.StringIO()
    monkeypatch.setattr(screen, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stderr", screen)
    show(*EVENTS)
    drawn = [line for line in re.split(r"[\r\n]", screen.getvalue()) if line.strip()]
    assert [line for line in drawn if line in SAID] == SAID
    assert re.fullmatch(r"3/10 \S* +\d\d:\d\d<\S+ loss 3.500 val 2.100 160 tokens/s 1,234 MiB", drawn[-1])
    assert capsys.readouterr().out == ""


def test_a_resumed_run_counts_its_own_steps() -> None:
    """The speed of a run that goes on from step 8 is that of its new steps, not of all."""
    run = run_of(8, seconds=100.0)
    with contextlib.closing(Bar(run)) as bar:
        run.state.step, run.progress.seconds = 9, 100.5
        bar.advance(Stepped(9, 2.0, 1.0))
        assert bar.figures() == ["loss 2.000", "val 1.500", "80 tokens/s", "1,234 MiB"]


def test_introduction() -> None:
    """Before it begins a run says where it goes, on what text, with what model, for how long, and what computes."""
    run = run_of(0)
    rows = {
        "model folder": "my runs/a",
        "text": "book.txt: 12,345 characters, 8 different",
        "held out": "the last 1,235 characters",
        # 9 x 8 + 4 x 8 embedded, 872 in the block, 16 in the last norm
        "model": "gpt2, 1 layers x 8, 992 parameters",
        "training": "10 steps of 10 x 4 characters, muon, on CPU, OpenBLAS 1.2",
        "settings": "preset tiny; --steps 10",
        # after steps 0, 1, 2, 5 and 10
        "history": "5 snapshots of the weights, 0.0 MB in the end; --history off for none",
    }

    def said() -> list[list[str]]:
        return [re.split(r"  +", line) for line in introduction(run, rows["settings"]).splitlines()]

    lines = [list(row) for row in rows.items()]
    assert said() == lines
    run.compute.blas.hint = "a faster one can be had"
    run.state.step = 3
    lines[6][1] = lines[6][1].replace("5", "2")  # those to come, and there are none yet
    assert said() == [*lines, ["going on from", "step 3"], ["a faster one can be had"]]
    run.compute.device = "gpu"
    assert said()[4:] == [
        ["training", "10 steps of 10 x 4 characters, muon, on GPU"],
        *lines[5:],
        ["going on from", "step 3"],
    ]
    run.corpus.documents, run.corpus.files = 1_234, 5
    assert said()[1] == ["text", "book.txt: 12,345 characters, 8 different, in 1,234 documents of 5 files"]


def test_a_first_step_that_is_compiled(capsys: pytest.CaptureFixture[str]) -> None:
    """Where steps are compiled, which is on a GPU, the wait for the first one is explained."""
    for compiles in (False, True):
        run = run_of(0)
        run.compute.compiles = compiles
        show_training(contextlib.nullcontext(run), "preset tiny")
        assert ("The first step is compiled" in capsys.readouterr().err) == compiles


# The end of a run


@pytest.mark.parametrize(
    ("losses", "optimizer", "expected"),
    [
        ({"last_loss": 1.6, "best_loss": 1.5}, "adamw", "It overfits: .* more --dropout, or fewer --steps"),
        ({"last_loss": 1.6, "best_loss": 1.5}, "muon", "It overfits: .* a stronger --muon-weight-decay, or"),
        ({"last_loss": 1.5, "train_loss": 1.2}, "muon", "It begins to learn the text by heart"),
        ({"last_loss": 1.5, "train_loss": 1.4}, "muon", "It does not overfit yet"),
        ({"last_loss": 1.506, "train_loss": 1.5, "before_last_loss": 1.6}, "muon", "It does not overfit yet"),
        ({"last_loss": 1.5, "before_last_loss": 1.501}, "muon", "$"),  # flat
        ({"last_loss": 1.5, "validations": 3}, "muon", "$"),  # too short a curve
        ({"last_loss": 2.15, "before_last_loss": 2.19, "best_loss": 2.15}, "muon", "$"),  # a guess: ln 9 is 2.197
        ({"last_loss": 1.5, "before_last_loss": None}, "muon", "$"),
    ],
)
def test_advice(losses: dict[str, float], optimizer: str, expected: str) -> None:
    """Advice follows the curve, with a cure that the run's optimizer has; a curve that says nothing gets none."""
    run = run_of(**losses)
    run.config = dataclasses.replace(CONFIG, optimizer=optimizer)
    assert re.match(expected, advice(run))


def test_conclusion() -> None:
    """A finished run says how good it is and how to write with it; one that was stopped says how to go on."""
    text = conclusion(run_of())
    assert text.startswith("After 10 steps the validation loss is 1.5000, the best so far.\n")
    worse = conclusion(run_of(last_loss=1.6, best_step=5))
    assert worse.startswith("After 10 steps the validation loss is 1.6000; it was best, 1.5000, after step 5, and th")
    assert "mlx-tinylm generate --weights 'my runs/a' --prompt ROMEO:" in text
    assert "--weights 'my runs/a' --prompt 'Call me'\n" in conclusion(run_of(words="Call me")) + "\n"
    assert "--resume" not in text
    between = conclusion(run_of(step=9, last_step=5, best_step=5))
    assert between.startswith("Stopped at step 9 of 10.\nAfter 5 steps the validation loss is 1.5000")
    assert between.endswith("mlx-tinylm train --resume 'my runs/a'")
    early = conclusion(run_of(step=4, best_loss=None, last_loss=None))
    assert early.startswith("Stopped at step 4 of 10.\nThe weights were not validated after training began.")
    assert early.endswith("mlx-tinylm train --resume 'my runs/a'")
    unvalidated = run_of()
    unvalidated.unvalidated = True
    assert conclusion(unvalidated).endswith("mlx-tinylm train --resume 'my runs/a'")
    impatient = run_of(step=9)
    impatient.out_of_patience = True
    assert conclusion(impatient).endswith("mlx-tinylm train --resume 'my runs/a' --patience off")


def test_a_start_that_was_not_beaten() -> None:
    """Where fine-tuning made nothing better, the last words say that the start is kept, and what was tried."""
    run = run_of(best_step=0, best_loss=1.4)
    run.fine_tuned = True
    assert conclusion(run).startswith(
        "The weights that it began with are kept: their validation loss is 1.4000, and no later ones were better; "
        "after 10 steps it is 1.5000."
    )


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


# From the beginning to the end


def test_a_whole_run(capsys: pytest.CaptureFixture[str]) -> None:
    """Notes and introduction come first, events as they happen, and the last words alone go to stdout."""
    run = run_of(0, events=[Stepped(step, 2.0, 1.0) for step in range(1, 11)])
    show_training(contextlib.nullcontext(run), "preset tiny")
    out, err = capsys.readouterr()
    assert out == conclusion(run) + "\n"
    assert err.startswith(f"something to know\n{introduction(run_of(0), 'preset tiny')}\nstep 1/10: ")


@pytest.mark.parametrize("terminal", [True, False])
def test_the_curve_at_the_end(
    terminal: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run on a terminal ends with its curve, all its steps in it, those before it was resumed too; a log does not."""
    lines = ({"step": step, "loss": 2 - step / 20} for step in range(1, 11))
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    run = run_of(8, events=[Stepped(9, 1.75, 1.0), Stepped(10, 1.5, 1.0)])
    run.folder = tmp_path
    screen = io.StringIO()
    monkeypatch.setattr(screen, "isatty", lambda: terminal)
    monkeypatch.setattr(sys, "stderr", screen)
    show_training(contextlib.nullcontext(run), "")
    assert capsys.readouterr().out == conclusion(run) + "\n"
    drawn = screen.getvalue().split("loss in nats")
    assert len(drawn) == 1 + terminal
    assert (" 1.95 │" in drawn[0], "step 10\n" in drawn[0]) == (terminal, terminal)


SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_stops_the_run_gently(number: signal.Signals, capfd: pytest.CaptureFixture[str]) -> None:
    """The first signal asks the run to stop and says so, the next would end the process; handlers come back."""
    before = [signal.getsignal(n) for n in SIGNALS]

    def events() -> Iterator[Any]:
        yield Stepped(1, 2.0, 1.0)
        os.kill(os.getpid(), number)
        assert run.stops == 1
        # a second one is the system's to handle; a terminal that closes may say so twice
        assert [signal.getsignal(n) for n in SIGNALS] == [signal.SIG_DFL, signal.SIG_DFL, signal.SIG_IGN]
        yield Stepped(2, 2.0, 1.0)

    run = run_of(0, events=events())
    with pytest.raises(SystemExit) as ended:
        show_training(contextlib.nullcontext(run), "")
    assert ended.value.code == 128 + number
    assert [signal.getsignal(n) for n in SIGNALS] == before
    out, err = capfd.readouterr()
    assert "finishing this step and saving; once more leaves at once" in err
    assert "mlx-tinylm train --resume" in out


def test_a_closed_pipe_stops_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nobody reads the messages any more, the run is asked to stop, as by Ctrl-C, and still saves."""

    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            if text.startswith("step"):
                raise BrokenPipeError
            return super().write(text)

    monkeypatch.setattr(sys, "stderr", Closed())
    run = run_of(0, events=EVENTS)
    with pytest.raises(SystemExit) as ended:
        show_training(contextlib.nullcontext(run), "")
    assert ended.value.code == 141  # what a shell says of a program that nobody reads: `train && export` ends there
    assert run.stops
    assert run.state.step == 3


def test_a_log_that_cannot_be_written_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A log on a full disk is no reason to end a run whose own disk is not."""

    class Full(io.StringIO):
        def write(self, text: str) -> int:
            if text.startswith("step"):
                raise OSError(28, "No space left on device")
            return super().write(text)

    monkeypatch.setattr(sys, "stderr", Full())
    run = run_of(0, events=[Stepped(step, 2.0, 1.0) for step in range(1, 11)])
    show_training(contextlib.nullcontext(run), "")
    assert (run.stops, run.state.step) == (0, 10)


def test_ignored_signals_stay_ignored() -> None:
    """A program that was started by nohup goes on when its terminal closes."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:

        def events() -> Iterator[Any]:
            os.kill(os.getpid(), signal.SIGHUP)
            yield Stepped(1, 2.0, 1.0)

        run = run_of(0, events=events())
        show_training(contextlib.nullcontext(run), "")
        assert (run.stops, run.state.step) == (0, 1)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_the_last_validation_stands_in_the_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the bar says at the end is what the last validation found, at 50 columns as at 100, with the time left."""
    for columns in (50, 100):
        screen = io.StringIO()
        monkeypatch.setattr(screen, "isatty", lambda: True)
        monkeypatch.setattr(sys, "stderr", screen)
        monkeypatch.setenv("COLUMNS", str(columns))
        show(*EVENTS)
        last = [line for line in re.split(r"[\r\n]", screen.getvalue()) if line.strip()][-1]
        assert "00:0" in last
        assert ("val 2.100" in last) == (columns == 100)
        assert "loss 3.500" in last
        assert ", " not in last
        assert len(last) <= columns
