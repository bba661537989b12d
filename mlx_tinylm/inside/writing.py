"""Text as it is written, each token with what could have stood there, and with where the training text has it.

Shapes: V vocabulary.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from mlx_tinylm.backend.choose import LanguageModel
from mlx_tinylm.checks import check
from mlx_tinylm.generation import generate_ids
from mlx_tinylm.inside.measures import TOP, Array
from mlx_tinylm.inside.origins import LEAST, Origins
from mlx_tinylm.sample_config import SampleConfig
from mlx_tinylm.sampling import probabilities
from mlx_tinylm.text.tokenizer import Tokenizer


class Listening:
    """A model whose logits can be heard while another writes with it: each call's, in their order."""

    def __init__(self, model: LanguageModel) -> None:
        self.model = model
        self.backend = model.backend
        self.config = model.config
        self.heard: deque[Any] = deque()  # MLX may still be computing the last

    def new_cache(self, capacity: int) -> list[Any]:
        return self.model.new_cache(capacity)

    def next_logits(self, ids: Sequence[int], cache: list[Any]) -> Any:
        logits = self.model.next_logits(ids, cache)
        self.heard.append(logits)
        return logits

    def logits(self, ids: Any) -> Array:
        return self.model.logits(ids)

    def losses(self, inputs: Any, targets: Any) -> Array:
        return self.model.losses(inputs, targets)


def write(
    model: LanguageModel, tokenizer: Tokenizer, ids: Sequence[int], config: SampleConfig, known: Origins | None = None
) -> Iterator[dict[str, Any]]:
    """Yield {id, text, p, top, origin} for each id that follows `ids`, and {done} in the end.

    `p` and `top` ([id, p] of the likeliest) are the model's own: before temperature and filters. `origin` is there
    only where the text up to here ends in LEAST characters or more that stand in `known`: [first line, last line,
    how many]. The ids are those of `generate` with the same settings.
    """
    check(
        config.top_k is None or config.top_k <= model.config.vocab_size,
        f"top_k {config.top_k}: there are {model.config.vocab_size} ids to draw from",
    )
    listening, detokenizer, count = Listening(model), tokenizer.detokenizer(), 0
    memory = Memory(known, tokenizer.decode(ids[-10 * LEAST :])) if known else None
    for id in generate_ids(listening, ids, config):
        count += 1
        chances = probabilities(np.asarray(listening.heard.popleft()).astype(np.float64))
        likeliest = np.argsort(-chances, kind="stable")[:TOP].tolist()
        text = detokenizer.add(id)
        line = {
            "id": id,
            "text": text,
            "p": brief(chances[id]),
            "top": [[each, brief(chances[each])] for each in likeliest],
        }
        if memory and (place := memory.add(text)):
            line["origin"] = list(place)
        yield line
    yield {"done": "length" if count == config.max_tokens else "end"}


def brief(p: float) -> float:
    """A probability with as many digits as anybody reads."""
    return float(f"{p:.6g}")


class Memory:
    """The longest end of a growing text that stands in another one, if it has LEAST characters."""

    def __init__(self, known: Origins, text: str) -> None:
        self.known = known
        self.last = ""  # characters, LEAST of them
        self.end = ""  # what stands there; "" where it is too short
        self.place = 0
        for character in text:
            self._add(character)

    def add(self, text: str) -> tuple[int, int, int] | None:
        """Go on with `text`: the lines, from 1, in which the end stands now, and its length; None if it is short."""
        for character in text:
            self._add(character)
        if not self.end:
            return None
        first, last = self.known.lines(self.place, self.place + len(self.end))
        return first, last, len(self.end)

    def _add(self, character: str) -> None:
        self.last = (self.last + character)[-LEAST:]
        whole = self.end + character if self.end else self.last
        if len(whole) >= LEAST and self._find(whole):
            self.end = whole
            return
        low, high = LEAST - 1, len(whole) - 1  # characters at the end that stand there, and those that may
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self._find(whole[-middle:]) else (low, middle - 1)
        self.end = whole[-low:] if low >= LEAST else ""
        if self.end:
            self._find(self.end)

    def _find(self, end: str) -> bool:
        """Whether it stands there, at the same place as before if possible."""
        place = self.place if self.known.text.startswith(end, self.place) else self.known.text.find(end)
        self.place = place if place >= 0 else self.place
        return place >= 0
