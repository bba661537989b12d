"""How much of what a model writes it knows by heart: stands word for word in the text it was trained on."""

from __future__ import annotations

from collections.abc import Sequence

from mlx_tinylm.backend.choose import LanguageModel
from mlx_tinylm.generation import generate
from mlx_tinylm.text.tokenizer import Tokenizer

SAMPLES, SAMPLE_LENGTH = 5, 1000  # texts, and ids in each
VERBATIM = 50  # characters


def memorised_share(model: LanguageModel, tokenizer: Tokenizer, training_text: str) -> float:
    """`verbatim_share` of a few texts that the model writes, the same ones each time."""
    opening = tokenizer.opening
    samples = [generate(model, tokenizer, opening, max_tokens=SAMPLE_LENGTH, seed=seed) for seed in range(SAMPLES)]
    return verbatim_share(training_text, samples)


def verbatim_share(text: str, generated: Sequence[str], length: int = VERBATIM) -> float:
    """The share of all `length`-character strings in `generated` that stand word for word in `text`; 0 without any."""
    strings = [sample[i : i + length] for sample in generated for i in range(len(sample) - length + 1)]
    return sum(string in text for string in strings) / max(len(strings), 1)
