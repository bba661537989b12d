"""What a value must be, the words for one that is not, and settings that are declared once with all of that."""

from __future__ import annotations

import dataclasses
import math
import numbers
import reprlib
import sys
from dataclasses import dataclass
from typing import Any, TypeVar

from mlx_tinylm.errors import TinyLMError

REQUIRED = object()  # no value that a setting can have
MAX_SIZE = 10_000_000
T = TypeVar("T")
S = TypeVar("S", bound="Settings")


def check(condition: bool, message: str) -> None:
    """Raise TinyLMError with `message` unless `condition` holds."""
    if not condition:
        raise TinyLMError(message)


def whole(value: object) -> int | None:
    """A whole number, NumPy's too, as Python's own; None for anything else, such as true."""
    return int(value) if isinstance(value, numbers.Integral) and not isinstance(value, bool) else None


def check_count(name: str, value: object, low: int = 1, high: int = MAX_SIZE) -> int:
    """The whole number `value`, NumPy's too, as Python's own; raises TinyLMError unless it is from `low` to `high`."""
    number = whole(value)
    if number is None or not low <= number <= high:
        raise TinyLMError(f"{name} must be a whole number from {low} to {high:,}, not {brief(value)}")
    return number


def check_number(name: str, value: object, low: float, high: float, *, above: bool = False) -> float:
    """The number `value`, NumPy's too, as Python's own.

    Raises TinyLMError unless it is finite and in [low, high], or in (low, high] if `above`.
    """
    number: float | None = whole(value)
    if number is None and isinstance(value, numbers.Real) and not isinstance(value, bool):
        number = float(value)
    largest = min(high, sys.float_info.max)  # JSON knows integers that no float can hold
    if number is None or not (low < number if above else low <= number) or number > largest:
        lower = f"above {low:g}" if above else f"at least {low:g}"
        upper = f" and at most {high:g}" if math.isfinite(high) else ""
        raise TinyLMError(f"{name} must be a number {lower}{upper}, not {brief(value)}")
    return number


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
    several: bool  # whether it is any number of texts, each once; one by itself will do
    older: Any  # what records mean that were made before there was such a setting; REQUIRED where none were

    def checked(self, name: str, value: object) -> object:
        """What to keep of `value`: plain numbers, several texts as a tuple, None for no text.

        Raises TinyLMError, calling the setting `name`, where this cannot be its value.
        """
        if value is None and self.optional:
            return None
        if self.type is int:
            return check_count(name, value, int(self.low), MAX_SIZE if self.high is None else int(self.high))
        if self.type is float:
            return check_number(name, value, self.low, math.inf if self.high is None else self.high, above=self.above)
        if self.choices:
            choices = ", ".join(self.choices)
            check(value in self.choices, f"{name} must be one of {choices}; not {brief(value)}")
        elif self.several:
            texts = [value] if isinstance(value, str) else value
            if not isinstance(texts, (list, tuple)) or not all(isinstance(text, str) for text in texts):
                raise TinyLMError(f"{name} must be text, or a list of texts, not {brief(value)}")
            return tuple(dict.fromkeys(texts)) or None
        else:
            kind = "text" if self.type is str else "true or false"
            check(isinstance(value, self.type), f"{name} must be {kind}, not {brief(value)}")
        return value


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
    several: bool = False,
    older: Any = REQUIRED,
) -> T:
    """A field of `Settings`: an int, float, str or bool; see `Setting`. One whose default is None is optional."""
    optional = optional or default is None
    described = Setting(type, default, help, low, high, above, choices, optional, unset, several, older)
    field: T = dataclasses.field(default=default, metadata={"setting": described})  # type: ignore[assignment]
    return field


@dataclass(frozen=True)
class Settings:
    """The base of frozen dataclasses whose fields are all made by `setting`; raises TinyLMError for what cannot be."""

    def __post_init__(self) -> None:
        for name, each in settings_of(type(self)).items():
            object.__setattr__(self, name, each.checked(name, getattr(self, name)))  # it is frozen from here on

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls: type[S], raw: object) -> S:
        """What `to_json` gave, of an older version too; raises TinyLMError for keys that are unknown or missing."""
        if not isinstance(raw, dict):
            raise TinyLMError("the settings are not a JSON object")
        known = settings_of(cls)
        raw = {name: each.older for name, each in known.items() if each.older is not REQUIRED} | raw
        if wrong := sorted(raw.keys() ^ known.keys()):
            raise TinyLMError(f"unknown or missing settings: {', '.join(map(str, wrong))[:200]}")
        return cls(**raw)


def settings_of(cls: type[Settings]) -> dict[str, Setting]:
    """The settings of a class by name, in their order."""
    return {field.name: field.metadata["setting"] for field in dataclasses.fields(cls)}
