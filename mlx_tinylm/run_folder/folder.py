"""The names of a run's own files, and whether a folder is free for a new run."""

from __future__ import annotations

import itertools
from pathlib import Path

from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.files import remove, remove_leftovers

SETTINGS, METRICS, CHECKPOINTS = "train.json", "metrics.jsonl", "checkpoints"
TEXT = "text.txt"  # what came through a pipe
SMALL_FILES = ("config.json", "tokenizer.json")  # the model's; a run goes on only with those it began with


def fresh_folder() -> Path:
    """The first weights/run-N that does not exist yet."""
    return next(path for n in itertools.count(1) if not (path := Path("weights") / f"run-{n}").exists())


def refuse_filled(folder: Path, force: bool) -> None:
    """Raise TinyLMError where there is something in a folder, unless `force`."""
    there = sorted(path.name for path in folder.iterdir() if path.name != ".lock")
    if there and not force:
        raise TinyLMError(
            f"{folder}: has something in it already ({', '.join(there[:3])}); choose another --out, "
            "go on with --resume, or add --force to replace it"
        )


def clear(folder: Path, force: bool) -> None:
    """Leave nothing of an earlier run in the way; other files are never touched."""
    refuse_filled(folder, force)
    for name in (SETTINGS, METRICS, TEXT):  # the settings first: without them nobody resumes what is half gone
        (folder / name).unlink(missing_ok=True)
    remove(folder / CHECKPOINTS)
    remove_leftovers(folder)
