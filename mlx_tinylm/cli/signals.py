"""What a signal does to a training run."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import FrameType

    from mlx_tinylm.training.live_run import Run

HANGUP = getattr(signal, "SIGHUP", None)  # Windows has none


class Signals:
    """Ctrl-C, a closed terminal and SIGTERM end a run gently; a second one, or one before it began, ends the process.

    A signal that was ignored when the program began, as by nohup, stays ignored.
    """

    def __init__(self) -> None:
        self.received = 0
        self.run: Run | None = None  # what a signal stops, as soon as there is one
        self.previous: dict[int, Any] = {}
        self.terminals = [handle for handle in (1, 2) if os.isatty(handle)]

    def __enter__(self) -> Signals:
        for number in (signal.SIGINT, signal.SIGTERM, HANGUP):
            if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
                self.previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if number == HANGUP:
            self._leave_terminal()
        if self.run is None:
            raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)
        self.received = number
        sys.unraisablehook = lambda _: None  # Python complains of a second signal that came in the same instant
        for each in self.previous:  # a terminal that closes may say so more than once
            signal.signal(each, signal.SIG_IGN if each == HANGUP else signal.SIG_DFL)
        self.run.stop()
        with contextlib.suppress(OSError):  # whoever read the messages may be gone
            os.write(2, f"\n{self.run.activity} and saving; once more leaves at once\n".encode())

    def _leave_terminal(self) -> None:
        """Write to nobody from now on: the terminal is gone, and to write to it would fail."""
        nobody = os.open(os.devnull, os.O_WRONLY)
        for handle in self.terminals:
            os.dup2(nobody, handle)
        os.close(nobody)
