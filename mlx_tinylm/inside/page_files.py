"""The files of the page, by the address a browser asks for: a fixed table, so that no address becomes a path."""

from __future__ import annotations

import functools
import gzip
from dataclasses import dataclass
from pathlib import Path

from mlx_tinylm.inside.bundle import bundled

PAGE = Path(__file__).parent / "page"
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
INDEX = "index.html"
ENTRY = "main.js"


@dataclass(frozen=True)
class PageFile:
    """One file of the page; of ENTRY all that it imports is part, which a browser then has not to ask for."""

    name: str

    @property
    def type(self) -> str:
        return TYPES[Path(self.name).suffix]

    def read(self) -> bytes:
        return self._content()[0]

    def packed(self) -> bytes:
        """The same with gzip."""
        return self._content()[1]

    def _content(self) -> tuple[bytes, bytes]:
        names = names_of_all() if self.name == ENTRY else (self.name,)
        return _content(self.name, max((PAGE / name).stat().st_mtime_ns for name in names))


@functools.lru_cache(256)
def _content(name: str, changed: int) -> tuple[bytes, bytes]:
    """A file as it is and packed, made once for each time that it has changed."""
    content = bundled(ENTRY, source).encode() if name == ENTRY else (PAGE / name).read_bytes()
    return content, gzip.compress(content, mtime=0)


def source(name: str) -> str:
    """A module as it was written."""
    return (PAGE / name).read_text(encoding="utf-8")


@functools.cache
def names_of_all() -> tuple[str, ...]:
    """The names of all files of the page, from its folder."""
    found = (path for path in sorted(PAGE.rglob("*")) if path.suffix in TYPES and path.is_file())
    return tuple(path.relative_to(PAGE).as_posix() for path in found)


@functools.cache
def page_files() -> dict[str, PageFile]:
    """What is served under which address; `/` is index.html."""
    found = {f"/{name}": PageFile(name) for name in names_of_all()}
    return {"/": PageFile(INDEX), **found}
