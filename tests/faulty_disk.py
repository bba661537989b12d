"""A disk that fails at a chosen moment: stands between the program and the operating system."""

from __future__ import annotations

import builtins
import fcntl
import io
import os
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import pytest


class Killed(BaseException):
    """The process is dead: no handler may act on this, and nothing after it reaches the disk."""


class Call(NamedTuple):
    """A call that changes something on the disk; `target` is the new name of what is renamed."""

    name: str
    path: str
    target: str = ""


class FaultyDisk:
    """Counts the calls that change something below `root`, whoever makes them; those after the first `at` fail.

    Without an `error` the process is dead: nothing is done any more, by nobody. With an errno, whatever would write
    fails with it, and only removing still works. A write that is the first to fail leaves half of its bytes.
    `contents` is what stood under each final name once it was taken.
    """

    CHANGES = ("mkdir", "rename", "replace", "link", "symlink", "truncate", "unlink", "remove", "rmdir")
    REMOVES = ("unlink", "remove", "rmdir")

    def __init__(self, patch: pytest.MonkeyPatch, root: Path, at: int | None = None, error: int | None = None) -> None:
        self.root, self.at, self.error = os.path.abspath(root), at, error
        self.calls: list[Call] = []
        self.contents: dict[str, set[bytes]] = defaultdict(set)
        self.opened: dict[Any, str] = {}  # paths by inode and device, for calls with a file descriptor
        self.open, self.os_open, self.os_write = builtins.open, os.open, os.write
        for name in self.CHANGES:
            patch.setattr(os, name, self._changing(name, getattr(os, name)))
        patch.setattr(os, "fsync", self._flushing(os.fsync))
        patch.setattr(os, "open", self._os_open)
        patch.setattr(os, "write", self._os_write)
        for module in (builtins, io):  # pathlib takes the second
            patch.setattr(module, "open", self._open)
        if full := getattr(fcntl, "F_FULLFSYNC", None):  # how macOS spells it
            patch.setattr(fcntl, "fcntl", self._flushing(fcntl.fcntl, full))

    def check(self, name: str, path: str, target: str = "") -> None:
        """Count a call; raises where it fails."""
        self.calls.append(Call(name, path, target))
        if self.at is None or len(self.calls) <= self.at:
            return
        if self.error is None:
            raise Killed
        if name not in self.REMOVES:
            raise OSError(self.error, os.strerror(self.error))

    @property
    def dead(self) -> bool:
        return self.at is not None and self.error is None and len(self.calls) > self.at

    def _path(self, path: Any, folder: int | None = None) -> str:
        """The absolute path, where it lies below the root, else nothing."""
        if isinstance(path, int):
            return self.opened.get(os.fstat(path)[1:3], "")
        path = os.path.join(self._path(folder), path) if folder is not None else os.path.abspath(path)
        return path if path.startswith(self.root + os.sep) else ""

    def _changing(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def guarded(path: Any, *args: Any, **more: Any) -> Any:
            if not (ours := self._path(path, more.get("dir_fd"))):
                return call(path, *args, **more)
            target = self._path(args[0]) if name in ("rename", "replace") else ""
            self.check(name, ours, target)
            done = call(path, *args, **more)
            for file in [Path(target), *Path(target).rglob("*")] if target else []:
                if file.is_file():
                    self.contents[str(file)].add(file.read_bytes())
            return done

        return guarded

    def _flushing(self, call: Callable[..., Any], command: int | None = None) -> Callable[..., Any]:
        def guarded(file: Any, *args: Any) -> Any:
            handle = file if isinstance(file, int) else file.fileno()
            if args[:1] == (() if command is None else (command,)) and (path := self._path(handle)):
                self.check("fsync", path)
            return call(file, *args)

        return guarded

    def _os_open(self, path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        ours = self._path(path, dir_fd)
        if ours and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            self.check("open", ours)
        handle = self.os_open(path, flags, mode, dir_fd=dir_fd)
        if ours:
            self.opened[os.fstat(handle)[1:3]] = ours
        return handle

    def _os_write(self, handle: int, data: Any) -> int:
        if path := self._path(handle):
            self.put(path, data, lambda part: self.os_write(handle, part))
            return len(data)
        return self.os_write(handle, data)

    def put(self, path: str, data: Any, write: Callable[[Any], object]) -> None:
        """Write, or half of it and an error; nothing where the process is dead."""
        if not self.dead:
            try:
                self.check("write", path)
            except BaseException:
                data = data[: len(data) // 2]
                raise
            finally:
                write(data)

    def _open(self, path: Any, mode: str = "r", *args: Any, **more: Any) -> Any:
        ours = self._path(path)
        if not ours or not set(mode) & set("wax+"):
            return self.open(path, mode, *args, **more)
        if not isinstance(path, int):
            self.check("open", ours)
        file = self.open(path, mode, *args, **more)
        self.opened[os.fstat(file.fileno())[1:3]] = ours
        return Watched(file, ours, self)


class Watched:
    """A file whose writing a FaultyDisk watches; what is not flushed has not been written."""

    def __init__(self, file: Any, path: str, disk: FaultyDisk) -> None:
        self.file, self.path, self.disk = file, path, disk
        self.waiting: list[Any] = []

    def write(self, data: Any) -> int:
        self.waiting.append(data)
        return len(data)

    def writelines(self, lines: Iterable[Any]) -> None:
        self.waiting += lines

    def flush(self) -> None:
        data = self.waiting and self.waiting[0][:0].join(self.waiting)
        self.waiting = []
        if data:
            self.disk.put(self.path, data, self._through)

    def _through(self, data: Any) -> None:
        self.file.write(data)
        self.file.flush()

    def close(self) -> None:
        try:
            self.flush()
        finally:
            self.file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def __enter__(self) -> Watched:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def lost_by_a_power_cut(calls: Iterable[Call], folder: Path) -> list[str]:
    """What a power cut may leave half done below `folder`, though it has its final name; none of it is wanted.

    A file's bytes and the names in a folder are on the disk once that file, that folder was flushed. Names that begin
    with a dot are not final.
    """
    wrong = []
    unflushed: set[str] = set()  # files
    unnamed: dict[str, str] = {}  # the last name that a folder was given since it was flushed
    for call in calls:
        if not call.path.startswith(f"{folder}{os.sep}") and call.path != str(folder):
            continue
        if call.name == "write":
            unflushed.add(call.path)
        elif call.name == "fsync":
            unflushed.discard(call.path)
            unnamed.pop(call.path, None)
        elif call.target:
            inside = {path for path in unflushed | set(unnamed) if f"{path}{os.sep}".startswith(f"{call.path}{os.sep}")}
            place = os.path.dirname(call.target)
            if not os.path.basename(call.target).startswith("."):
                wrong += [f"{call.target} takes its name before {path} is flushed" for path in inside]
                earlier = [name for other, name in unnamed.items() if other != place]
                wrong += [f"{call.target} takes its name before {name} has its own for good" for name in earlier]
                unnamed[place] = call.target
            unflushed -= inside
    return wrong + [f"{name} has its name, but not for good" for name in unnamed.values()]
