"""Writing so that nothing half-made ever stands under a final name, and folders one process owns."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mlx_tinylm.errors import TinyLMError


def cache_dir() -> Path:
    """The user's cache folder for this program; it may not exist yet."""
    if sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    elif sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "mlx-tinylm"


def write_atomically(path: Path, content: bytes | str) -> None:
    """Write beside `path`, flush to the disk, then take the name: a reader sees the old file or the new."""
    data = content.encode() if isinstance(content, str) else content
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(beside, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
        sync_folder(path.parent)
    except OSError as error:
        raise TinyLMError(f"{path}: cannot be written ({error.strerror or error})") from None
    finally:
        with contextlib.suppress(OSError):  # gone, or the folder is not one: the first error is the one to tell
            beside.unlink()


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` last through a power cut; Windows has no such call."""
    if sys.platform != "win32":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def remove(folder: Path) -> None:
    """Remove a folder with all that is in it; what cannot be removed stays."""
    shutil.rmtree(folder, ignore_errors=True)


def remove_leftovers(folder: Path) -> None:
    """Remove what a process that was killed while writing left in `folder`; call it with the lock held."""
    for path in folder.glob(".*.tmp"):
        remove(path)
        with contextlib.suppress(OSError):
            path.unlink()


def make_folder(folder: Path) -> None:
    """Create `folder` and its parents; raises TinyLMError where that is not possible."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TinyLMError(f"{folder}: cannot be created ({error.strerror})") from None


@contextlib.contextmanager
def whole_folder(final: Path) -> Iterator[Path]:
    """A folder to fill, which takes the name `final` at the end, or is gone where something goes wrong.

    A folder of that name is replaced, all that is in it included.
    """
    target = Path(os.path.realpath(final))  # a link stays a link
    beside, old = (target.with_name(f".{target.name}.{os.getpid()}.{kind}") for kind in ("tmp", "old"))
    make_folder(beside)
    try:
        yield beside
        if target.exists():
            os.rename(target, old)
        try:
            os.rename(beside, target)
        except OSError:
            if old.exists():
                os.rename(old, target)
            raise
        sync_folder(target.parent)
        remove(old)
    except OSError as error:
        raise TinyLMError(f"{final}: cannot be written ({error.strerror or error})") from None
    finally:
        remove(beside)


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


def sealed(content: dict[str, Any]) -> str:
    """`to_json` of an object with its own SHA-256 in it, for `read_sealed`."""
    return to_json(content | {"sha256": _seal(content)})


def read_sealed(path: Path) -> dict[str, Any]:
    """What `sealed` wrote; raises TinyLMError naming the file where anything in it has changed since."""
    content = read_json(path)
    seal = content.pop("sha256", None) if isinstance(content, dict) else None
    if seal is None or seal != _seal(content):
        raise TinyLMError(f"{path}: is damaged or was edited (its SHA-256 is not the one recorded)")
    return dict(content)


def _seal(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@contextlib.contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Hold `folder` for this process alone; raises TinyLMError while another process holds it.

    The operating system lets go of the lock when its holder dies, however it dies.
    """
    import fcntl

    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(open(folder / ".lock", "a"))
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise TinyLMError(
                f"{folder}: another training run is writing here; wait for it or choose another --out"
            ) from None
        except OSError as error:
            raise TinyLMError(f"{folder}: cannot be locked ({error.strerror}); choose another --out") from None
        yield
