"""How much of what a model writes it knows by heart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from mlx_tinylm.memorised import SAMPLE_LENGTH, memorised_share, verbatim_share
from mlx_tinylm.model_folder.config import GPT2Config
from mlx_tinylm.text.tokenizer import Tokenizer

TEXT = "the quick brown fox jumps over the lazy dog and runs away"


@pytest.mark.parametrize(
    ("generated", "share"),
    [
        ([TEXT[5:40]], 1.0),
        (["x" * 40], 0.0),
        ([TEXT[:15] + "?" * 15], 6 / 21),
        ([TEXT[:15], "x" * 15], 0.5),
        ([TEXT[:10], "too short"], 1.0),  # a whole string is one
        (["too short"], 0.0),
        ([], 0.0),
    ],
)
def test_the_share_said_by_heart(generated: list[str], share: float) -> None:
    """Copied text counts, new text does not, a mixture counts in part, and what is too short does not count."""
    assert verbatim_share(TEXT, generated, length=10) == pytest.approx(share)


class Alphabet:
    """A model that can only say the alphabet, over and over."""

    backend = "numpy"
    config = GPT2Config(vocab_size=27, context=8, width=1, layers=1, heads=1)

    def new_cache(self, capacity: int) -> Any:
        return None

    def next_logits(self, ids: Sequence[int], cache: Any) -> npt.NDArray[np.float32]:
        return np.where(np.arange(27) == (ids[-1] + 1) % 26, 0, -1e4).astype(np.float32)


def test_what_a_model_says_by_heart() -> None:
    """A model that repeats its text knows all of it by heart, and nothing of another text, however short it is."""
    tokenizer = Tokenizer.from_alphabet("abcdefghijklmnopqrstuvwxyz")
    alphabet = "".join(tokenizer.alphabet or "")
    assert memorised_share(Alphabet(), tokenizer, alphabet * (SAMPLE_LENGTH // 26)) == 1
    assert memorised_share(Alphabet(), tokenizer, alphabet[::-1] * (SAMPLE_LENGTH // 26)) == 0
    assert memorised_share(Alphabet(), tokenizer, alphabet) == 0
