"""How much of what a model writes it knows by heart: stands word for word in the text it was trained on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from mlx_tinylm.backend.choose import LanguageModel
from mlx_tinylm.generation import stream_generate
from mlx_tinylm.text.tokenizer import Tokenizer
from mlx_tinylm.watch import Watch, unwatched

SAMPLES, SAMPLE_LENGTH = 5, 1000  # texts, and ids in each
VERBATIM = 50  # characters


def memorised_share(
    model: LanguageModel,
    tokenizer: Tokenizer,
    training_text: Iterable[str | None],
    watch: Watch = unwatched,
) -> float:
    """`verbatim_share` of a few texts that the model writes, the same ones each time, in pieces of its training text.

    `watch` is called as they grow, with how many ids there are by now and how many there may be.
    """
    samples, total = [], SAMPLES * SAMPLE_LENGTH
    for seed in range(SAMPLES):
        pieces: list[str] = []
        for piece in stream_generate(model, tokenizer, tokenizer.opening, max_tokens=SAMPLE_LENGTH, seed=seed):
            watch(seed * SAMPLE_LENGTH + len(pieces), total)
            pieces.append(piece)
        samples.append("".join(pieces))
    watch(total, total)
    return verbatim_share(training_text, samples)


def verbatim_share(text: Iterable[str | None], generated: Sequence[str], length: int = VERBATIM) -> float:
    """The share of all `length`-character strings in `generated` that stand word for word in `text`; 0 without any.

    The text comes in pieces, None after each document.
    """
    strings = [sample[i : i + length] for sample in generated for i in range(len(sample) - length + 1)]
    wanted, known, before = set(strings), set[str](), ""
    for piece in text:
        if piece is None:
            before = ""
            continue
        joined = before + piece
        known |= wanted.intersection(joined[i : i + length] for i in range(len(joined) - length + 1))
        before = joined[len(joined) - length + 1 :] if len(joined) >= length else joined
    return sum(string in known for string in strings) / max(len(strings), 1)
