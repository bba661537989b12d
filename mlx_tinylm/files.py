"""Files and folders written whole or not at all and read with errors that name them."""

from __future__ import annotations

import contextlib
import errno
import glob
import json
import os
import re
import shutil
import stat
import sys
import time
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

from mlx_tinylm.errors import TinyLMError

DAY = 86_400.0  # seconds
CACHE = "MLX_TINYLM_CACHE"  # the variable that moves the cache


def cache_dir() -> Path:
    """The user's cache folder for this program, or what MLX_TINYLM_CACHE says; it may not exist yet."""
    if chosen := os.environ.get(CACHE):
        return Path(chosen).expanduser()
    if sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    elif sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    else:
        chosen = os.environ.get("XDG_CACHE_HOME", "")
        base = Path(chosen) if os.path.isabs(chosen) else Path.home() / ".cache"  # relative ones are not to be used
    return base / "mlx-tinylm"


# Writing


def write_atomically(path: Path, content: bytes | str | Iterable[bytes]) -> None:
    """Write beside `path`, flush to the disk, then take the name: a reader sees the old file or the new.

    Text becomes UTF-8; of an iterable, one block of bytes is in memory at a time. Raises TinyLMError naming the path.
    """
    content = content.encode() if isinstance(content, str) else content
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(beside, "wb") as file:
            for block in [content] if isinstance(content, bytes) else content:
                file.write(block)
            file.flush()
            _reach_the_disk(file.fileno())
        os.replace(beside, path)
        flush(path.parent)
    except OSError as error:
        raise unwritable(path, error) from None
    finally:
        with contextlib.suppress(OSError):  # gone, or the folder is not one: the first error is the one to tell
            beside.unlink()


@contextlib.contextmanager
def filled_folder(final: Path, replaces: Collection[str] = ()) -> Iterator[Path]:
    """A folder to fill. At the end `final` has what is in it; where something goes wrong, `final` is as it was.

    A new folder takes its name by one rename. In one that exists, the entries named in `replaces` give way, and the
    others stay, as do the folder's mode and what is mounted on it. Raises TinyLMError naming `final`.
    What a killed process leaves has a name that `remove_leftovers` finds.
    """
    target = Path(os.path.realpath(final))  # a link stays a link
    exists = target.is_dir()
    unique = f"{os.getpid()}-{os.urandom(4).hex()}.tmp"  # processes in two containers may have the same number
    beside = target / f".new.{unique}" if exists else target.with_name(f".{target.name}.{unique}")
    try:
        remove_leftovers(beside.parent, older_than=DAY, names=glob.escape(beside.name.removesuffix(unique)) + "*.tmp")
        if exists:
            undo_exchange(target)
        beside.mkdir(parents=True)
        yield beside
        if exists:
            _exchange(beside, target, replaces)
        else:
            os.rename(beside, target)
            flush(target.parent)
    except OSError as error:
        raise unwritable(final, error) from None
    except TinyLMError as error:
        if str(beside) not in str(error):
            raise
        raise TinyLMError(str(error).replace(str(beside), str(final))) from None
    finally:
        remove(beside)


def _exchange(new: Path, target: Path, replaces: Collection[str]) -> None:
    """Move what is in `new` into `target`, in the place of the entries named in `replaces`, or leave all as it was."""
    # Not a name that `remove_leftovers` finds: where the process is killed in between, the old files are in here.
    old = target / f".old.{new.name.removeprefix('.new.').removesuffix('.tmp')}"
    old.mkdir()
    begun: list[tuple[Path, Path]] = []
    ways = [(target / name, old / name) for name in sorted(replaces) if os.path.lexists(target / name)]
    ways += [(path, target / path.name) for path in sorted(new.iterdir())]
    try:
        for source, destination in ways:
            if os.path.lexists(destination):  # nobody said that it may be replaced
                raise FileExistsError(errno.EEXIST, f"{destination.name} is there already")
            begun.append((source, destination))
            os.rename(source, destination)
    except BaseException:
        for source, destination in reversed(begun):
            if not os.path.lexists(source):  # it has been moved; what cannot be moved back stays in `old`
                with contextlib.suppress(OSError):
                    os.rename(destination, source)
        with contextlib.suppress(OSError):
            old.rmdir()
        raise
    flush(target)
    done = old.with_name(f"{old.name}.tmp")  # from here on a leftover
    os.rename(old, done)
    remove(done)


