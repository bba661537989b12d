"""What a person sees of a training run: a bar, samples, validations, and how it ended."""

from __future__ import annotations

import contextlib
import math
import os
import shlex
import shutil
import sys
import time
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from mlx_tinylm.cli.curve import show_curve
from mlx_tinylm.cli.introduction import introduction
from mlx_tinylm.cli.signals import Signals
from mlx_tinylm.cli.terminal import note, visible
from mlx_tinylm.run_folder.events import Baselines, Evaluated, Event, Sampled, Stepped

if TYPE_CHECKING:
    from mlx_tinylm.training.live_run import Run

PLAIN_LINE_EVERY = 10.0  # seconds between two lines where there is no terminal to draw a bar on
SIGPIPE = 13  # what ends other programs that nobody reads
OVERFITS = 1.005  # last validation loss over the best one, from where on it is called overfitting
FALLS = 0.995  # last validation loss over the one before, up to where it is called falling
ENOUGH = 4  # validations that a curve must have before it is judged, that of step 0 among them
LEARNED = 0.9  # of the loss of guessing: what has learned nothing yet gets no advice
ROOM_FOR_BAR = 36  # columns for counts, bar and time


def show_training(open_run: AbstractContextManager[Run], origin: str) -> None:
    """Train to the end, showing how it goes; ends the process with 129, 130 or 143 where a signal ended the run.

    `origin` says where its settings come from.
    """
    unread = False
    with Signals() as signals, open_run as run:
        for problem in run.notes:
            note(problem)
        note(introduction(run, origin))
        if run.compute.compiles:
            note("The first step is compiled, which takes a moment; the others are fast.")
        signals.run = run
        with contextlib.closing(Bar(run)) as bar:
            for event in run.events():
                try:
                    bar.show(event)
                except BrokenPipeError:  # nobody reads this any more: as after Ctrl-C
                    unread = True
                    run.stop()
                except OSError:  # a log on a full disk is no reason to end hours of training
                    pass
        if not bar.plain:
            show_curve(run.folder, math.log(run.state.model.config.vocab_size), bar.columns())
        with contextlib.suppress(BrokenPipeError) if signals.received else contextlib.nullcontext():
            print(conclusion(run), flush=True)
    ended = signals.received or (SIGPIPE if unread else 0)
    if ended and (run.state.step < run.config.steps or run.unvalidated):
        raise SystemExit(128 + ended)


class Bar:
    """A tqdm bar on a terminal, a plain line now and then elsewhere; samples and validations above it."""

    def __init__(self, run: Run) -> None:
        from tqdm import tqdm

        self.run = run
        self.plain = not sys.stderr.isatty()
        self.bar = tqdm(
            total=run.config.steps,
            initial=run.state.step,
            disable=self.plain,
            file=sys.stderr,
            unit="step",
            dynamic_ncols=True,
            # What matters most comes first: a narrow terminal cuts off the end.
            bar_format="{n_fmt}/{total_fmt} {bar} {elapsed}<{remaining} {desc}",
        )
        self.first_step, self.first_seconds = run.state.step, run.progress.seconds
        self.last_line = time.perf_counter()
        self.loss: float | None = None
        self.baselines: Baselines | None = None

    def show(self, event: Event) -> None:
        match event:
            case Stepped():
                self.advance(event)
            case Evaluated():
                best = " (best so far)" if event.best else ""
                loss = f"{event.loss:.4f}, {event.bits_per_byte:.3f} bits per byte"
                if event.exact is not None:
                    loss += f", {event.exact:,} of {len(self.run.dataset.validation):,} answers exact"
                self.line(f"step {event.step}: validation loss {loss}{best}{self.meaning(event.loss)}")
                self.status()
            case Baselines():
                self.baselines = event
                self.line(baselines_line(event, self.run.tokenizer.unit))
            case Sampled():
                self.line("\n".join(f"  | {line}" for line in visible(event.text).strip().splitlines()))

    def meaning(self, loss: float) -> str:
        """What a validation loss is better than."""
        if self.baselines is None:
            return ""
        if loss >= self.baselines.guessing:
            return ", no better than guessing"
        beaten = [n for n, other in enumerate(self.baselines.ngrams, start=1) if loss < other]
        return f", better than {f'a {beaten[-1]}-gram counter' if beaten else 'guessing'}"

    def advance(self, event: Stepped) -> None:
        self.loss = event.loss
        self.status(refresh=False)
        self.bar.update(event.step - self.bar.n)
        if self.plain and (time.perf_counter() - self.last_line > PLAIN_LINE_EVERY or event.step == 1):
            figures = ", ".join(self.figures())
            self.line(f"step {event.step}/{self.run.config.steps}: {figures}, {self.left()} left")
            self.last_line = time.perf_counter()

    def line(self, text: str) -> None:
        self.bar.write(text, file=sys.stderr)

    def status(self, refresh: bool = True) -> None:
        """Put the latest figures behind the bar, as many as leave room for it."""
        figures = self.figures()
        while len(figures) > 1 and len(" ".join(figures)) > self.columns() - ROOM_FOR_BAR:
            figures.pop()
        self.bar.set_description_str(" ".join(figures), refresh=refresh)

    def columns(self) -> int:
        """The width of the terminal that the bar is drawn on, which need not be that of stdout."""
        try:
            return os.get_terminal_size(sys.stderr.fileno()).columns
        except (OSError, ValueError):  # no file, or no terminal
            return shutil.get_terminal_size().columns

    def figures(self) -> list[str]:
        """What to know of the run right now, the most important first."""
        last, memory = self.run.progress.last_loss, self.run.peak_memory_mib()
        found = [] if self.loss is None else [f"loss {self.loss:.3f}"]
        found += [] if last is None else [f"val {last:.3f}"]
        found += [] if self.loss is None else [f"{self.tokens_per_second():,.0f} tokens/s"]
        return [*found, f"{memory:,.0f} MiB"]

    def tokens_per_second(self) -> float:
        seconds = self.run.progress.seconds - self.first_seconds
        steps = self.run.state.step - self.first_step
        return steps * self.run.config.tokens_per_step / max(seconds, 1e-9)

    def left(self) -> str:
        from tqdm import tqdm

        done = self.run.state.step - self.first_step
        each = (self.run.progress.seconds - self.first_seconds) / max(done, 1)
        text: str = tqdm.format_interval((self.run.config.steps - self.run.state.step) * each)
        return text

    def close(self) -> None:
        self.bar.close()


