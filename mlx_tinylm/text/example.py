"""The words with which examples of commands begin a text: those of the user's own text."""

from __future__ import annotations

import itertools

from mlx_tinylm.errors import escaped

LONGEST = 20  # characters of a prompt for examples


def first_words(text: str) -> str:
    """The first words of the first line that has some, about 20 characters: a prompt for examples.

    They print, begin with a letter or a digit, and hold nothing that a shell, Markdown or Python would read in
    quotes; "" where there are no such words.
    """
    for line in text.lstrip("\ufeff").splitlines():
        words = itertools.dropwhile(lambda word: not means_itself(word) or not word[0].isalnum(), line.split())
        found = ""
        for word in itertools.takewhile(means_itself, words):
            if len(f"{found} {word}") > LONGEST and found:
                break
            found = f"{found} {word}".strip()
        if found:
            return found[:LONGEST]
    return ""


def means_itself(words: str) -> bool:
    """Whether words print, and mean themselves in any quotes."""
    return escaped(words) == words and not set(words) & set("\"'`\\$!*_<>|")
