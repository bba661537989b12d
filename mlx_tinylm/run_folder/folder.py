"""The names of a run's own files."""

from __future__ import annotations

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


def checkpoint_name(step: int) -> str:
    """The name of the folder of a checkpoint."""
    return f"{step:08d}"


def is_checkpoint(name: str) -> bool:
    """Whether a name is one that `checkpoint_name` gives."""
    return name.isascii() and name.isdecimal() and checkpoint_name(int(name)) == name
