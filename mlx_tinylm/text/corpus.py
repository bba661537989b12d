"""A text: documents that have been read once from end to end, and are read again in constant memory.

Where they come from is in sources.py, what is text in a file in reading.py, which part is held out in splitting.py.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.integrity import digest
from mlx_tinylm.text.alphabet import Alphabet
from mlx_tinylm.text.example import first_words
from mlx_tinylm.text.reading import END, PIECE, UTF_8, Reading, Seen, pieces
from mlx_tinylm.text.sources import Source, and_more, named_source, sources_of
from mlx_tinylm.text.splitting import Split, Splitter
from mlx_tinylm.text.text_hash import TextHash
from mlx_tinylm.watch import WatchStages, unwatched

__all__ = ["PIECE", "ChangedTextError", "Corpus", "Reading", "open_corpus", "open_named"]


READING = "reading"  # the stage that `watch` is told of


class ChangedTextError(TinyLMError):
    """A text is another one now than it was a moment ago."""


@dataclass(frozen=True)
class Corpus:
    """Text that has been read once: it is what it is said to be, not empty, and its size is known.

    What is said of it leaves `validation` out, but for the alphabet.
    """

    unit: ClassVar[str] = "documents"  # what it consists of
    name: str  # "tinyshakespeare", or what the user gave, joined by ", "
    sources: tuple[Path, ...]  # in the order they are read
    reading: Reading
    sha256: str  # of the text's UTF-8 bytes, with END between two documents
    bytes: int  # of the same, without END
    characters: int
    alphabet: str  # the different characters, in code-point order
    documents: int
    held_out: int  # characters of the part that is held out
    notes: tuple[str, ...]  # what a person should know of how it was read
    split: Split
    piped: tuple[Path, ...] = ()  # of the sources, what came through pipes and is gone when the program ends
    validation: Corpus | None = None  # another text, all of which is held out: then all of this is trained on

    @property
    def files(self) -> int:
        """How many files it was read from."""
        return len(self.sources)

    @property
    def held_out_part(self) -> str:
        """What its held-out part is called."""
        if self.validation:
            return f"text held out for it, {self.validation.name}"
        tenth = self.documents == 1 and self.held_out == self.characters - int(0.9 * self.characters)
        return "held-out tenth" if tenth else "held-out part"

    @property
    def held_out_rule(self) -> str:
        """What decides which part is held out, in a sentence that begins with its size."""
        size = f"{self.held_out:,} characters"
        if self.validation:
            return f"{size}, all of {self.validation.name}"
        if self.documents == 1:
            return f"the last {size}"
        return f"{size}: the last tenth of each long document, one in ten of the short ones"

    @property
    def key(self) -> str:
        """What decides the content of all parts, as one word."""
        split = f"{self.sha256} {self.split.least} {self.split.last} {self.validation and self.validation.key}"
        return digest(split.encode(), self.split.begins.tobytes())

    def chunks(self, part: str = "all", characters: int = PIECE) -> Iterator[str | None]:
        """The text of a part in non-empty pieces of at most `characters`, None after each document; constant memory.

        The parts are "all", "train" and "held_out". Raises ChangedTextError at the end where the text is another one
        now, and TinyLMError where it cannot be read any more.
        """
        whole = self._whole(characters)
        if self.validation and part == "held_out":
            yield from self.validation.chunks("all", characters)
        elif self.validation or part == "all":
            yield from whole
        else:
            yield from self.split.part(whole, part == "held_out")

    def _whole(self, characters: int) -> Iterator[str | None]:
        found = TextHash()
        for piece in _pieces(self.sources, self.reading, Seen(), characters):
            found.add(piece)
            yield piece
        if found.sha256() != self.sha256:
            raise ChangedTextError(f"{self.name}: changed while it was read; try again when it is at rest")

    def text(self) -> str:
        """The whole text as one string, END between two documents."""
        found = [END if piece is None else piece for piece in self.chunks()]
        return "".join(found[:-1])

    def first_words(self) -> str:
        """What the text begins with, as a prompt for examples; "" where nothing will do."""
        return first_words(next(self.chunks(characters=4096)) or "")


def open_corpus(
    data: Sequence[str], reading: Reading = UTF_8, val_data: Sequence[str] = (), watch: WatchStages = unwatched
) -> Corpus:
    """Read every item of `data` once and describe the text they make together; all of `val_data` is held out, if given.

    An item is the name of a corpus, a file, a folder (every *.txt, *.md, *.jsonl and *.parquet below it, packed by gzip
    or not, in sorted order, but for names that begin with a dot and folders with a model in them), an http or https
    address, or "-" for standard input, which can be given once. The name of a corpus wins over a file of that very
    name: `./tinyshakespeare` and `tinyshakespeare.txt` are files. `watch` is told of bytes.

    Raises TinyLMError where there is no such thing, where it cannot be read or is no text in the encoding (with the
    byte offset), and where there is no text at all.
    """
    if "-" in data and "-" in val_data:
        raise TinyLMError("-: standard input can be read only once. Give - once.")
    corpus = _opened(data, reading, watch)
    if not val_data:
        return corpus
    validation = _opened(val_data, reading, watch)
    trained = {source.resolve() for source in corpus.sources}
    both = next((source for source in validation.sources if source.resolve() in trained), None)
    if both or validation.sha256 == corpus.sha256:
        raise TinyLMError(f"{both or validation.name}: is to be trained on and held out; leave it out of --data")
    if type(validation) is not type(corpus):
        raise TinyLMError(f"{corpus.name}, {validation.name}: one holds pairs, the other text; hold out the same kind")
    return dataclasses.replace(
        corpus,
        alphabet="".join(sorted({*corpus.alphabet, *validation.alphabet})),
        held_out=validation.characters,
        validation=validation,
        notes=corpus.notes + validation.notes,
    )


def open_named(name: str) -> Corpus:
    """The corpus called `name`, which is fetched if it is not kept yet; raises TinyLMError where that fails."""
    return _scanned(name, [named_source(name)], UTF_8, [], unwatched)


def _opened(data: Sequence[str], reading: Reading, watch: WatchStages) -> Corpus:
    sources, notes = sources_of(data)
    name = ", ".join("stdin" if item == "-" else item for item in data)
    from mlx_tinylm.text import pairs  # which are a corpus, too

    paths = [source.path for source in sources]
    if pairs.holds_pairs(paths, reading):
        found = pairs.scanned_pairs(name, paths, reading, notes, watch)
        return dataclasses.replace(found, piped=tuple(source.path for source in sources if source.piped))
    return _scanned(name, sources, reading, notes, watch)


def _scanned(name: str, sources: list[Source], reading: Reading, notes: list[str], watch: WatchStages) -> Corpus:
    found, letters, split = TextHash(), Alphabet(), Splitter()
    translated, size = [], 0
    before, total = 0, sum(_size(source.path) for source in sources)
    groups = [sources] if reading.as_one else [[source] for source in sources]
    for group in groups:
        seen, place = Seen(), 0
        for piece in _pieces([source.path for source in group], reading, seen):
            found.add(piece)
            if piece is None:
                split.add(size, group[0].held_out)
                size = 0
            else:
                letters.add(piece)
                size += len(piece)
            if seen.place != place:  # documents may be tiny
                place = seen.place
                watch(READING, min(before + place, total), total)
        before += sum(_size(source.path) for source in group)
        if seen.returns:
            translated.append(group[0].path.name if group[0].piped else str(group[0].path))
    watch(READING, total, total)
    if not found.characters:
        raise TinyLMError(f"{name or 'no data'}: there is no text in it. Name a file with text.")
    if translated:
        more = and_more(len(translated) - 1, "file")
        notes = [*notes, f"{translated[0]}{more}: CRLF became LF at the ends of lines; --raw keeps every byte"]
    return Corpus(
        name=name,
        sources=tuple(source.path for source in sources),
        reading=reading,
        sha256=found.sha256(),
        bytes=found.bytes,
        characters=found.characters,
        alphabet=letters.sorted(),
        documents=split.documents,
        split=split.split(),
        held_out=split.held_out,
        notes=tuple(notes),
        piped=tuple(source.path for source in sources if source.piped),
    )


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # reading it will say why
        return 0


def _pieces(sources: Sequence[Path], reading: Reading, seen: Seen, size: int = PIECE) -> Iterator[str | None]:
    """The text of files one after the other, as documents or, where they are read as one, as a single one."""
    if not reading.as_one:
        for source in sources:
            yield from pieces(source, reading, seen, size)
        return
    last = "\n"
    for source in sources:
        between = "" if last.endswith("\n") else "\n"
        for piece in pieces(source, reading, seen, size):
            if piece:
                yield from (between, piece) if between else (piece,)
                between, last = "", piece
    yield None
