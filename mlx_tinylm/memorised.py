"""How much of what a model writes it knows by heart."""

from __future__ import annotations

from collections.abc import Sequence

VERBATIM = 50  # characters


def verbatim_share(text: str, generated: Sequence[str], length: int = VERBATIM) -> float:
    """The share of all `length`-character strings in `generated` that stand word for word in `text`."""
    strings = [sample[i : i + length] for sample in generated for i in range(len(sample) - length + 1)]
    return sum(string in text for string in strings) / max(len(strings), 1)
