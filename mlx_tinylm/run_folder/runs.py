"""What has become of runs: one in a folder, or all in a folder of folders."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar, Literal

from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.locks import is_locked
from mlx_tinylm.model_folder.config import ModelConfig
from mlx_tinylm.model_folder.folder import read_config
from mlx_tinylm.model_folder.layout import count_parameters
from mlx_tinylm.model_folder.trained_on import TextRecord
from mlx_tinylm.run_folder.folder import METRICS, SETTINGS
from mlx_tinylm.run_folder.history import snapshots
from mlx_tinylm.run_folder.metrics import bits_per_byte, lowest, progress
from mlx_tinylm.run_folder.record import RunRecord

UNDER_WAY, STOPPED, DONE = "under way", "stopped", "done"


@dataclass(frozen=True)
class Run:
    """A run, as far as it has come."""

    whole: ClassVar[Literal[True]] = True
    folder: Path
    date: datetime  # when it wrote its last step, in local time
    text: TextRecord
    parameters: int
    steps: int  # done
    asked: int  # to be done in all
    state: str  # UNDER_WAY, STOPPED or DONE
    validations: tuple[tuple[int, float], ...]  # steps and losses in nats
    first_validation: int = 0  # the first step whose validation counts
    snapshots: tuple[int, ...] = ()  # steps whose weights are kept
    bits_per_byte: float | None = None  # of the best validation, where that is recorded

    @property
    def best(self) -> tuple[int, float] | None:
        """The step of the lowest validation loss, and that loss in nats."""
        return lowest([each for each in self.validations if each[0] >= self.first_validation])

    def to_json(self) -> dict[str, Any]:
        step, loss = self.best or (None, None)
        return {
            **_place(self.folder, self.date),
            "text": self.text.name,
            "text_sha256": self.text.sha256,
            "characters": self.text.characters,
            "parameters": self.parameters,
            "steps": self.steps,
            "steps_asked": self.asked,
            "state": self.state,
            "best_loss": loss,
            "best_step": step,
            "best_bits_per_byte": self.bits_per_byte,
            "validations": [list(each) for each in self.validations],
            "snapshots": list(self.snapshots),
        }


@dataclass(frozen=True)
class DamagedRun:
    """What was a run, and why it cannot be read."""

    whole: ClassVar[Literal[False]] = False
    folder: Path
    date: datetime
    problem: str  # one line

    def to_json(self) -> dict[str, Any]:
        return {**_place(self.folder, self.date), "state": "damaged", "problem": self.problem}


def find_runs(folder: Path) -> list[Run | DamagedRun]:
    """The run in `folder`, or those in the folders inside it, the latest last; a damaged one is among them.

    Raises TinyLMError where the folder cannot be read.
    """
    try:
        inside = [path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")]
    except OSError as error:
        raise TinyLMError(f"{folder}: cannot be read ({error.strerror}); name a folder with runs in it") from None
    found = [run for path in [folder, *inside] if (run := find_run(path))]
    return sorted(found, key=lambda run: (run.date, str(run.folder)))


def find_run(folder: Path, config: ModelConfig | None = None) -> Run | DamagedRun | None:
    """The run in `folder`, whose `config` need not be read again; None where there is none, as in an export."""
    try:
        record = RunRecord.find(folder)
        if record is None and not (folder / METRICS).exists():
            return None
        for needed in (SETTINGS, "config.json"):
            if not (folder / needed).exists():
                raise TinyLMError(f"{needed}: is missing")
        if record is None:
            return None
        steps, validations = progress(folder)
        asked, first = record.settings.steps, record.first_validation
        state = UNDER_WAY if is_locked(folder) else DONE if steps >= asked else STOPPED
        parameters = count_parameters(config or read_config(folder))
        known = lowest([each for each in validations if each[0] >= first])
        bits = bits_per_byte(folder, known[0]) if known else None
        kept = tuple(step for step, _ in snapshots(folder))
        date, text, found = _date(folder), record.corpus, tuple(validations)
        return Run(folder, date, text, parameters, steps, asked, state, found, first, kept, bits)
    except TinyLMError as error:
        problem = str(error)
    except OSError as error:
        problem = str(error.strerror)
    for place in (f"{folder}/", f"{folder}: "):
        problem = problem.removeprefix(place)
    return DamagedRun(folder, _date(folder), " ".join(problem.split()))


def _date(folder: Path) -> datetime:
    """When the folder was last written to by its run."""
    for path in (folder / METRICS, folder / SETTINGS, folder):
        try:
            return datetime.fromtimestamp(path.stat().st_mtime)
        except (OSError, ValueError, OverflowError):
            continue
    return datetime.fromtimestamp(0)


def _place(folder: Path, date: datetime) -> dict[str, Any]:
    return {"name": folder.name, "folder": str(folder), "date": date.isoformat(timespec="seconds")}
