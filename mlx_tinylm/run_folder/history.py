"""history/: the weights of a run after a dozen of its steps, to look back at how they came about.

A snapshot is model.safetensors as it was after that step, with half the bits. The steps are those of a 1-2-5 series and
the last, whatever the length of the run: two runs can be compared, and one that goes on has those it would have had.
"""

from __future__ import annotations

import contextlib
import functools
from pathlib import Path

import numpy as np

from mlx_tinylm.files import flush, remove_leftovers, unwritable
from mlx_tinylm.model_folder.config import ModelConfig
from mlx_tinylm.model_folder.folder import fitting
from mlx_tinylm.model_folder.tensor_files import Tensors, read_safetensors, write_tensors
from mlx_tinylm.run_folder.folder import HISTORY, is_snapshot, snapshot_name

NUMBER = 2  # bytes
LARGEST = float(np.finfo(np.float16).max)


@functools.cache
def spaced(density: int, steps: int) -> tuple[int, ...]:
    """The steps to keep of a run: 0, `density` for each tenfold, as even on a log axis as round numbers are, the last.

    1, 10, 100 ... with a density of 1, with 2 also 3, 30 ..., with 3 1, 2, 5, 10, 20, 50 ...
    """
    digits = [round(10 ** (place / density)) for place in range(density)]
    found = (digit * 10**power for power in range(len(str(steps))) for digit in digits)
    return (0, *(step for step in found if step < steps), steps)


def snapshots(folder: Path) -> list[tuple[int, Path]]:
    """The snapshots of the run in `folder` by step, the first one first; none where there are none."""
    found = (path for path in (folder / HISTORY).glob("[0-9]*") if is_snapshot(path.name))
    return sorted((int(path.stem), path) for path in found)


def read_snapshot(path: Path, config: ModelConfig) -> Tensors:
    """The tensors of a snapshot in the stored layout, as float32.

    Raises TinyLMError naming the file where it is damaged, or does not fit the config of its run.
    """
    return fitting(path, config, read_safetensors(path))


def keep(folder: Path, step: int, tensors: Tensors) -> None:
    """Keep the weights (stored layout, float32) after `step`; raises TinyLMError where they cannot be written."""
    place = folder / HISTORY
    try:
        with contextlib.suppress(FileExistsError):
            place.mkdir()
            flush(folder)
    except OSError as error:
        raise unwritable(place, error) from None
    fits = all(np.abs(tensor).max(initial=0.0) <= LARGEST for tensor in tensors.values())
    write_tensors(place / snapshot_name(step), tensors, "float16" if fits else "float32")


def truncate(folder: Path, step: int) -> None:
    """Drop the snapshots after `step`, which will be made again, and what a killed process left.

    Raises TinyLMError where that cannot be done.
    """
    remove_leftovers(folder / HISTORY)
    for after, path in snapshots(folder):
        if after > step:
            try:
                path.unlink()
            except OSError as error:
                raise unwritable(path, error, "removed") from None


def planned(folder: Path, density: int | None, step: int, steps: int) -> int:
    """How many snapshots a run will have that is at `step` of `steps`, those that it has already among them."""
    there = {each for each, _ in snapshots(folder)}
    return len(there.union(each for each in spaced(density, steps) if each >= step) if density else there)
