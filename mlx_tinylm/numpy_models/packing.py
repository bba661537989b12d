"""All parameters of a model in one block of memory.

Each new id reads every one of them. Linux backs an array of 4 MiB or more with huge pages, where NumPy asks for
them; hundreds of small arrays lie on thousands of small pages, each of which has to be looked up.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from mlx_tinylm.numpy_models.cache import Array

LINE = 16  # numbers in a cache line
Parameters = TypeVar("Parameters")


def in_one_block(parameters: Parameters) -> Parameters:
    """The same tree of dataclasses and lists, its float32 arrays copied into one."""
    sizes: list[int] = []

    def counted(array: Array) -> Array:
        sizes.append(-(-array.size // LINE) * LINE)
        return array

    _mapped(parameters, counted)
    block = np.empty(sum(sizes), np.float32)
    places = iter(np.split(block, np.cumsum(sizes)[:-1]))

    def copied(array: Array) -> Array:
        place = next(places)[: array.size].reshape(array.shape)
        place[...] = array
        return place

    arranged: Parameters = _mapped(parameters, copied)
    return arranged


def _mapped(part: Any, change: Callable[[Array], Array]) -> Any:
    """A tree of dataclasses and lists with `change` applied to each array, always in the same order."""
    if isinstance(part, np.ndarray):
        return change(part)
    if isinstance(part, list):
        return [_mapped(each, change) for each in part]
    if _is_tree(part):
        fields = dataclasses.fields(part)
        return dataclasses.replace(part, **{field.name: _mapped(getattr(part, field.name), change) for field in fields})
    return part


def _is_tree(part: Any) -> bool:
    return dataclasses.is_dataclass(part) and part.__module__.startswith(__package__)
