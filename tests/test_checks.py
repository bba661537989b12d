"""Settings: what each may be, in which words it is refused, and the way through JSON."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_type_hints

import numpy as np
import pytest

from mlx_tinylm.checks import Settings, brief, setting, settings_of
from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.run_folder.settings import TrainConfig
from mlx_tinylm.sample_config import SampleConfig


@dataclass(frozen=True)
class Example(Settings):
    """One setting of each kind."""

    count: int = setting(int, 3, "A size.", low=2)
    page: int = setting(int, 3, "A number.", low=1, high=9)
    rate: float = setting(float, 0.5, "A share.", high=0.75)
    peak: float = setting(float, 0.5, "More than nothing.", above=True)
    every: int | None = setting(int, 5, "Seldom or never.", low=1, optional=True)
    limit: float | None = setting(float, None, "A limit, or none.")
    kind: str = setting(str, "a", "One of two.", choices=("a", "b"))
    stop: str | None = setting(str, None, "Any text, or none.")
    ends: str | Sequence[str] | None = setting(str, None, "Any texts, or none.", several=True)
    loud: bool = setting(bool, False, "Yes or no.")
    new: int = setting(int, 7, "A number that older records lack.", older=5)


NUMBERS = ["count", "page", "rate", "peak", "every", "limit"]
NONSENSE = [-1, math.nan, math.inf, 10**400, "1", True, [1], {}, np.int64(-1), np.float32("nan"), np.True_, np.ones(1)]
REFUSED = [
    *((name, value, f"{name} must be a ") for name in NUMBERS for value in NONSENSE),
    ("count", 1, "count must be a whole number from 2 to 10,000,000, not 1"),
    ("count", 10_000_001, "count must be a whole number from 2 to 10,000,000, not 10000001"),
    ("count", 3.0, "count must be a whole number from 2 to 10,000,000, not 3.0"),
    ("count", np.float64(3.0), "count must be a whole number from 2 to 10,000,000, not np.float64(3.0)"),
    ("count", None, "count must be a whole number from 2 to 10,000,000, not None"),
    ("page", 10, "page must be a whole number from 1 to 9, not 10"),
    ("rate", 0.76, "rate must be a number at least 0 and at most 0.75, not 0.76"),
    ("rate", None, "rate must be a number at least 0 and at most 0.75, not None"),
    ("peak", 0.0, "peak must be a number above 0, not 0.0"),
    ("every", 0, "every must be a whole number from 1 to 10,000,000, not 0"),
    ("limit", -0.1, "limit must be a number at least 0, not -0.1"),
    *(("kind", value, "kind must be one of a, b; not ") for value in ("", "A", None, 1, ["a"], "x" * 5000)),
    ("stop", 5, "stop must be text, not 5"),
    *(
        ("ends", value, "ends must be text, or a list of texts, not ")
        for value in (5, {}, {"a"}, ["a", 1], [["a"]], [None])
    ),
    ("loud", 1, "loud must be true or false, not 1"),
    ("loud", None, "loud must be true or false, not None"),
]


@pytest.mark.parametrize(("name", "value", "message"), REFUSED, ids=lambda value: repr(value)[:20])
def test_what_is_refused(name: str, value: object, message: str) -> None:
    """What a setting cannot be is refused in one short line with its name and its limits."""
    with pytest.raises(TinyLMError) as error:
        Example(**{name: value})  # type: ignore[arg-type]
    assert str(error.value).startswith(message)
    assert len(str(error.value)) < 200
    assert "\n" not in str(error.value)


def test_what_is_allowed() -> None:
    """The ends of each range are inside it, whole numbers are numbers, and None is for what may be off."""
    for page, rate, peak in [(1, 0.0, 1e-300), (9, 0.75, 1e308), (5, 0, 1)]:
        Example(page=page, rate=rate, peak=peak)
    for count in (2, 10_000_000):
        Example(count=count, every=None, limit=None, kind="b", stop="", loud=True)


@pytest.mark.parametrize("whole", [np.int8, np.int64, np.uint16, np.uint64, int])
@pytest.mark.parametrize("real", [np.float16, np.float32, np.float64, float])
def test_numbers_of_numpy(whole: Any, real: Any) -> None:
    """NumPy's numbers are numbers, and what is kept is Python's own, which JSON knows."""
    made = Example(count=whole(7), page=whole(2), rate=real(0.5), peak=whole(3), every=whole(9), limit=real(0.25))
    plain = Example(count=7, page=2, rate=0.5, peak=3, every=9, limit=0.25)
    assert json.dumps(made.to_json()) == json.dumps(plain.to_json())
    assert {type(value) for value in made.to_json().values()} <= {int, float, str, bool, type(None)}


def test_several_texts() -> None:
    """One text, or a tuple or list of them, is kept as a tuple without repetitions; of none nothing is kept."""
    for given, kept in [("ab", ("ab",)), (["a", "b", "a"], ("a", "b")), (("a",), ("a",)), ([], None), (None, None)]:
        made = Example(ends=given)
        assert made.ends == kept
        assert Example.from_json(json.loads(json.dumps(made.to_json()))) == made
        assert hash(made) == hash(Example(ends=kept))


def test_json() -> None:
    """Settings survive JSON in their order; a key too many or too few is refused by its name."""
    made = Example(page=4, every=None, stop="x")
    assert list(made.to_json()) == list(settings_of(Example)) == [field.name for field in dataclasses.fields(Example)]
    assert Example.from_json(json.loads(json.dumps(made.to_json()))) == made
    less = {name: value for name, value in made.to_json().items() if name != "page"}
    for raw, message in [
        (made.to_json() | {"momentum": 0.9}, "unknown or missing settings: momentum"),
        (less, "unknown or missing settings: page"),
        (less | {"x": 1}, "unknown or missing settings: page, x"),
        (made.to_json() | {"page": 10}, "page must be a whole number from 1 to 9, not 10"),
        *((raw, "the settings are not a JSON object") for raw in (None, [], "page", 3)),
    ]:
        with pytest.raises(TinyLMError) as error:
            Example.from_json(raw)
        assert str(error.value) == message


def test_records_of_older_versions() -> None:
    """A setting that came later is what it was before where a record lacks it."""
    made = Example(page=4, new=8)
    older = {name: value for name, value in made.to_json().items() if name != "new"}
    assert Example.from_json(older) == dataclasses.replace(made, new=5)
    assert Example.from_json(made.to_json()) == made


def test_settings_are_frozen() -> None:
    """No setting changes after it has been checked."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        Example().page = 4  # type: ignore[misc]


@pytest.mark.parametrize("cls", [Example, TrainConfig, SampleConfig])
def test_declared_as_annotated(cls: type[Settings]) -> None:
    """Each setting is of the type that its annotation says, may be None where that says so, and is explained."""
    hints: dict[str, Any] = get_type_hints(cls)
    for name, each in settings_of(cls).items():
        kinds = each.type | Sequence[str] if each.several else each.type
        assert hints[name] == (kinds | None if each.optional else kinds)
        assert each.help.endswith(".")


@pytest.mark.parametrize(
    ("value", "text"), [("é\n", r"'é\n'"), (None, "None"), ([[[[[[[[1]]]]]]]], "[[[[[[[...]]]]]]]")]
)
def test_a_value_in_a_message(value: object, text: str) -> None:
    """A message quotes a value as Python writes it, and never at length."""
    assert brief(value) == text
    assert len(brief([["x" * 1000] * 1000] * 1000)) <= 80
