"""Bars for work in stages, such as reading a text, encoding it, and measuring a model on it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from mlx_tinylm.watch import WatchStages


@contextlib.contextmanager
def progress_bars() -> Iterator[WatchStages]:
    """A bar for each stage as it comes, on stderr, if that is a terminal; it goes when the stage is done."""
    from tqdm import tqdm

    shown = {"": tqdm(disable=True)}

    def watch(stage: str, done: int, total: int) -> None:
        if stage not in shown:
            shown.popitem()[1].close()
            shape = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}"
            shown[stage] = tqdm(
                desc=stage, total=total, bar_format=shape, leave=False, dynamic_ncols=True, disable=None
            )
        shown[stage].update(done - shown[stage].n)
        if done >= total:
            shown[stage].close()

    try:
        yield watch
    finally:
        shown.popitem()[1].close()
