"""The files of the page, by the address a browser asks for: a fixed table, so that no address becomes a path."""

from __future__ import annotations

import functools
import gzip
from dataclasses import dataclass
from pathlib import Path

PAGE = Path(__file__).parent / "page"
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
INDEX = "index.html"


@dataclass(frozen=True)
class PageFile:
    """One file of the page."""

    path: Path
    type: str

    def read(self) -> bytes:
        return self.path.read_bytes()

    def packed(self) -> bytes:
        """The same with gzip, done once for each state of the file."""
        return _packed(self.path, self.path.stat().st_mtime_ns)


@functools.lru_cache(128)
def _packed(path: Path, changed: int) -> bytes:
    return gzip.compress(path.read_bytes(), mtime=0)


@functools.cache
def page_files() -> dict[str, PageFile]:
    """What is served under which address; `/` is index.html."""
    found = {
        "/" + path.relative_to(PAGE).as_posix(): PageFile(path, TYPES[path.suffix])
        for path in sorted(PAGE.rglob("*"))
        if path.suffix in TYPES and path.is_file()
    }
    if (index := f"/{INDEX}") in found:
        found["/"] = found[index]
    return found
