"""Where a new run may go: what its `--force` replaces is an earlier run, and nothing else."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable
from errno import EEXIST, ENOTDIR, ENOTEMPTY
from pathlib import Path

from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.files import DAY, is_interrupted, is_leftover, remove_leftovers, undo_exchange, unwritable
from mlx_tinylm.locks import lock
from mlx_tinylm.run_folder.folder import CHECKPOINTS, HISTORY, OWN, SETTINGS, is_checkpoint, is_snapshot
from mlx_tinylm.run_folder.record import RunRecord


def numbered(folder: Path) -> Path:
    """Give a folder the first name run-1, run-2 ... beside it that is free, however many others do so at once."""
    remove_leftovers(folder.parent, older_than=DAY)  # of runs that were killed before they had a number
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


def undo_interrupted(folder: Path) -> list[str]:
    """Put an earlier run back whose replacement was cut short, as by a power cut; a note if there was one."""
    if not is_interrupted(folder):
        return []
    with lock(folder):
        undo_exchange(folder)
    return [f"{folder}: a replacement by --force was cut short, and is undone"]


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
    if around := run_around(folder):
        raise TinyLMError(f"{folder}: lies in the folder of another run, {around}; choose another --out")
    ours = [name for name in there if name in OWN]
    try:
        is_run = RunRecord.find(folder) is not None
    except TinyLMError as error:
        raise TinyLMError(f"{error}; --force replaces runs only, and this may be none: choose another --out") from None
    for place, known in ((CHECKPOINTS, is_checkpoint), (HISTORY, is_snapshot)) if is_run else ():
        if foreign := [name for name in _entries(folder / place) if not known(name)]:
            raise TinyLMError(
                f"{folder / place}: holds {', '.join(foreign[:3])}, which no run wrote; move it away, "
                "or choose another --out"
            )
    if ours and not is_run:
        raise TinyLMError(
            f"{folder}: has {', '.join(ours[:3])}, and no {SETTINGS} that a run of this program wrote. "
            "--force replaces runs only; choose another --out"
        )


def run_around(folder: Path) -> Path | None:
    """The folder of a run that `folder` lies in, if there is one; what is below its checkpoints goes with them."""
    around = folder.resolve().parents
    return next((path for path in around if (path / SETTINGS).is_file() and (path / CHECKPOINTS).is_dir()), None)


def refuse_sources(folder: Path, sources: Iterable[Path]) -> None:
    """Raise TinyLMError where replacing the run in `folder` would remove what the new run is made from.

    Sources are files, and model folders, all of whose files count, by links too.
    """
    replaced = [path for name in OWN if (path := folder.resolve() / name).exists()]
    for source in sources:
        for file in [source, *(source.iterdir() if source.is_dir() else [])]:
            found = file.resolve()
            if any(found == path or path in found.parents or found == path.parent for path in replaced):
                raise TinyLMError(
                    f"{source}: the new run is to be made from this, and --force would remove it from {folder}; "
                    "choose another --out"
                )


def _entries(folder: Path) -> list[str]:
    """The names in a folder, but for its lock and what killed processes left; none where there is no folder."""
    try:
        return sorted(path.name for path in folder.iterdir() if path.name != ".lock" and not is_leftover(path.name))
    except FileNotFoundError:
        return []
    except NotADirectoryError:
        raise TinyLMError(f"{folder}: is no folder, and none can be made there; choose another --out") from None
    except OSError as error:
        raise TinyLMError(f"{folder}: cannot be read ({error.strerror}); choose another --out") from None
