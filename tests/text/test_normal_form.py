"""What is typed in another Unicode normal form than was learned."""

from __future__ import annotations

import pytest

from mlx_tinylm.text.normal_form import in_known_form
from mlx_tinylm.text.tokenizer import Tokenizer

ONE, TWO = "caf\u00e9", "cafe\u0301"


@pytest.mark.parametrize(("learned", "typed"), [(ONE, TWO), (TWO, ONE), (ONE, ONE), (TWO, TWO)])
def test_a_prompt_takes_the_form_of_the_text(learned: str, typed: str) -> None:
    """Where one form is known and the other is not, the known one is meant."""
    assert in_known_form(typed, Tokenizer.from_alphabet("".join(sorted(set(learned))))) == learned


def test_what_is_known_or_unknown_in_any_form_stays() -> None:
    """A text that is known stays as it is, and so does one that no form helps: the refusal names what was typed."""
    both = Tokenizer.from_alphabet("".join(sorted({*ONE, *TWO})))
    assert [in_known_form(text, both) for text in (ONE, TWO)] == [ONE, TWO]
    assert in_known_form("caf\ufb01", Tokenizer.from_alphabet("acfi")) == "caf\ufb01"  # a ligature means another thing
    assert in_known_form(TWO, Tokenizer.from_alphabet("acf")) == TWO
    assert in_known_form(TWO, Tokenizer.from_texts(["text"], 258)) == TWO
