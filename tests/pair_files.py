"""Files of pairs, for tests: sums that can be told apart, written as lines of JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mlx_tinylm.text.corpus import open_corpus
from mlx_tinylm.text.pairs import PairCorpus


def lines(*records: Any) -> str:
    return "".join(record if isinstance(record, str) else f"{json.dumps(record)}\n" for record in records)


def write(path: Path, *records: Any) -> Path:
    path.write_text(lines(*records), encoding="utf-8")
    return path


def pair(prompt: str, completion: str = "b") -> dict[str, str]:
    return {"prompt": prompt, "completion": completion}


def opened(*data: Path, val_data: tuple[Path, ...] = ()) -> PairCorpus:
    corpus = open_corpus([str(path) for path in data], val_data=[str(path) for path in val_data])
    assert isinstance(corpus, PairCorpus)
    return corpus


def numbered(count: int, first: int = 0) -> list[dict[str, str]]:
    return [pair(f"number {number}=", str(number)) for number in range(first, first + count)]