def baselines_line(baselines: Baselines, unit: str) -> str:
    """What the validation losses may be compared with, in a line; texts are counted in `unit`."""
    losses = ", ".join(f"{loss:.3f}" for loss in baselines.ngrams)
    counters = f"1- to {len(baselines.ngrams)}-gram counters of {baselines.counted:,} {unit}"
    return f"baselines: guessing {baselines.guessing:.3f}; {counters} {losses}"


def conclusion(run: Run) -> str:
    """How it ended, in plain words, and the commands that go on from here."""
    folder, step, steps = shlex.quote(str(run.folder)), run.state.step, run.config.steps
    lines = [f"Stopped at step {step:,} of {steps:,}."] if step < steps else []
    lines += [outcome(run), advice(run)]
    prompt = run.corpus.first_words() or run.tokenizer.example
    example = f" --prompt {shlex.quote(prompt)}" if prompt.isprintable() else ""  # a newline is the default
    if step or run.fine_tuned:
        lines.append(f"Write with it:  mlx-tinylm generate --weights {folder}{example}")
    more = f"Go on:          mlx-tinylm train --resume {folder}"
    if run.out_of_patience:
        lines.append(f"{more} --patience off")
    elif step < steps or run.unvalidated:
        lines.append(more)
    return "\n".join(line for line in lines if line)


def outcome(run: Run) -> str:
    """Which weights are kept, and what their loss is."""
    progress = run.progress
    if progress.best_loss is None or progress.last_loss is None:
        return "The weights were not validated after training began." if run.state.step else ""
    if progress.best_step == 0 and run.fine_tuned:
        tried = f"; after {progress.last_step:,} steps it is {progress.last_loss:.4f}" if progress.last_step else ""
        return (
            f"The weights that it began with are kept: their validation loss is {progress.best_loss:.4f}, "
            f"and no later ones were better{tried}."
        )
    if progress.best_step == progress.last_step:
        return f"After {progress.last_step:,} steps the validation loss is {progress.last_loss:.4f}, the best so far."
    return (
        f"After {progress.last_step:,} steps the validation loss is {progress.last_loss:.4f}; it was best, "
        f"{progress.best_loss:.4f}, after step {progress.best_step:,}, and those weights are kept."
    )


def advice(run: Run) -> str:
    """Whether the run overfits or could go on; nothing where its curve is too short or too flat to tell."""
    progress = run.progress
    last, before, trained = progress.last_loss, progress.before_last_loss, progress.train_loss
    if last is None or before is None or trained is None or progress.best_loss is None:
        return ""
    guessing = math.log(run.state.model.config.vocab_size)
    if progress.validations < ENOUGH or min(last, before) > LEARNED * guessing:
        return ""
    # Tiny Shakespeare with Muon: longer runs wanted a stronger decay (and no run more than that); dropout hurt.
    cure = "a stronger --muon-weight-decay" if run.config.optimizer == "muon" else "more --dropout"
    if last > OVERFITS * progress.best_loss:
        return f"It overfits: it goes on learning the text by heart. Try more text, {cure}, or fewer --steps."
    if trained < 0.85 * last:
        return f"It begins to learn the text by heart; for a longer run take more text or {cure}."
    if last < FALLS * before:
        return "It does not overfit yet: more --steps or a larger model would make it better."
    return ""
