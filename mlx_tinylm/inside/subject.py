"""The model that is looked at, with what belongs to it: its facts, its vocabulary, the text it was trained on.

Shapes: T time, V vocabulary.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_tinylm.backend.choose import LanguageModel, load_model
from mlx_tinylm.errors import TinyLMError, escaped
from mlx_tinylm.inside.counter import Counter
from mlx_tinylm.inside.payload import Payload, measured
from mlx_tinylm.inside.trace import Head
from mlx_tinylm.model_folder.folder import ModelFolder, open_folder
from mlx_tinylm.model_folder.layout import count_parameters
from mlx_tinylm.run_folder.runs import find_run
from mlx_tinylm.run_folder.training_text import text_at_hand, trained_on
from mlx_tinylm.text.corpus import Corpus
from mlx_tinylm.text.ids import Dataset, encode
from mlx_tinylm.text.named_corpora import NAMED
from mlx_tinylm.text.normal_form import in_known_form
from mlx_tinylm.text.pairs import PairCorpus
from mlx_tinylm.text.tokenizer import Tokenizer

MOST_WEIGHTS = 1 << 27  # attention weights in one trace: half a gigabyte
MOST_LOGITS = 1 << 25  # and logits
# The byte that each character of a byte-level token's name stands for (Radford et al. 2019): a printable one of
# Latin-1 itself, the others in their order from 256 on.
_PRINTABLE = [*range(33, 127), *range(161, 173), *range(174, 256)]
_OTHERS = [byte for byte in range(256) if byte not in _PRINTABLE]
BYTES = {chr(byte): byte for byte in _PRINTABLE} | {chr(256 + n): byte for n, byte in enumerate(_OTHERS)}


@dataclass(frozen=True)
class Subject:
    """A loaded model folder; what takes time is done when it is asked for, and once."""

    folder: ModelFolder
    model: LanguageModel

    @classmethod
    def open(cls, weights: Path, backend: str = "auto") -> Subject:
        """Raises TinyLMError as `load` does."""
        folder = open_folder(weights)
        return cls(folder, load_model(folder, backend))

    @property
    def tokenizer(self) -> Tokenizer:
        return self.folder.tokenizer

    @property
    def unit(self) -> str:
        """What an id stands for."""
        return "character" if self.tokenizer.alphabet is not None else "token"

    @property
    def longest(self) -> int:
        """How many ids can be looked at at once: the context, or what memory allows of a large model."""
        c = self.model.config
        return min(c.context, math.isqrt(MOST_WEIGHTS // (c.layers * c.heads)), max(1, MOST_LOGITS // c.vocab_size))

    @functools.cached_property
    def vocabulary(self) -> tuple[str, ...]:
        """The text of each id (V,)."""
        return token_texts(self.tokenizer, self.model.config.vocab_size)

    @functools.cached_property
    def corpus(self) -> Corpus | None:
        """The text the model was trained on, if it is here; nothing is fetched."""
        return text_at_hand(self.folder.path)

    @functools.cached_property
    def dataset(self) -> Dataset | None:
        """The ids of that text."""
        if self.corpus is None or isinstance(self.corpus, PairCorpus):  # pairs are no text that goes on
            return None
        with suppress(TinyLMError):  # it cannot be kept, or the tokenizer has changed
            return encode(self.corpus, self.tokenizer)
        return None

    @functools.cached_property
    def counter(self) -> Counter | None:
        """A 3-gram counter of the part of that text that the model learned from."""
        data = self.dataset
        return Counter.of(data.train, self.model.config.vocab_size) if data and len(data.train) else None

    @functools.cached_property
    def text(self) -> str | None:
        """The name of that text as it was given, such as a path; None where nothing says it."""
        with suppress(TinyLMError):  # a damaged record
            if known := trained_on(self.folder.path):
                return known.name
        return None

    @functools.cached_property
    def facts(self) -> dict[str, Any]:
        """What the model is, as a flat object; `loss` is its lowest validation loss in nats, None if not known."""
        c, run = self.model.config, find_run(self.folder.path, self.model.config)
        best = run.best if run and run.whole else None
        return {
            "name": self.folder.path.resolve().name,
            "family": c.family,
            "layers": c.layers,
            "heads": c.heads,
            "width": c.width,
            "context": c.context,
            "vocabulary": c.vocab_size,
            "parameters": count_parameters(c),
            "backend": self.model.backend,
            "unit": self.unit,
            "loss": best[1] if best else None,
            # a text goes by the names of its files: whoever gets a saved page need not know where they lay
            "text": ", ".join(Path(name).name for name in self.text.split(", ")) if self.text else None,
        }

    def encode(self, prompt: str) -> list[int]:
        """The ids of a prompt; raises TinyLMError where there are none, or where a character is not known."""
        ids = self.tokenizer.encode(in_known_form(prompt, self.tokenizer))
        if not ids:
            raise TinyLMError("the prompt is empty; give the model something to go on, such as a newline")
        return ids

    def held_out(self, most: int) -> list[int]:
        """About `most` ids of the held-out text, from the start of a paragraph or line to that of a word.

        The prompt of a held-out pair where those are what it learned from; an example where its text is not here.
        """
        if isinstance(self.corpus, PairCorpus):
            with suppress(TinyLMError):  # a file has changed meanwhile
                return self.encode(next(self.corpus.pairs("held_out")).prompt)[-self.longest :]
        if self.dataset is None or not len(self.dataset.validation):
            return self.encode(self.tokenizer.example)
        ids: list[int] = self.dataset.validation[: 4 * most].tolist()
        texts = [self.vocabulary[id] for id in ids]
        starts = [i for i in range(1, 3 * most) if "".join(texts[max(0, i - 2) : i]).endswith("\n\n")]
        lines = [i for i in range(1, 3 * most) if texts[i - 1 : i] and texts[i - 1].endswith("\n")]
        start = (starts or lines or [0])[0]
        end = start + min(most, self.longest)
        words = [i for i in range(start + most // 2, min(end, len(ids))) if texts[i - 2 : i - 1] == [" "]]
        return ids[start : words[-1] if words else end]

    @property
    def why_no_counter(self) -> str:
        """One sentence for the reader where the training text, and so its counter, is not here; "" where it is."""
        if self.counter is not None:
            return ""
        if isinstance(self.corpus, PairCorpus):
            return "No 3-gram counter beside it: the model learned from pairs, which are no text that goes on."
        if self.text is None:
            return "No 3-gram counter beside it: nothing says which text the model was trained on."
        known = f"; fetch it with: mlx-tinylm data {self.text}" if self.text in NAMED else ""
        return f"No 3-gram counter beside it: the training text, {escaped(self.text)}, is not here{known}."

    def look(self, ids: Sequence[int], heads_off: Iterable[Head] = (), counter: bool = True) -> Payload:
        """All that is measured of at most `longest` ids; with `counter` and where its text is here, what that says."""
        return measured(
            self.model,
            ids,
            prompt=self.tokenizer.decode(ids),
            vocabulary=self.vocabulary,
            facts=self.facts,
            counter=self.counter if counter else None,
            heads_off=heads_off,
        )


def token_texts(tokenizer: Tokenizer, vocab_size: int) -> tuple[str, ...]:
    """The text of each id; the name of one that stands for none, as the end of a text; "" behind the tokenizer's last.

    A token that begins or ends inside a character has no text of its own: escapes show its bytes.
    """
    alphabet = tokenizer.alphabet or ""
    texts = list(alphabet)
    for id in range(len(alphabet), min(tokenizer.vocab_size, vocab_size)):
        name: str = tokenizer.inner.id_to_token(id) or ""
        text = "" if alphabet else tokenizer.decode([id])
        if "\ufffd" in text and BYTES.keys() >= set(name):
            text = bytes(BYTES[character] for character in name).decode(errors="backslashreplace")
        texts.append(text or name)
    return tuple(texts + [""] * (vocab_size - len(texts)))
