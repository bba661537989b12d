"""Threads of the BLAS behind NumPy: few in each product, and the rows of a batch spread over the cores.

OpenBLAS cuts even a small product into a piece for each core and waits for the slowest. On a machine with anything
else to do that costs many times what it saves. NumPy does not hold the interpreter's lock in a product, so threads
of Python's own, a row each, use the cores better.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

Result = TypeVar("Result")


class _Shared:
    """The one limit of the process: the first call that needs it sets it, the last one that does puts it back."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.users = 0
        self.limit: contextlib.AbstractContextManager[Any] = contextlib.nullcontext()


_shared = _Shared()


def spread_over_cores(function: Callable[..., Result], *columns: Any, workers: int, threads: int) -> list[Result]:
    """`map(function, *columns)`, `workers` calls at a time, in each of which a product uses at most `threads`."""
    with at_most_threads(threads):
        if workers == 1:
            return list(map(function, *columns))
        # OpenBLAS may keep a number for each thread; one for all is set above, and these threads end here.
        with ThreadPoolExecutor(workers, initializer=_limit, initargs=(threads,)) as pool:
            return list(pool.map(function, *columns))


@contextlib.contextmanager
def at_most_threads(count: int) -> Iterator[None]:
    """A product uses no more than `count` threads, of which afterwards there are as many as before.

    The setting is one for the whole process: while another thread has a limit, that one holds for both.
    """
    with _shared.lock:
        if _shared.users == 0:
            _shared.limit = _limit(count)
            _shared.limit.__enter__()
        _shared.users += 1
    try:
        yield
    finally:
        with _shared.lock:
            _shared.users -= 1
            if _shared.users == 0:
                _shared.limit.__exit__(None, None, None)


def _limit(count: int) -> contextlib.AbstractContextManager[Any]:
    """Set the limit, never above the number that the user or a library has chosen; leaving it restores that."""
    found = _blas()
    if found is None:
        return contextlib.nullcontext()
    now = [each.num_threads for each in found.lib_controllers]
    limits: contextlib.AbstractContextManager[Any] = found.limit(
        limits=min([count, *filter(None, now)]), user_api="blas"
    )
    return limits


@functools.cache
def _blas() -> Any:
    """The libraries whose threads can be told; None where threadpoolctl cannot look for them."""
    from threadpoolctl import ThreadpoolController

    try:
        return ThreadpoolController().select(user_api="blas")
    except Exception:  # a library that looks like one it knows, and is not: slow products beat none
        return None
