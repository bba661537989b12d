"""Files at http and https addresses, fetched once into the cache and checked before each use."""

from __future__ import annotations

import contextlib
import re
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.files import cache_dir, make_folder, read_json, to_json, write_atomically
from mlx_tinylm.integrity import digest, sha256_of
from mlx_tinylm.text.download import Fetched, FetchError, download


def is_address(item: str) -> bool:
    """Whether an item of `--data` is to be fetched over the network."""
    if not item.lower().startswith(("http://", "https://")):
        return False
    try:
        urlsplit(item)
    except ValueError as error:
        raise TinyLMError(f"{item[:200]!r}: no address ({error}). Check how it is written.") from None
    return True


def fetched(url: str) -> Path:
    """The file at `url`, in the cache; raises TinyLMError where it cannot be fetched whole."""
    path = _place(url)
    fetch_unpinned(url, path)
    return path


def folder() -> Path:
    """Where what is fetched lies; it may not exist yet."""
    return cache_dir() / "texts"


def kept() -> list[tuple[str, Fetched]]:
    """What is in the cache: each address, and what came from there."""
    found = []
    for record in sorted(folder().glob(".*.json")):
        with contextlib.suppress(TinyLMError, KeyError, TypeError, ValueError):
            said = read_json(record)
            if record.with_name(record.name[1:].removesuffix(".json")).is_file():
                found.append((str(said["url"]), Fetched(int(said["bytes"]), str(said["sha256"]))))
    return found


def is_fetched(url: str) -> bool:
    """Whether the file at `url` is in the cache, as it came, so that nothing is to be fetched."""
    return is_whole(_place(url))


def _place(url: str) -> Path:
    name = re.sub(r"[^\w.-]", "_", unquote(urlsplit(url).path.rpartition("/")[2]))[-80:] or "text"
    return folder() / f"{_mark(url)}-{name}"


def fetch_unpinned(url: str, path: Path) -> None:
    """See that `path` is the file at `url` as it was when it was first fetched, whose SHA-256 is kept beside it."""
    damage = _damage(path)
    if damage is None:
        return
    if path.exists():
        note(f"{path}: {damage}. Fetching it again.")
    note(f"fetching {url}")
    make_folder(path.parent)
    try:
        found = download(url, path, path.name.removeprefix(f"{_mark(url)}-"))
    except FetchError as error:
        raise FetchError(f"{url}: could not be fetched: {error}") from None
    write_atomically(_record(path), to_json({"url": url, "bytes": found.bytes, "sha256": found.sha256}))


def is_whole(path: Path) -> bool:
    """Whether a file that `fetch_unpinned` fetched is here, as it came."""
    return _damage(path) is None


def note(text: str) -> None:
    """Say on stderr what is fetched, as it may take long."""
    print(text, file=sys.stderr)


def _mark(url: str) -> str:
    return digest(url.encode())[:12]


def _record(path: Path) -> Path:
    return path.with_name(f".{path.name}.json")


def _damage(path: Path) -> str | None:
    """What is wrong with a kept file; None if nothing is."""
    try:
        size = path.stat().st_size
        if not _record(path).exists():  # put there by hand
            return None
        said = read_json(_record(path))
        if not isinstance(said, dict) or size != said.get("bytes"):
            return "another size than when it was fetched"
        return None if sha256_of(path) == said.get("sha256") else "another SHA-256 than when it was fetched"
    except TinyLMError:
        return "what it was when it was fetched cannot be read"
    except OSError as error:
        return f"cannot be read: {error.strerror or error}"
