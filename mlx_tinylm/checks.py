"""What a value must be, and the words for one that is not."""

from __future__ import annotations

import math
import reprlib
import sys

from mlx_tinylm.errors import TinyLMError

MAX_SIZE = 10_000_000


def check(condition: bool, message: str) -> None:
    """Raise TinyLMError with `message` unless `condition` holds."""
    if not condition:
        raise TinyLMError(message)


def check_count(name: str, value: object, low: int = 1, high: int = MAX_SIZE) -> None:
    """Raise TinyLMError unless `value` is a whole number from `low` to `high`."""
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise TinyLMError(f"{name} must be a whole number from {low} to {high:,}, not {brief(value)}")


def check_number(name: str, value: object, low: float, high: float, *, above: bool = False) -> None:
    """Raise TinyLMError unless `value` is a finite number in [low, high], or (low, high] if `above`."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    largest = min(high, sys.float_info.max)  # JSON knows integers that no float can hold
    if not number or not (low < value if above else low <= value) or value > largest:  # type: ignore[operator]
        lower = f"above {low:g}" if above else f"at least {low:g}"
        upper = f" and at most {high:g}" if math.isfinite(high) else ""
        raise TinyLMError(f"{name} must be a number {lower}{upper}, not {brief(value)}")


def brief(value: object) -> str:
    """A value for a message, cut to a bearable length however long or deeply nested it is."""
    text = reprlib.repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
