"""How text is drawn: the settings, apart from what they do, so that help pages need no NumPy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mlx_tinylm.checks import Settings, check, setting


@dataclass(frozen=True)
class SampleConfig(Settings):
    """How text is drawn from a model. `None` means: not used."""

    max_tokens: int = setting(int, 500, "Characters to write.", low=1)
    temperature: float = setting(float, 0.8, "How bold: 0 always takes the likeliest character.")
    top_k: int | None = setting(int, None, "Draw from the k likeliest only.", low=1, unset="all")
    top_p: float | None = setting(
        float, None, "Draw from the likeliest with p together.", above=True, high=1, unset="all"
    )
    min_p: float | None = setting(
        float, None, "Leave out what is p times less likely than the likeliest.", high=1, unset="none"
    )
    repetition_penalty: float | None = setting(float, None, "Above 1: repeat less.", above=True, unset="no penalty")
    seed: int | None = setting(int, None, "The same seed writes the same text.", high=2**63 - 1, unset="random")
    stop: str | Sequence[str] | None = setting(
        str, None, "End before this text; may be repeated.", unset="only at --max-tokens", several=True
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check("" not in self.stops, "the stop text is empty; leave it out to go on to max_tokens")

    @property
    def stops(self) -> tuple[str, ...]:
        """The texts before the first of which to end."""
        return tuple(self.stop or ())
