"""One thread that alone touches the model: MLX's streams belong to the thread that made them."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

Held = TypeVar("Held")
Result = TypeVar("Result")


class UnwantedError(Exception):
    """Nobody waits for a job any more."""


class ModelThread(Generic[Held]):
    """Opens something in a thread of its own, and does one job after the other with it there."""

    def __init__(self, open: Callable[[], Held]) -> None:
        self._jobs: queue.SimpleQueue[tuple[Future[Any], Callable[[Held], Any], Callable[[], bool]]]
        self._jobs = queue.SimpleQueue()
        self._open = open
        self.opened: Future[Held] = Future()
        # A daemon: a job that takes long must not keep the program from ending.
        threading.Thread(target=self._work, name="model", daemon=True).start()

    def run(self, job: Callable[[Held], Result], wanted: Callable[[], bool] = lambda: True) -> Result:
        """What a job returns or raises, when its turn has come; it waits until what it works with is open.

        Raises UnwantedError instead of doing the job where it is not `wanted` any more by then, and what opening
        raised.
        """
        done: Future[Result] = Future()
        self._jobs.put((done, job, wanted))
        return done.result()

    def close(self, seconds: float = 1) -> None:
        """Wait for the job under way and those before it, so long at most.

        The thread itself stays: where one that has used MLX ends while the program does, MLX may abort it.
        """
        with contextlib.suppress(Exception):
            idle: Future[None] = Future()
            self._jobs.put((idle, lambda held: None, lambda: True))
            idle.result(seconds)

    def _work(self) -> None:
        try:
            held = self._open()
        except BaseException as error:
            self.opened.set_exception(error)
            while True:
                self._jobs.get()[0].set_exception(error)
        self.opened.set_result(held)
        while True:
            _do(held, *self._jobs.get())


def _do(held: Held, done: Future[Any], job: Callable[[Held], Any], wanted: Callable[[], bool]) -> None:
    try:
        if not wanted():
            raise UnwantedError
        done.set_result(job(held))
    except BaseException as error:
        done.set_exception(error)
