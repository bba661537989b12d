"""What a value must be, the words for one that is not, and settings that are declared once with all of that."""

from __future__ import annotations

import dataclasses
import math
import reprlib
import sys
from dataclasses import dataclass
from typing import Any, TypeVar

from mlx_tinylm.errors import TinyLMError

MAX_SIZE = 10_000_000
T = TypeVar("T")
S = TypeVar("S", bound="Settings")


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


@dataclass(frozen=True)
class Setting:
    """What one field of `Settings` is and may be; the command line makes its options from this."""

    type: type
    default: Any
    help: str
    low: float
    high: float | None  # None: as high as a size, or a finite number, can be
    above: bool  # whether `low` itself is too low
    choices: tuple[str, ...]  # of a text; () if any will do
    optional: bool  # whether it may be None
    unset: str  # what None means, in a word

    def check(self, name: str, value: object) -> None:
        """Raise TinyLMError, calling the setting `name`, unless this may be its value."""
        if value is None and self.optional:
            return
        if self.choices:
            choices = ", ".join(self.choices)
            check(value in self.choices, f"{name} must be one of {choices}; not {brief(value)}")
        elif self.type is int:
            check_count(name, value, int(self.low), MAX_SIZE if self.high is None else int(self.high))
        elif self.type is float:
            check_number(name, value, self.low, math.inf if self.high is None else self.high, above=self.above)
        else:
            kind = "text" if self.type is str else "true or false"
            check(isinstance(value, self.type), f"{name} must be {kind}, not {brief(value)}")


def setting(
    type: type[T],
    default: T | None,
    help: str,
    *,
    low: float = 0,
    high: float | None = None,
    above: bool = False,
    choices: tuple[str, ...] = (),
    optional: bool = False,
    unset: str = "off",
) -> T:
    """A field of `Settings`: an int, float, str or bool; see `Setting`. One whose default is None is optional."""
    optional = optional or default is None
    described = Setting(type, default, help, low, high, above, choices, optional, unset)
    field: T = dataclasses.field(default=default, metadata={"setting": described})  # type: ignore[assignment]
    return field


@dataclass(frozen=True)
class Settings:
    """The base of frozen dataclasses whose fields are all made by `setting`; raises TinyLMError for what cannot be."""

    def __post_init__(self) -> None:
        for name, each in settings_of(type(self)).items():
            each.check(name, getattr(self, name))

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls: type[S], raw: object) -> S:
        """What `to_json` gave; raises TinyLMError for keys that are unknown or missing."""
        if not isinstance(raw, dict):
            raise TinyLMError("the settings are not a JSON object")
        if wrong := sorted(raw.keys() ^ settings_of(cls).keys()):
            raise TinyLMError(f"unknown or missing settings: {', '.join(map(str, wrong))[:200]}")
        return cls(**raw)


def settings_of(cls: type[Settings]) -> dict[str, Setting]:
    """The settings of a class by name, in their order."""
    return {field.name: field.metadata["setting"] for field in dataclasses.fields(cls)}
