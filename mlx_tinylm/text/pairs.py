"""Prompts and the completions that are wanted of them: a text of pairs, each of which is a document.

They come as lines of .jsonl files, packed or not, in the forms that mlx-lm reads: `{"prompt": ..., "completion": ...}`,
or `{"messages": [{"role": ..., "content": ...}, ...]}`, of which the last one is wanted of those before it. The chat
template of every folder written here passes contents through, so they are joined as they are.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from mlx_tinylm.checks import brief
from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.integrity import digest
from mlx_tinylm.text.alphabet import Alphabet
from mlx_tinylm.text.corpus import READING, ChangedTextError, Corpus
from mlx_tinylm.text.example import means_itself
from mlx_tinylm.text.reading import PIECE, Reading, Seen, kind_of
from mlx_tinylm.text.records import objects
from mlx_tinylm.text.splitting import Split
from mlx_tinylm.watch import WatchStages, unwatched

FIELDS = ("prompt", "completion", "messages")  # a record with one of them is no text
TENTH = 2**64 // 10  # of all numbers that a prompt is dealt by
LONGEST_EXAMPLE = 60  # characters


class Pair(NamedTuple):
    """A prompt, which is not empty, and what is to follow it up to the end of the text."""

    prompt: str
    completion: str


@dataclass(frozen=True)
class PairCorpus(Corpus):
    """Pairs that have been read once, and are read again in constant memory; their `sha256` is that of JSON lists.

    Which pairs are held out is a property of the prompt: about one in ten, whatever their order, and never one whose
    prompt is trained on.
    """

    unit: ClassVar[str] = "pairs"
    held_out_pairs: int = 0
    limit: int = TENTH  # a pair is held out whose prompt has a smaller number

    @property
    def held_out_part(self) -> str:
        return super().held_out_part if self.validation else "held-out pairs"

    @property
    def held_out_rule(self) -> str:
        if self.validation:
            return f"{self.validation.documents:,} pairs, all of {self.validation.name}"
        return f"{self.held_out_pairs:,} pairs, one in ten by their prompts"

    @property
    def key(self) -> str:
        return digest(f"pairs {self.sha256} {self.limit} {self.validation and self.validation.key}".encode())

    def pairs(self, part: str = "all") -> Iterator[Pair]:
        """The pairs of a part, "all", "train" or "held_out"; raises as `chunks` does."""
        if self.validation and part == "held_out":
            assert isinstance(self.validation, PairCorpus)
            yield from self.validation.pairs()
            return
        found, every = hashlib.sha256(), part == "all" or self.validation is not None
        for pair in _pairs(self.sources, self.reading, Seen()):
            found.update(_line(pair))
            if every or (_number(pair) < self.limit) == (part == "held_out"):
                yield pair
        if found.hexdigest() != self.sha256:
            raise ChangedTextError(f"{self.name}: changed while it was read; try again when it is at rest")

    def chunks(self, part: str = "all", characters: int = PIECE) -> Iterator[str | None]:
        for pair in self.pairs(part):
            text = "".join(pair)
            yield from (text[start : start + characters] for start in range(0, len(text), characters))
            yield None

    def first_words(self) -> str:
        """A prompt that is held out, for examples; "" where the first has characters that mean something to a shell."""
        prompt = next(self.pairs("held_out")).prompt
        return prompt if means_itself(prompt) and prompt.isprintable() and len(prompt) <= LONGEST_EXAMPLE else ""


def holds_pairs(paths: Sequence[Path], reading: Reading) -> bool:
    """Whether files hold pairs, which the first record of each tells; raises TinyLMError where some do and some not."""
    kinds = {path: _begins_with_pair(path, reading) for path in paths if not _is_empty(path)}
    if len(set(kinds.values())) > 1:
        pairs, text = (next(path for path, kind in kinds.items() if kind is wanted) for wanted in (True, False))
        raise TinyLMError(f"{pairs} holds pairs, {text} text; train on one of them, then on the other with --init-from")
    return any(kinds.values())


def scanned_pairs(
    name: str, paths: Sequence[Path], reading: Reading, notes: Sequence[str], watch: WatchStages = unwatched
) -> PairCorpus:
    """Read all pairs once and describe them; raises TinyLMError naming file and line of the first that is none."""
    found, letters, seen = hashlib.sha256(), Alphabet(), Seen()
    count = characters = size = 0
    dealt, lowest = [0, 0], 2**64  # pairs that are held out, and their characters
    least: list[int] = []  # characters of those whose prompt has the lowest number
    before, total = 0, sum(path.stat().st_size for path in paths)
    for path in paths:
        for pair in _pairs([path], reading, seen):
            text, number = "".join(pair), _number(pair)
            found.update(_line(pair))
            letters.add(text)
            count += 1
            characters += len(text)
            size += len(text.encode())
            if number < TENTH:
                dealt = [dealt[0] + 1, dealt[1] + len(text)]
            if number < lowest:
                lowest, least = number, []
            if number == lowest:
                least.append(len(text))
            watch(READING, min(before + seen.place, total), total)
        before += path.stat().st_size
    watch(READING, total, total)
    return PairCorpus(
        name=name,
        sources=tuple(paths),
        reading=reading,
        sha256=found.hexdigest(),
        bytes=size,
        characters=characters,
        alphabet=letters.sorted(),
        documents=count,
        split=Split(array("q"), 0, None),
        held_out=dealt[1] or sum(least),
        held_out_pairs=dealt[0] or len(least),
        notes=tuple(notes),
        limit=TENTH if dealt[0] else lowest + 1,
    )


def _is_empty(path: Path) -> bool:
    """Whether a file has no bytes, and so neither pairs nor text; reading what cannot be read will say why."""
    try:
        return path.stat().st_size == 0
    except OSError:
        return False


def _begins_with_pair(path: Path, reading: Reading) -> bool:
    if kind_of(path) != ".jsonl":
        return False
    _, record = next(objects(path, reading, Seen()), ("", {}))
    return "text" not in record and any(field in record for field in FIELDS)


def _number(pair: Pair) -> int:
    """What decides whether a pair is held out."""
    return int.from_bytes(hashlib.blake2b(pair.prompt.encode(), digest_size=8).digest(), "big")


def _line(pair: Pair) -> bytes:
    return f"{json.dumps(pair)}\n".encode()


def _pairs(paths: Sequence[Path], reading: Reading, seen: Seen) -> Iterator[Pair]:
    for path in paths:
        for where, record in objects(path, reading, seen):
            try:
                prompt, completion = _of_record(record)
                if not prompt:
                    raise TinyLMError("has an empty prompt; a model needs something to go on, such as a newline")
                (prompt + completion).encode()
            except TinyLMError as error:
                raise TinyLMError(f"{path}: {where} {error}") from None
            except UnicodeEncodeError:
                raise TinyLMError(f"{path}: {where} has half of a surrogate pair, which is no character") from None
            if not reading.raw:
                prompt, completion = (text.replace("\r\n", "\n") for text in (prompt, completion))
            yield Pair(prompt, completion)


def _of_record(record: Mapping[str, Any]) -> Pair:
    """The pair in a record; raises TinyLMError saying what it has instead."""
    if not any(field in record for field in FIELDS):
        fields = ", ".join(map(repr, list(record)[:5])) or "none"
        raise TinyLMError(f"is no pair of 'prompt' and 'completion', and no 'messages'; its fields are {fields:.200}")
    if "prompt" not in record and "completion" not in record:
        return _of_messages(record["messages"])
    for field in ("prompt", "completion"):
        if field not in record:
            raise TinyLMError(f"is a pair without {field!r}")
        if not isinstance(record[field], str):
            raise TinyLMError(f"has no text in its field {field!r} but {brief(record[field])}")
    return Pair(record["prompt"], record["completion"])


def _of_messages(messages: object) -> Pair:
    """The last message, and all before it, as one prompt."""
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise TinyLMError(f"has no list of messages in its field 'messages' but {brief(messages)}")
    contents = [message.get("content") for message in messages]
    if len(messages) < 2 or messages[-1].get("role") != "assistant":
        raise TinyLMError("needs two messages or more, the last of them with the role 'assistant'")
    for number, content in enumerate(contents, start=1):
        if not isinstance(content, str):
            raise TinyLMError(f"has no text in the content of message {number} but {brief(content)}")
    return Pair("".join(contents[:-1]), contents[-1])
