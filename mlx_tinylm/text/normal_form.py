"""One character written in several ways: what is typed may differ from what was learned, and look the same."""

from __future__ import annotations

import unicodedata

from mlx_tinylm.text.tokenizer import Tokenizer


def in_known_form(text: str, tokenizer: Tokenizer) -> str:
    """The text in a Unicode normal form that the tokenizer knows all characters of; as it is where there is none.

    An é is one character where it comes from most keyboards, and an e with an accent behind it in the names of files on
    a Mac. Only forms that mean the same are tried, NFC and NFD (Unicode Standard Annex 15).
    """
    for form in (text, unicodedata.normalize("NFC", text), unicodedata.normalize("NFD", text)):
        if not tokenizer.unknown_characters(form):
            return form
    return text
