"""What a request holds, or why it holds none of it."""

from __future__ import annotations

import json
from typing import Any

from mlx_tinylm.checks import brief, check, check_count
from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.inside.trace import Head


def parsed(body: bytes) -> dict[str, Any]:
    """The object that a body holds; raises TinyLMError for anything else."""
    try:
        request = json.loads(body, parse_constant=lambda name: check(False, f"{name} is no number of JSON"))
    except (ValueError, RecursionError):
        raise TinyLMError("the request is not JSON") from None
    check(isinstance(request, dict), "the request is not a JSON object")
    found: dict[str, Any] = request
    return found


def name_of(run: object) -> str:
    if not isinstance(run, str):
        raise TinyLMError(f"run must be the name of a run, not {brief(run)}")
    return run


def names_of(parts: object) -> set[str] | None:
    if parts is None:
        return None
    if not isinstance(parts, list) or len(parts) > 100 or not all(isinstance(part, str) for part in parts):
        raise TinyLMError("parts must be a list of names of tensors")
    return set(parts)


def pairs(heads: object) -> list[Head]:
    """[[layer, head], ...] of a request."""
    if not isinstance(heads, (list, tuple)) or len(heads) > 10_000:
        raise TinyLMError("heads_off must be a list of [layer, head]")
    for head in heads:
        check(isinstance(head, list) and len(head) == 2, f"a head is [layer, head], both from 0, not {brief(head)}")
    return [(check_count("a layer", layer, 0), check_count("a head", head, 0)) for layer, head in heads]
