"""The files of a run that are not the model's own: its settings, its metrics, and the text that came through a pipe."""

from __future__ import annotations

import importlib.metadata
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.files import read, read_sealed, remove, remove_leftovers, sealed, sha256_of, write_atomically
from mlx_tinylm.run_folder.settings import TrainConfig
from mlx_tinylm.text.corpus import NAMED, Corpus

METRICS, SETTINGS, CHECKPOINTS = "metrics.jsonl", "train.json", "checkpoints"
TEXT = "text.txt"  # what came through a pipe
SMALL_FILES = ("config.json", "tokenizer.json")  # a run goes on only with those it began with


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


def write_settings(
    folder: Path, config: TrainConfig, corpus: Corpus, data: Sequence[str], init_from: Path | None
) -> None:
    """Record in `train.json` all that a run depends on; `config.json` and the tokenizer are there already."""
    if all(item in NAMED or (item != "-" and (Path(item).is_file() or Path(item).is_dir())) for item in data):
        data = [item if item in NAMED else str(Path(item).resolve()) for item in data]
    else:  # a pipe can be read only once
        write_atomically(folder / TEXT, corpus.text())
        data = [TEXT]
    import mlx.core as mx

    content = {
        "settings": config.to_json(),
        "init_from": str(init_from.resolve()) if init_from else None,
        "data": data,
        "corpus": {"name": corpus.name, "sha256": corpus.sha256, "characters": corpus.characters},
        "files": {name: sha256_of(folder / name) for name in SMALL_FILES},
        "versions": {name: importlib.metadata.version(name) for name in ("mlx-tinylm", "mlx", "numpy")},
        "device": str(mx.default_device()),
    }
    write_atomically(folder / SETTINGS, sealed(content))


def change_settings(folder: Path, config: TrainConfig) -> None:
    """Record the settings with which a run goes on."""
    content = read_sealed(folder / SETTINGS)
    if content["settings"] != config.to_json():
        write_atomically(folder / SETTINGS, sealed(content | {"settings": config.to_json()}))


def read_settings(folder: Path) -> tuple[TrainConfig, dict[str, Any]]:
    """The settings in `train.json`, and all of it.

    Raises TinyLMError where there is no run in the folder, or it or the model's small files have changed.
    """
    path = folder / SETTINGS
    if not path.exists():
        raise TinyLMError(f"{folder}: no run to resume here ({SETTINGS} is missing)")
    raw = read_sealed(path)
    try:
        _ = raw["data"], raw["corpus"]["sha256"]
        files, config = dict(raw["files"]), TrainConfig.from_json(raw["settings"])
    except TinyLMError as error:
        raise TinyLMError(f"{path}: {error}") from None
    except (KeyError, TypeError, ValueError) as error:
        raise TinyLMError(f"{path}: not the settings of a run ({error!r})") from None
    for name, sha256 in files.items():
        if not (folder / name).is_file():
            raise TinyLMError(f"{folder / name}: is missing; put it back from a copy")
        if sha256_of(folder / name) != sha256:
            raise TinyLMError(f"{folder / name}: is not what this run began with; put it back from a copy")
    return config, raw


def record(folder: Path, metrics: dict[str, Any]) -> None:
    """Append a line to the metrics."""
    try:
        with open(folder / METRICS, "a", encoding="utf-8") as file:
            file.write(json.dumps(metrics) + "\n")
    except OSError as error:
        raise TinyLMError(f"{folder / METRICS}: cannot be written ({error.strerror})") from None


def truncate_metrics(folder: Path, step: int) -> None:
    """Drop the lines after `step`, which will be made again, and whatever is no line of metrics."""
    path = folder / METRICS
    if not path.exists():
        return
    kept = []
    for line in read(path).splitlines():
        try:
            if json.loads(line)["step"] > step:
                break
        except (ValueError, KeyError, TypeError):  # cut short, or damaged
            continue
        kept.append(line + b"\n")
    write_atomically(path, b"".join(kept))
