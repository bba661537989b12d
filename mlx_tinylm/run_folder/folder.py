"""The names of a run's own files."""

from __future__ import annotations

SETTINGS, METRICS, CHECKPOINTS, HISTORY = "train.json", "metrics.jsonl", "checkpoints", "history"
TEXT = "text.txt"  # what came through a pipe
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
