"""What resuming needs, in folders that appear whole or not at all.

`state.json` holds the size and SHA-256 of the other files and its own, so a damaged checkpoint is recognised and an
older one is taken.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten, tree_unflatten

from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.files import filled_folder, remove, write_atomically
from mlx_tinylm.integrity import read_sealed, sealed, sha256_of
from mlx_tinylm.model_folder.tensor_files import read_safetensors, write_tensors
from mlx_tinylm.run_folder.folder import CHECKPOINTS, checkpoint_name, is_checkpoint
from mlx_tinylm.training.state import DivergedError, TrainState

KEEP = 2
STATE = "state.json"


def save(run: Path, state: TrainState, progress: dict[str, Any]) -> Path:
    """Write a checkpoint of `state` and `progress` (JSON) and return its folder; the newest KEEP stay.

    Raises TinyLMError where it cannot be written, DivergedError where the weights are not finite: not good to keep.
    """
    final = run / CHECKPOINTS / checkpoint_name(state.step)
    if not run.is_dir():
        raise TinyLMError(f"{run}: is gone; put it back")
    drop(final)  # there is none, unless its step is made a second time
    with filled_folder(final) as beside:
        files = {}
        for name, part in _parts(state).items():
            tensors = {key: np.array(tensor) for key, tensor in part.items()}
            if not all(np.isfinite(tensor).all() for tensor in tensors.values()):
                raise DivergedError(f"step {state.step}: its {name} is not finite any more")
            path = beside / f"{name}.safetensors"
            write_tensors(path, tensors)
            files[path.name] = {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
        write_atomically(beside / STATE, sealed({"step": state.step, "progress": progress, "files": files}))
    for old in saved(run)[KEEP:]:
        drop(old)
    return final


def check_writable(run: Path) -> None:
    """Raise TinyLMError where no checkpoint can be written: better before hours of training than after."""
    probe = run / CHECKPOINTS / f".probe.{os.getpid()}.tmp"
    try:
        write_atomically(probe, b"")
    finally:
        with contextlib.suppress(OSError):
            probe.unlink()


def update(checkpoint: Path, progress: dict[str, Any]) -> None:
    """Replace the progress that a checkpoint holds: what was found out about its weights after it was saved."""
    content = read_sealed(checkpoint / STATE)
    write_atomically(checkpoint / STATE, sealed(content | {"progress": progress}))


def _parts(state: TrainState) -> dict[str, dict[str, mx.array]]:
    """What a checkpoint holds besides numbers: tensors by name, in a file a part."""
    return {
        "model": dict(tree_flatten(state.model.parameters())),
        "optimizer": dict(tree_flatten(state.optimizer.state)),
        "average": state.average.weights if state.average else {},
    }


def drop(folder: Path) -> None:
    """Remove a checkpoint, if it is there, so that no half of it is ever seen under its name."""
    aside = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    with contextlib.suppress(OSError):  # not there, or it cannot be removed either
        os.rename(folder, aside)
    remove(aside)


def saved(run: Path) -> list[Path]:
    """The checkpoints of a run, the newest first."""
    found = (path for path in (run / CHECKPOINTS).glob("[0-9]*") if is_checkpoint(path.name))
    return sorted(found, key=lambda path: int(path.name), reverse=True)


def load_newest(run: Path, state: TrainState) -> tuple[dict[str, Any], list[str]]:
    """Put the newest checkpoint that verifies into `state`; its progress, and what was wrong with newer ones.

    Those are removed. Raises TinyLMError where there is none.
    """
    wrong: list[str] = []
    for folder in saved(run):
        try:
            progress = _load(folder, state)
        except TinyLMError as error:
            wrong.append(str(error))
            continue
        for newer in saved(run)[: len(wrong)]:  # their steps will be made again
            drop(newer)
        return progress, wrong
    details = f" ({'; '.join(wrong)})" if wrong else ""
    raise TinyLMError(f"{run}: no checkpoint to resume from{details}. Start a new run: mlx-tinylm train")


def _load(folder: Path, state: TrainState) -> dict[str, Any]:
    content = read_sealed(folder / STATE)
    try:
        step, progress, files = int(content["step"]), dict(content["progress"]), dict(content["files"])
        parts = dict(_verified(folder, _parts(state), files))
    except OSError as error:  # the disk itself is failing
        raise TinyLMError(f"{error.filename or folder}: cannot be read ({error.strerror})") from None
    except (KeyError, TypeError, ValueError) as error:
        raise TinyLMError(f"{folder / STATE}: not a checkpoint ({error!r})") from None
    if folder.name != checkpoint_name(step):
        raise TinyLMError(f"{folder}: holds the checkpoint of step {step}; the folder was renamed or swapped")
    for name, tensors in _parts(state).items():
        shapes = {key: tensor.shape for key, tensor in tensors.items()}
        if shapes != {key: tensor.shape for key, tensor in parts[name].items()}:
            raise TinyLMError(f"{folder}/{name}.safetensors: does not fit the settings in train.json")
    state.model.update(tree_unflatten(list(parts["model"].items())))
    state.optimizer.state = tree_unflatten(list(parts["optimizer"].items()))
    if state.average:
        state.average.restore(step, parts["average"])
    state.step = step
    return progress


def _verified(folder: Path, names: Iterable[str], files: dict[str, Any]) -> Iterator[tuple[str, dict[str, mx.array]]]:
    for name in names:
        path = folder / f"{name}.safetensors"
        recorded = files[path.name]
        if not path.exists():
            raise TinyLMError(f"{path}: is missing")
        if path.stat().st_size != recorded["bytes"] or sha256_of(path) != recorded["sha256"]:
            raise TinyLMError(f"{path}: is damaged (its SHA-256 is not the one recorded)")
        yield name, {key: mx.array(tensor) for key, tensor in read_safetensors(path).items()}
