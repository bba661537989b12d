"""Folders that belong to one process at a time."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from mlx_tinylm.errors import TinyLMError


@contextlib.contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Hold `folder` for this process alone; raises TinyLMError while another process holds it.

    The operating system lets go of the lock when its holder dies, however it dies.
    """
    with contextlib.ExitStack() as held:
        try:
            file = held.enter_context(open(folder / ".lock", "a"))
            _acquire(file)
        except BlockingIOError:
            raise TinyLMError(
                f"{folder}: another training run is writing here; wait for it, or train in another folder"
            ) from None
        except OSError as error:
            raise TinyLMError(f"{folder}: cannot be locked ({error.strerror}); choose another --out") from None
        yield


def _acquire(file: IO[str]) -> None:
    """Take the lock; raises BlockingIOError where another process keeps it, and does not only look at it."""
    import fcntl

    for _ in range(5):
        with contextlib.suppress(BlockingIOError):
            return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        time.sleep(0.01)
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def is_locked(folder: Path) -> bool:
    """Whether a process holds `folder`, as far as that can be told without a trace."""
    try:
        import fcntl

        with open(folder / ".lock") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except (OSError, ImportError):  # no system that trains
        return False
    return False
