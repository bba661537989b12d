"""The folder that keeps texts as ids: its size, and the limit that it is held to."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.files import CACHE, DAY, cache_dir, make_folder, remove_leftovers, write_atomically
from mlx_tinylm.integrity import CHECKSUM, ends_in_checksum, with_checksum
from mlx_tinylm.text.corpus import ChangedTextError

LIMIT = "MLX_TINYLM_CACHE_GB"  # the variable that moves the limit
DEFAULT_GB = 2.0
GB = 10**9


@dataclass(frozen=True)
class Kept:
    """What the cache holds."""

    folder: Path
    texts: int
    bytes: int
    limit: int  # bytes


def kept() -> Kept:
    """What the cache holds now; raises TinyLMError where its limit is no number."""
    folder = cache_dir() / "ids"
    sizes = [size for _, size, _ in _files(folder)]
    return Kept(folder, len(sizes), sum(sizes), _limit())


def kept_file(name: str, content: Callable[[], Iterable[bytes]]) -> Path:
    """The file of this name, filled with `content` and its checksum where it is not there whole.

    Raises TinyLMError where it cannot be kept, ChangedTextError where the content says so: nothing is kept then.
    """
    path = cache_dir() / "ids" / name
    # A damaged file would train on other text, or past the end of a table.
    if not ends_in_checksum(path):
        try:
            make_folder(path.parent)
            remove_leftovers(path.parent, older_than=DAY)
            write_atomically(path, with_checksum(content()))
        except ChangedTextError:
            raise
        except TinyLMError as error:
            raise TinyLMError(f"{error}. {CACHE} names another folder for it") from None
    used(path)
    return path


def mapped(path: Path) -> npt.NDArray[np.uint8]:
    """The content of a kept file, read from the disk as it is asked for."""
    return np.memmap(path, np.uint8, mode="r", shape=(path.stat().st_size - CHECKSUM,))


def used(path: Path) -> None:
    """Count a file as the one used last, and remove the others, the longest unused first, as the limit demands.

    A process that has a removed file open goes on reading it.
    """
    with contextlib.suppress(OSError):  # a cache that cannot be written to can still be read
        os.utime(path)
    left = _limit() - path.stat().st_size
    for _, size, other in sorted(_files(path.parent), reverse=True):
        if other != path:
            left -= size
            if left < 0:
                with contextlib.suppress(OSError):
                    other.unlink()


def _limit() -> int:
    given = os.environ.get(LIMIT, "")
    try:
        limit = float(given or DEFAULT_GB) * GB
        return max(0, int(limit))
    except (ValueError, OverflowError):
        raise TinyLMError(f"{LIMIT}: {given[:40]!r} is not a number of gigabytes") from None


def _files(folder: Path) -> list[tuple[float, int, Path]]:
    """When each file was used last, its size in bytes, and its path."""
    found = []
    for path in folder.glob("[!.]*") if folder.is_dir() else []:
        with contextlib.suppress(OSError):  # another process has just removed it
            status = path.stat()
            found.append((status.st_mtime, status.st_size, path))
    return found
