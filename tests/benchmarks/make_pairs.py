"""Prompts and completions that a tiny model can learn and a reader can check, as lines of JSON on stdout.

    python tests/benchmarks/make_pairs.py sums 2000 > sums.jsonl          # {"prompt": "25+60=", "completion": "85"}
    python tests/benchmarks/make_pairs.py reversed 2000 > reversed.jsonl  # {"prompt": "reverse amuwon:", ...}

Each prompt comes once, and the same command writes the same lines. There are 8,100 sums of two numbers from 10 to 99;
words are made of syllables, from three to seven letters long. `--seed` draws others; `--without FILE` leaves out the
prompts of a file, so that a test holds none that was learned. How many pairs it takes to answer, from the weights that
ship or, without --init-from, from random ones (of the same shape), is measured by

    python tests/benchmarks/make_pairs.py reversed 1000 --seed 1 > test.jsonl
    python tests/benchmarks/make_pairs.py reversed 300 --without test.jsonl > pairs.jsonl
    mlx-tinylm train --init-from weights/shakespeare --data pairs.jsonl --out weights/answers --steps 100 \\
        --batch-size 64 --eval-every 50      # of sums: --steps 200 --extend-alphabet
    mlx-tinylm eval --weights weights/answers --data test.jsonl
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path

Pair = tuple[str, str]


def sums(draw: random.Random) -> Iterator[Pair]:
    """Two numbers of two digits, all 8,100 of them in a random order, and their sum."""
    numbers = [(a, b) for a in range(10, 100) for b in range(10, 100)]
    draw.shuffle(numbers)
    yield from ((f"{a}+{b}=", str(a + b)) for a, b in numbers)


def reversed_words(draw: random.Random) -> Iterator[Pair]:
    """A word that could be English, and the same from its end."""
    while True:
        word = "".join(draw.choice("bcdfghklmnprstvw") + draw.choice("aeiou") for _ in range(draw.randint(2, 3)))
        word += draw.choice(["", *"dlmnrst"])
        word = word[draw.randint(0, 1) :]
        yield f"reverse {word}:", word[::-1]


KINDS: dict[str, Callable[[random.Random], Iterator[Pair]]] = {"sums": sums, "reversed": reversed_words}


def pairs(kind: str, count: int, seed: int = 0, without: frozenset[str] = frozenset()) -> Iterator[Pair]:
    """The first `count` pairs with prompts that are not `without`, each once; fewer where there are no more."""
    seen = set(without)
    for prompt, completion in KINDS[kind](random.Random(seed)):
        if len(seen) == len(without) + count:
            return
        if prompt not in seen:
            seen.add(prompt)
            yield prompt, completion


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("count", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--without", type=Path, default=None)
    given = parser.parse_args()
    lines = given.without.read_text().splitlines() if given.without else []
    without = frozenset(json.loads(line)["prompt"] for line in lines)
    for prompt, completion in pairs(given.kind, given.count, given.seed, without):
        print(json.dumps({"prompt": prompt, "completion": completion}))


if __name__ == "__main__":
    main()
