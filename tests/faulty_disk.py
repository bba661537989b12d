"""A disk that fails at a chosen moment: stands between the program and the operating system."""

from __future__ import annotations

import builtins
import os
from collections.abc import Callable
from typing import Any

import pytest


class Killed(BaseException):
    """The process is dead: no handler may act on this, and nothing after it reaches the disk."""


class FaultyDisk:
    """Counts the calls that change something on the disk; those after the first `at` fail.

    Without an `error` the process is dead: nothing is done any more, by nobody. With an errno, whatever would write
    fails with it, and only removing still works. A write that is the first to fail leaves half of its bytes.
    """

    CALLS = ("open", "mkdir", "fsync", "rename", "replace", "unlink", "rmdir")
    MODULES = ("mlx_tinylm.files", "mlx_tinylm.run_folder.record")

    def __init__(self, patch: pytest.MonkeyPatch, at: int | None = None, error: int | None = None) -> None:
        self.calls: list[str] = []
        self.at, self.error = at, error
        for name in self.CALLS:
            patch.setattr(os, name, self._guarded(name, getattr(os, name)))
        for module in self.MODULES:
            patch.setattr(f"{module}.open", self._open, raising=False)

    def check(self, name: str) -> None:
        """Count a call; raises where it fails."""
        self.calls.append(name)
        if self.at is None or len(self.calls) <= self.at:
            return
        if self.error is None:
            raise Killed
        if name not in ("unlink", "rmdir"):
            raise OSError(self.error, os.strerror(self.error))

    def _guarded(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def guarded(*args: Any, **more: Any) -> Any:
            writes = os.O_WRONLY | os.O_RDWR | os.O_CREAT
            if name != "open" or (args[1] & writes if len(args) > 1 else 0):
                self.check(name)
            return call(*args, **more)

        return guarded

    def _open(self, path: Any, mode: str = "r", **more: Any) -> Any:
        if "r" in mode or str(path).endswith(".lock"):
            return builtins.open(path, mode, **more)
        self.check("open to write")
        return Watched(builtins.open(path, mode, **more), self)


class Watched:
    """A file whose writing a FaultyDisk watches."""

    def __init__(self, file: Any, disk: FaultyDisk) -> None:
        self.file, self.disk = file, disk

    def write(self, data: Any) -> None:
        try:
            self.disk.check("write")
        except BaseException:
            self.file.write(data[: len(data) // 2])
            raise
        self.file.write(data)

    def flush(self) -> None:
        self.file.flush()

    def fileno(self) -> int:
        return int(self.file.fileno())

    def __enter__(self) -> Watched:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()
