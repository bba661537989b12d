"""Which characters a text has, found at the speed of reading it."""

from __future__ import annotations

import sys

ENOUGH = 1 << 18  # characters looked at in one go: documents may be tiny


class Alphabet:
    """The different characters of the pieces that were added."""

    def __init__(self) -> None:
        import numpy as np  # not at the top: naming a corpus and asking for help must not wait for it

        self._seen = np.zeros(sys.maxunicode + 1, dtype=np.bool_)
        self._ascii = b""
        self._waiting: list[str] = []
        self._size = 0

    def add(self, piece: str) -> None:
        """Look at a piece of text."""
        self._waiting.append(piece)
        self._size += len(piece)
        if self._size >= ENOUGH:
            self._look()

    def sorted(self) -> str:
        """The characters in code-point order."""
        self._look()
        self._seen[list(self._ascii)] = True
        return "".join(map(chr, self._seen.nonzero()[0].tolist()))

    def _look(self) -> None:
        import numpy as np

        text = "".join(self._waiting)
        self._waiting, self._size = [], 0
        if text.isascii():  # what is left after deleting what was seen before is new
            self._ascii = bytes(sorted({*self._ascii, *text.encode().translate(None, self._ascii)}))
            return
        codes = np.frombuffer(text.encode("utf-32-le"), dtype="<u4")
        # Looking before marking, as there is seldom a new one; "clip" spares a check of the range.
        if not self._seen.take(codes, mode="clip").all():
            self._seen[codes] = True
