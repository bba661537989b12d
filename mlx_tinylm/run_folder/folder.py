"""The names of a run's own files, and which folder is free for a new run."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable
from errno import EEXIST, ENOTDIR, ENOTEMPTY
from pathlib import Path

from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.files import unwritable

SETTINGS, METRICS, CHECKPOINTS = "train.json", "metrics.jsonl", "checkpoints"
TEXT = "text.txt"  # what came through a pipe
SMALL_FILES = ("config.json", "tokenizer.json")  # the model's; a run goes on only with those it began with
OWN = (
    *SMALL_FILES,
    "tokenizer_config.json",
    "generation_config.json",
    "model.safetensors",
    METRICS,
    CHECKPOINTS,
    SETTINGS,
)


def numbered(folder: Path) -> Path:
    """Give a folder the first name run-1, run-2 ... beside it that is free, however many others do so at once."""
    for n in itertools.count(1):
        path = folder.with_name(f"run-{n}")
        if not os.path.lexists(path):
            try:
                os.rename(folder, path)
                return path
            except OSError as error:  # another run took the name just now
                if error.errno not in (EEXIST, ENOTEMPTY, ENOTDIR):
                    raise unwritable(path, error) from None
    raise AssertionError("there is always another number")


def refuse_filled(folder: Path, force: bool) -> None:
    """Raise TinyLMError where a new run would not have `folder` to itself, or cannot make it.

    `force` lets it replace an earlier run, and nothing that no run wrote.
    """
    there = _entries(folder)
    if there and not force:
        raise TinyLMError(
            f"{folder}: has something in it already ({', '.join(there[:3])}); choose another --out, "
            "go on with --resume, or add --force to replace a run"
        )
    foreign = [name for name in there if name in OWN]
    if foreign and not (folder / SETTINGS).is_file():
        raise TinyLMError(
            f"{folder}: has {', '.join(foreign[:3])}, and no {SETTINGS}: no run of this program wrote that. "
            "--force replaces runs only; choose another --out"
        )


def refuse_sources(folder: Path, sources: Iterable[Path]) -> None:
    """Raise TinyLMError where replacing the run in `folder` would remove what the new run is made from."""
    doomed = [folder.resolve() / name for name in OWN]
    for source in sources:
        found = source.resolve()
        if any(found == path or path in found.parents or path.parent == found for path in doomed if path.exists()):
            raise TinyLMError(
                f"{source}: the new run is to be made from this, and --force would remove it from {folder}; "
                "choose another --out"
            )


def _entries(folder: Path) -> list[str]:
    """The names in a folder, but for its lock; none where there is no folder."""
    try:
        return sorted(path.name for path in folder.iterdir() if path.name != ".lock")
    except FileNotFoundError:
        return []
    except NotADirectoryError:
        raise TinyLMError(f"{folder}: is no folder, and none can be made there; choose another --out") from None
    except OSError as error:
        raise TinyLMError(f"{folder}: cannot be read ({error.strerror}); choose another --out") from None
