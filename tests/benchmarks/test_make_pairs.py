"""The pairs of the demonstration are what they claim to be."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from pair_files import opened

PROGRAM = Path(__file__).with_name("make_pairs.py")


def made(path: Path, *arguments: object) -> list[tuple[str, str]]:
    """The pairs that the program writes, in a file that is read as one of pairs."""
    done = subprocess.run([sys.executable, PROGRAM, *map(str, arguments)], capture_output=True, text=True, check=True)
    path.write_text(done.stdout)
    found = [(each.prompt, each.completion) for each in opened(path).pairs()]
    assert len({prompt for prompt, _ in found}) == len(found), "each prompt comes once"
    return found


def test_sums(tmp_path: Path) -> None:
    """They are right, the same at every call, and there are no more than there can be."""
    found = made(tmp_path / "a.jsonl", "sums", 500)
    for prompt, completion in found:
        a, b = prompt.removesuffix("=").split("+")
        assert (len(a), len(b), int(a) + int(b)) == (2, 2, int(completion))
    assert found == made(tmp_path / "b.jsonl", "sums", 500)
    assert found != made(tmp_path / "b.jsonl", "sums", 500, "--seed", 1)
    assert len(made(tmp_path / "b.jsonl", "sums", 10_000)) == 8100


def test_reversed_words(tmp_path: Path) -> None:
    """Each word stands in its prompt and, from its end, in its completion, in letters that Shakespeare has."""
    for prompt, completion in made(tmp_path / "a.jsonl", "reversed", 500):
        word = prompt.removeprefix("reverse ").removesuffix(":")
        assert word.isalpha()
        assert word.islower()
        assert 3 <= len(word) <= 7
        assert word[::-1] == completion


@pytest.mark.parametrize("kind", ["sums", "reversed"])
def test_a_test_apart(kind: str, tmp_path: Path) -> None:
    """What is learned from holds no prompt of the test."""
    test = made(tmp_path / "test.jsonl", kind, 300, "--seed", 1)
    train = made(tmp_path / "train.jsonl", kind, 300, "--without", tmp_path / "test.jsonl")
    assert len(train) == 300
    assert not {prompt for prompt, _ in train} & {prompt for prompt, _ in test}
    assert json.loads((tmp_path / "train.jsonl").read_text().splitlines()[0]).keys() == {"prompt", "completion"}
