"""The prompt in examples is made of the first words of the user's own text."""

from __future__ import annotations

import json
import shlex
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_tinylm.text.corpus import open_corpus
from mlx_tinylm.text.example import first_words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("First Citizen:\nBefore we proceed", "First Citizen:"),
        ("\ufeffThe Great Gatsby, by F. Scott", "The Great Gatsby, by"),
        ("\n \n-----\n\n# Call me Ishmael. Some years ago", "Call me Ishmael."),
        ('"Well, Prince," she said, "so Genoa', "she said,"),
        ("$HOME `ls` rm -rf", "rm -rf"),
        ("می\u200cخواهم به خانه بروم", "می\u200cخواهم به خانه"),
        ("滿紙荒唐言，一把辛酸淚！都云作者痴，誰解其中味", "滿紙荒唐言，一把辛酸淚！都云作者痴，誰解"),
        ("a\x1b[2J b\u202e word", "word"),
        ("", ""),
        ("''' *** \n\t\x07\n", ""),
    ],
)
def test_first_words(text: str, expected: str) -> None:
    """The first line that has words gives about 20 characters of them, whole words as long as they are short."""
    assert first_words(text) == expected


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=80))
def test_an_example_can_be_pasted_anywhere(text: str) -> None:
    """It is a piece of one line of the text but for its spaces, prints, and means itself in a shell and in Python."""
    words = first_words(text)
    assert len(words) <= 20
    assert not words or (words[0].isalnum() and words == words.strip())
    assert all(word in text for word in words.split())
    assert shlex.split(f'say "{words}" {shlex.quote(words)}') == ["say", words, words]
    assert json.dumps(words, ensure_ascii=False) == f'"{words}"'


def test_a_shell_agrees() -> None:
    """What stands in double quotes reaches a program as it is."""
    words = first_words("What's this? (A #test & 'more'; of ~ it) = 5% {a,b} [c]")
    done = subprocess.run(["bash", "-c", f'printf %s "{words}"'], capture_output=True, text=True)
    assert done.stdout == words == "this? (A #test &"


def test_the_first_words_of_a_corpus(tmp_path: Path) -> None:
    """A corpus says its own, of its first file."""
    (tmp_path / "a.txt").write_text("\n\nOnce upon a time there was\n" * 1000)
    (tmp_path / "b.txt").write_text("no")
    assert open_corpus([str(tmp_path)]).first_words() == "Once upon a time"
