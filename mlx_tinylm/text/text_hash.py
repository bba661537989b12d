"""What a text is known by: the SHA-256 of its UTF-8 bytes, however they lie on the disk."""

from __future__ import annotations

import hashlib

from mlx_tinylm.text.reading import END


class TextHash:
    """The SHA-256 of a text, END between two documents, and its size without END."""

    def __init__(self) -> None:
        self.characters = self.bytes = 0
        self._found = hashlib.sha256()
        self._between = False

    def add(self, piece: str | None) -> None:
        """The next piece of the text, None after a document."""
        if piece is None:
            self._between = True
            return
        if self._between:
            self._found.update(END.encode())
            self._between = False
        encoded = piece.encode()
        self._found.update(encoded)
        self.characters += len(piece)
        self.bytes += len(encoded)

    def sha256(self) -> str:
        """That of all that was added."""
        return self._found.hexdigest()
