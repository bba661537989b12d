"""metrics.jsonl: a line a step, and what a run that was cut short leaves in it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.run_folder.metrics import (
    Increment,
    Losses,
    append,
    best_validation,
    bits_per_byte,
    exact_answers,
    increment,
    losses,
    lowest,
    progress,
    truncate,
)

DAMAGED = [b"\xff", b"7", b"[]", b"{}", b'{"step": "1"}', b'{"step": 2, "lo', b"[" * 100_000, b""]


def write(folder: Path, *lines: bytes) -> Path:
    (folder / "metrics.jsonl").write_bytes(b"".join(line + b"\n" for line in lines))
    return folder / "metrics.jsonl"


def test_lines(tmp_path: Path) -> None:
    """Each step is a JSON object on a line of its own."""
    append(tmp_path, {"step": 1, "loss": 0.1})
    append(tmp_path, {"step": 2, "loss": 1e-9})
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1, "loss": 0.1}\n{"step": 2, "loss": 1e-09}\n'


def test_what_cannot_be_written_or_read_is_named(tmp_path: Path) -> None:
    """A file that cannot be written or read is one clear message."""
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(TinyLMError, match=r"metrics\.jsonl: cannot be written \(Is a directory\)"):
        append(tmp_path, {"step": 1})
    for ask in (best_validation, lambda folder: truncate(folder, 1)):
        with pytest.raises(TinyLMError, match=r"metrics\.jsonl: cannot be read \(Is a directory\)"):
            ask(tmp_path)


def test_truncated(tmp_path: Path) -> None:
    """Lines of later steps go, and damaged ones wherever they are; what stays does so byte for byte."""
    truncate(tmp_path, 3)
    assert not (tmp_path / "metrics.jsonl").exists()
    path = write(tmp_path, b'{"step":  1}', *DAMAGED, b'{"step": 3, "val_loss": 1}', b'{"step": 4}')
    path.write_bytes(path.read_bytes() + b'{"step": 2')
    truncate(tmp_path, 3)
    assert path.read_bytes() == b'{"step":  1}\n{"step": 3, "val_loss": 1}\n'


@pytest.mark.parametrize(
    ("lines", "best"),
    [
        ([], None),
        ([b'{"step": 1, "loss": 1.0}'], None),
        (
            [b'{"step": 1, "val_loss": 2.5}', b'{"step": 2, "val_loss": 1.5}', b'{"step": 3, "val_loss": 1.75}'],
            (2, 1.5),
        ),
        ([b'{"step": 1, "val_loss": 2}', b'{"step": 2, "val_loss": 2.0}'], (1, 2.0)),
        ([b'{"step": 1, "val_loss": NaN}', b'{"step": 2, "val_loss": -Infinity}'], None),
        ([b'{"step": 1, "val_loss": "0"}', b'{"step": 2, "val_loss": 1' + b"0" * 400 + b"}", *DAMAGED], None),
        ([*DAMAGED, b'{"step": 9, "val_loss": 3.0}'], (9, 3.0)),
    ],
)
def test_best_validation(tmp_path: Path, lines: list[bytes], best: tuple[int, float] | None) -> None:
    """The lowest validation loss that is a number, the first of equals; damaged lines are passed over."""
    assert best_validation(tmp_path) is None
    write(tmp_path, *lines)
    assert best_validation(tmp_path) == best


def test_steps_that_do_not_count(tmp_path: Path) -> None:
    """The best validation can be looked for from a step on."""
    write(tmp_path, b'{"step": 0, "val_loss": 1.0}', b'{"step": 1, "val_loss": 2.0}')
    assert (best_validation(tmp_path), best_validation(tmp_path, first=1)) == ((0, 1.0), (1, 2.0))


def test_progress(tmp_path: Path) -> None:
    """The last step and all validations are those of the lines that can be read; nothing is step 0."""
    assert progress(tmp_path) == (0, [])
    write(tmp_path, b'{"step": 1, "val_loss": 3.5}', *DAMAGED, b'{"step": 2}', b'{"step": 3, "val_loss": 2}')
    assert progress(tmp_path) == (3, [(1, 3.5), (3, 2.0)])
    assert lowest([(1, 3.5), (3, 2.0), (5, 2.0)]) == (3, 2.0)
    assert lowest([]) is None


BASELINES = b'{"step": 2, "baselines": {"guessing": 4.2, "ngrams": [3.3, 2.5]}, "val_loss": 3}'


def test_losses(tmp_path: Path) -> None:
    """All losses by step, and what they compare with; what is no number, and damaged lines, are passed over."""
    with pytest.raises(TinyLMError, match=r"metrics\.jsonl: no such file"):
        losses(tmp_path)
    write(tmp_path, b'{"step": 0, "val_loss": 4}', b'{"step": 1, "loss": 3.5}', *DAMAGED, b'{"step": 2, "loss": "x"}')
    assert losses(tmp_path) == Losses(((1, 3.5),), ((0, 4.0),), None, ())
    write(tmp_path, BASELINES, b'{"step": 3, "loss": NaN, "baselines": 3}', b'{"step": 4, "baselines": {"ngrams": []}}')
    assert losses(tmp_path) == Losses((), ((2, 3.0),), 4.2, (3.3, 2.5))
    write(tmp_path, b'{"step": 3, "baselines": {"guessing": 4, "ngrams": [null]}}')
    assert losses(tmp_path).guessing is None


def test_a_run_is_watched(tmp_path: Path) -> None:
    """Each line is told once, when it is whole, however the file grows; nothing is told of one that is not there."""
    assert increment(tmp_path) == Increment((), 0, False)
    path = write(tmp_path, b'{"step": 0, "val_loss": 4.0}')
    first = increment(tmp_path)
    assert first == Increment(({"step": 0, "val_loss": 4.0},), 29, False)
    with open(path, "ab") as file:
        file.write(b'{"step": 1, "lo')
    assert increment(tmp_path, first.next) == Increment((), 29, False)
    with open(path, "ab") as file:
        file.write(b'ss": 3.0}\n{"step": 2, "loss": 2.0}\n')
    second = increment(tmp_path, first.next)
    assert [line["step"] for line in second.lines] == [1, 2]
    assert increment(tmp_path, second.next) == Increment((), path.stat().st_size, False)
    path.unlink()
    assert increment(tmp_path, second.next) == Increment((), 0, True)


def test_only_what_json_can_say(tmp_path: Path) -> None:
    """Of a line, finite numbers and whole baselines are told; every answer is JSON as a browser reads it."""
    write(tmp_path, b'{"step": 1, "loss": NaN, "x": "y", "lr": 1e999, "seconds": 2}', *DAMAGED, BASELINES)
    found = increment(tmp_path).lines
    assert found == ({"step": 1, "seconds": 2}, json.loads(BASELINES))
    json.dumps(found, allow_nan=False)


def test_a_run_that_was_resumed_is_told_anew(tmp_path: Path) -> None:
    """Where a resume rewrote the lines before, and so where a line begins, all lines come again."""
    lines = [b'{"step": %d, "loss": %d.5}' % (step, step) for step in range(9)]
    write(tmp_path, *lines)
    end = increment(tmp_path).next
    truncate(tmp_path, 4)
    shorter = increment(tmp_path, end)
    assert (shorter.restarted, [line["step"] for line in shorter.lines]) == (True, [0, 1, 2, 3, 4])
    append(tmp_path, {"step": 5, "loss": 5.25, "seconds": 1.0})
    assert [line["step"] for line in increment(tmp_path, shorter.next).lines] == [5]
    for step in range(6, 12):
        append(tmp_path, {"step": step, "loss": 5.25, "seconds": 1.0})
    assert os.path.getsize(tmp_path / "metrics.jsonl") > end
    longer = increment(tmp_path, end)
    assert (longer.restarted, len(longer.lines)) == (True, 12)


def test_a_long_run_is_told_in_parts(tmp_path: Path) -> None:
    """No answer is larger than it may be, and together they are all lines; damage without an end stops nothing."""
    lines = [b'{"step": %d, "loss": 1.5}' % step for step in range(100)]
    path = write(tmp_path, *lines[:50], b"x" * 500, *lines[50:])
    told: list[int] = []
    offset = 0
    while offset < path.stat().st_size:
        part = increment(tmp_path, offset, most=100)
        assert len(part.lines) <= 5
        assert part.next > offset
        told += [line["step"] for line in part.lines]
        offset = part.next
    assert told == list(range(100))


def test_what_cannot_be_watched(tmp_path: Path) -> None:
    """What is no file is named."""
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(TinyLMError, match=r"metrics\.jsonl: not a file"):
        increment(tmp_path)


def test_bits_per_byte(tmp_path: Path) -> None:
    """Those of a step's own validation; None where it has none, or says what is no finite number."""
    assert bits_per_byte(tmp_path, 1) is None
    lines = [b'{"step": 1, "val_bits_per_byte": 2.5}', b'{"step": 2, "val_bits_per_byte": 2}', *DAMAGED]
    write(tmp_path, *lines, b'{"step": 3, "val_loss": 1}', b'{"step": 4, "val_bits_per_byte": NaN}')
    assert [bits_per_byte(tmp_path, step) for step in range(1, 6)] == [2.5, 2.0, None, None, None]


def test_exact_answers(tmp_path: Path) -> None:
    """How many held-out pairs were answered, and of how many, is known of validations of pairs."""
    assert exact_answers(tmp_path, 5) is None
    write(tmp_path, *DAMAGED, b'{"step": 5, "val_exact_answers": 3, "val_pairs": 9}', b'{"step": 6, "val_loss": 1}')
    assert exact_answers(tmp_path, 5) == (3, 9)
    assert exact_answers(tmp_path, 6) is None
