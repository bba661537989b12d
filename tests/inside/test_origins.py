"""What stands word for word in a training text, and where."""

from __future__ import annotations

import random

import pytest

from mlx_tinylm.inside.origins import Origins, Run

TRAINED = "one\ntwo three four five six\nseven eight nine ten eleven\n\ntwelve\n"


def test_a_run_and_its_lines() -> None:
    """A run is as long as it can be, and the lines are those that it stands in, from 1."""
    text = "zzz five six\nseven eight nine ZZZ"
    (found,) = Origins(TRAINED).runs(text)
    assert text[found.start : found.end] == " five six\nseven eight nine "
    assert (found.first, found.last) == (2, 3)


@pytest.mark.parametrize(("length", "runs"), [(19, 0), (20, 1), (21, 1)])
def test_twenty_characters_are_a_run(length: int, runs: int) -> None:
    """Nineteen characters are common words; twenty are a run."""
    found = Origins(TRAINED).runs("#" + TRAINED[4 : 4 + length] + "#")
    assert found == [Run(1, 1 + length, 2, 2)] * runs


def test_a_newline_belongs_to_the_line_that_it_ends() -> None:
    """Lines are counted as an editor does."""
    origins = Origins(TRAINED)
    assert origins.lines(0, 4) == (1, 1)
    assert origins.lines(4, 5) == (2, 2)
    assert origins.lines(TRAINED.index("twelve"), len(TRAINED)) == (5, 5)
    assert origins.lines(0, len(TRAINED)) == (1, 5)


def test_runs_that_overlap() -> None:
    """Where the end of one place is the beginning of another, both are found whole."""
    left, right = "abcdefghijklmnopqrstuvwxyz", "uvwxyz0123456789ABCDEFGHI"
    found = Origins(left + "\n" + right).runs("-" + left + right[6:] + "-")
    assert [(run.start, run.end, run.first) for run in found] == [(1, 27, 1), (21, 46, 2)]


def test_a_run_goes_on_elsewhere() -> None:
    """A run that the first place ends early goes on where it stands longer."""
    origins = Origins("abcdefghijklmnopqrst!\nabcdefghijklmnopqrstuv")
    assert origins.runs("abcdefghijklmnopqrstuv") == [Run(0, 22, 2, 2)]


def test_nothing_shorter_or_empty() -> None:
    """Texts too short for a run have none."""
    assert Origins(TRAINED).runs("") == Origins("").runs(TRAINED) == Origins(TRAINED).runs("two three") == []


def test_every_window_that_stands_there_is_covered() -> None:
    """On random texts of few letters, the characters in runs are those of all windows that the training text has."""
    chance = random.Random(0)
    for _ in range(50):
        trained, text = ("".join(chance.choice("ab") for _ in range(n)) for n in (60, 40))
        covered = {i for run in Origins(trained).runs(text, 5) for i in range(run.start, run.end)}
        expected = {i + k for i in range(len(text) - 4) if text[i : i + 5] in trained for k in range(5)}
        assert covered == expected
        assert all(text[run.start : run.end] in trained for run in Origins(trained).runs(text, 5))
