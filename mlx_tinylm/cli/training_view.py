"""What a person sees of a training run: a bar, samples, validations, and how it ended."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from mlx_tinylm.cli.terminal import note, visible
from mlx_tinylm.model_folder.layout import count_parameters
from mlx_tinylm.run_folder.events import Evaluated, Event, Sampled, Stepped

if TYPE_CHECKING:
    from types import FrameType

    from mlx_tinylm.training.live_run import Run

PLAIN_LINE_EVERY = 10.0  # seconds between two lines where there is no terminal to draw a bar on
OVERFITS = 1.005  # last validation loss over the best one, from where on it is called overfitting


def show_training(run: Run) -> None:
    """Train to the end, showing how it goes; ends the process with 130 or 143 where a signal ended the run."""
    for problem in run.notes:
        note(problem)
    note(introduction(run))
    with stopped_by_signals(run) as received, contextlib.closing(Bar(run)) as bar:
        for event in run.events():
            try:
                bar.show(event)
            except BrokenPipeError:  # nobody reads this any more: as after Ctrl-C
                run.stop()
    print(conclusion(run), flush=True)
    if received and run.state.step < run.config.steps:
        raise SystemExit(128 + received[0])


@contextlib.contextmanager
def stopped_by_signals(run: Run) -> Iterator[list[int]]:
    """Ctrl-C and SIGTERM end the run after the step under way; a second one ends the process at once."""
    received: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        received.append(number)
        for each in previous:
            signal.signal(each, signal.SIG_DFL)
        run.stop()
        with contextlib.suppress(OSError):  # whoever read the messages may be gone
            os.write(2, b"\nfinishing this step and saving; once more leaves at once\n")

    previous = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


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
            bar_format="{n_fmt}/{total_fmt} {bar}{postfix} [{elapsed}<{remaining}]",
        )
        self.first_step, self.first_seconds = run.state.step, run.progress.seconds
        self.last_line = time.perf_counter()

    def show(self, event: Event) -> None:
        match event:
            case Stepped():
                self.advance(event)
            case Evaluated():
                best = " (best so far)" if event.best else ""
                self.line(f"step {event.step}: validation loss {event.loss:.4f}{best}")
            case Sampled():
                self.line("\n".join(f"  | {line}" for line in visible(event.text).strip().splitlines()))

    def advance(self, event: Stepped) -> None:
        self.bar.set_postfix_str(self.status(event.loss), refresh=False)
        self.bar.update(event.step - self.bar.n)
        if self.plain and (time.perf_counter() - self.last_line > PLAIN_LINE_EVERY or event.step == 1):
            self.line(f"step {event.step}/{self.run.config.steps}: {self.status(event.loss)}, {self.left()} left")
            self.last_line = time.perf_counter()

    def line(self, text: str) -> None:
        self.bar.write(text, file=sys.stderr)

    def status(self, loss: float) -> str:
        last = self.run.progress.last_loss
        validation = f"val {last:.3f}, " if last is not None else ""
        speed, memory = self.tokens_per_second(), self.run.peak_memory_mib()
        return f"loss {loss:.3f}, {validation}{speed:,.0f} tokens/s, {memory:,.0f} MiB"

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


def introduction(run: Run) -> str:
    """What is about to be trained, on what, and where it goes."""
    config, compute = run.config, run.compute
    parameters = count_parameters(run.state.model.config)
    device = "GPU" if compute.device == "gpu" else f"CPU, {compute.blas.source}"
    lines = [
        f"model folder   {run.folder}",
        f"text           {run.corpus.name}: {run.corpus.characters:,} characters, {len(run.corpus.alphabet)} different",
        f"model          {config.family}, {config.layers} layers x {config.width}, {parameters:,} parameters",
        f"training       {config.steps:,} steps of {config.batch_size * config.grad_accumulation_steps} x "
        f"{config.context} characters, {config.optimizer}, on {device}",
    ]
    if run.state.step:
        lines.append(f"going on from  step {run.state.step:,}")
    if compute.device == "cpu" and compute.blas.hint:
        lines.append(compute.blas.hint)
    return "\n".join(lines)


def conclusion(run: Run) -> str:
    """How it ended, in plain words, and the commands that go on from here."""
    progress, config, folder = run.progress, run.config, shlex.quote(str(run.folder))
    step = run.state.step
    lines = []
    if progress.best_loss is None or progress.last_loss is None:
        lines.append(f"Stopped at step {step:,} of {config.steps:,}, before the first validation.")
    else:
        if step < config.steps:
            lines.append(f"Stopped at step {step:,} of {config.steps:,}.")
        lines.append(
            f"After {progress.last_step:,} steps the validation loss is {progress.last_loss:.4f}; it was best, "
            f"{progress.best_loss:.4f}, after step {progress.best_step:,}, and those weights are kept."
        )
        lines.append(advice(run))
    prompt = run.tokenizer.example
    example = f" --prompt {shlex.quote(prompt)}" if prompt.isprintable() else ""  # a newline is the default
    lines.append(f"Write with it:  mlx-tinylm generate --weights {folder}{example}")
    more = f"Go on:          mlx-tinylm train --resume {folder}"
    if run.out_of_patience:
        lines.append(f"{more} --patience off")
    elif step < config.steps:
        lines.append(more)
    return "\n".join(lines)


def advice(run: Run) -> str:
    """Whether the run overfits or could go on, from its last and best validation and its last training loss."""
    progress = run.progress
    if progress.last_loss is None or progress.best_loss is None or progress.train_loss is None:
        return ""
    # Tiny Shakespeare with Muon: longer runs wanted a stronger decay (and no run more than that); dropout hurt.
    cure = "a stronger --muon-weight-decay" if run.config.optimizer == "muon" else "more --dropout"
    if progress.last_loss > OVERFITS * progress.best_loss:
        return f"It overfits: it goes on learning the text by heart. Try more text, {cure}, or fewer --steps."
    if progress.train_loss < 0.85 * progress.last_loss:
        return f"It begins to learn the text by heart; for a longer run take more text or {cure}."
    return "It does not overfit yet: more --steps or a larger model would make it better."