def undo_exchange(target: Path) -> None:
    """Put the old files of a folder back where a process was killed while it replaced them; call it with the lock held.

    Raises OSError where that cannot be done.
    """
    for old in _put_aside(target):
        for path in old.iterdir():
            new = target / path.name
            if new.is_dir() and not new.is_symlink():
                shutil.rmtree(new)
            elif os.path.lexists(new):
                new.unlink()
            os.rename(path, new)
        old.rmdir()


def is_interrupted(target: Path) -> bool:
    """Whether a process was killed while it replaced the files of a folder."""
    return bool(_put_aside(target))


def _put_aside(target: Path) -> list[Path]:
    return [path for path in target.glob(".old.*") if re.fullmatch(r"\.old\.\d+-[0-9a-f]{8}", path.name)]


def flush(path: Path) -> None:
    """Make a file, or the names in a folder, last through a power cut; Windows has no such call for folders."""
    if sys.platform != "win32":
        handle = os.open(path, os.O_RDONLY)
        try:
            _reach_the_disk(handle)
        finally:
            os.close(handle)


def _reach_the_disk(handle: int) -> None:
    """Flush an open file or folder. On macOS, fsync(2) says, fsync gets no further than the drive's own memory."""
    if sys.platform == "darwin":
        import fcntl

        with contextlib.suppress(OSError):  # not every file system knows this call
            fcntl.fcntl(handle, fcntl.F_FULLFSYNC)
            return
    os.fsync(handle)


def remove(folder: Path) -> None:
    """Remove a folder with all that is in it; what cannot be removed stays."""
    shutil.rmtree(folder, ignore_errors=True)


def is_leftover(name: str) -> bool:
    """Whether a name is that of something which a process of this program began to write, or moved aside to remove."""
    return re.fullmatch(r"\..+\.\d+(-[0-9a-f]{8})?\.tmp", name) is not None


def remove_leftovers(folder: Path, older_than: float | None = None, names: str = ".*.tmp") -> None:
    """Remove what processes that were killed while writing left in `folder`; call it with the lock held.

    Where there is no lock, another process may be writing: then only what has not changed for `older_than` seconds.
    """
    for path in filter(lambda path: is_leftover(path.name), folder.glob(names)):
        with contextlib.suppress(OSError):
            if older_than is None or time.time() - path.stat().st_mtime > older_than:
                remove(path)
                path.unlink()


def make_folder(folder: Path) -> None:
    """Create `folder` and its parents; raises TinyLMError where that is not possible."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(folder, error, "created") from None


ADVICE = {
    errno.ENOSPC: "make room on its disk",
    errno.EDQUOT: "make room within your quota",
    errno.EFBIG: "its file system, or a limit of the shell, allows no larger files",
    errno.EACCES: "you may not write there: change its permissions, or choose another place",
    errno.EPERM: "you may not write there: change its permissions, or choose another place",
    errno.EROFS: "its disk is read-only: choose another place",
    errno.ENOENT: "its folder is gone: put it back, or choose another place",
    errno.ENAMETOOLONG: "choose a shorter name",
}


def unwritable(path: Path, error: OSError, what: str = "written") -> TinyLMError:
    """The error that says why `path` cannot be written, and what helps."""
    advice = ADVICE.get(error.errno or 0)
    return TinyLMError(f"{path}: cannot be {what} ({error.strerror or error}){f'; {advice}' if advice else ''}")


# Reading


def read(path: Path) -> bytes:
    """The content of a file; raises TinyLMError naming it where it cannot be read or is a pipe or a device."""
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # reading it might never end
            raise TinyLMError(f"{path}: not a file")
        return path.read_bytes()
    except FileNotFoundError:
        raise TinyLMError(f"{path}: no such file") from None
    except OSError as error:
        raise TinyLMError(f"{path}: cannot be read ({error.strerror})") from None


def read_json(path: Path) -> Any:
    """The content of a JSON file; raises TinyLMError naming the file where it cannot be read."""
    content = read(path)
    try:
        return json.loads(content)
    # RecursionError: thousands of nested brackets.
    except (ValueError, RecursionError) as error:
        raise TinyLMError(f"{path}: not valid JSON ({str(error)[:100]})") from None


def to_json(content: Any) -> str:
    """JSON for people: indented, ending in a newline."""
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    # What UTF-8 cannot hold, as half of a surrogate pair in a file's name, becomes JSON's own escape.
    return text.encode("utf-8", "backslashreplace").decode()
