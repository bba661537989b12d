"""The names of a run's own files."""

from __future__ import annotations

import re

SETTINGS, METRICS, CHECKPOINTS, HISTORY = "train.json", "metrics.jsonl", "checkpoints", "history"
SMALL_FILES = ("config.json", "tokenizer.json")  # the model's; a run goes on only with those it began with
OWN = (
    *SMALL_FILES,
    "tokenizer_config.json",
    "generation_config.json",
    "model.safetensors",
    METRICS,
    CHECKPOINTS,
    HISTORY,
    SETTINGS,
)


def kept_text(number: int, validation: bool = False, suffix: str = ".txt") -> str:
    """The name of what came through a pipe, counted from 1, of the text itself or of the one it is validated with."""
    return f"{'val-' if validation else ''}text{'' if number == 1 else f'-{number}'}{suffix}"


def is_kept_text(name: str) -> bool:
    """Whether a name is one that `kept_text` gives."""
    return re.fullmatch(r"(val-)?text(-[1-9]\d*)?\.(txt|md|jsonl|parquet)(\.gz)?", name) is not None


def checkpoint_name(step: int) -> str:
    """The name of the folder of a checkpoint."""
    return f"{step:08d}"


def is_checkpoint(name: str) -> bool:
    """Whether a name is one that `checkpoint_name` gives."""
    return name.isascii() and name.isdecimal() and checkpoint_name(int(name)) == name


def snapshot_name(step: int) -> str:
    """The name of the file of a snapshot."""
    return f"{checkpoint_name(step)}.safetensors"


def is_snapshot(name: str) -> bool:
    """Whether a name is one that `snapshot_name` gives."""
    return name.endswith(".safetensors") and is_checkpoint(name.removesuffix(".safetensors"))
