"""How long work says how far it is: it calls a function now and again, which may raise to stop it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

Watch: TypeAlias = Callable[[int, int], None]  # how much is done, and of how much
WatchStages: TypeAlias = Callable[[str, int, int], None]  # the same of one stage among several, by its name


def unwatched(*progress: object) -> None:
    """Nobody looks."""
