"""What a run under way writes into its folder. Where that fails, the message says how to go on from there later."""

from __future__ import annotations

import contextlib
import dataclasses
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.model_folder.folder import WEIGHTS
from mlx_tinylm.model_folder.tensor_files import write_tensors
from mlx_tinylm.run_folder import history, metrics
from mlx_tinylm.training import checkpoint
from mlx_tinylm.training.progress import Progress
from mlx_tinylm.training.state import DivergedError, TrainState, kept_tensors


@dataclass(frozen=True)
class RunFiles:
    """The files of a run in `folder`, whose state and progress go on changing."""

    folder: Path
    state: TrainState
    progress: Progress

    def save(self) -> Path:
        """Write a checkpoint; its folder."""
        with self._going_on_later():
            return checkpoint.save(self.folder, self.state, dataclasses.asdict(self.progress))

    def update(self, saved: Path) -> None:
        """Put what was found out since into a checkpoint of this very step."""
        with self._going_on_later():
            checkpoint.update(saved, dataclasses.asdict(self.progress))

    def keep_weights(self) -> None:
        """Make the weights of this step the model."""
        with self._going_on_later():
            write_tensors(self.folder / WEIGHTS, kept_tensors(self.state))

    def keep_snapshot(self) -> None:
        """Keep the weights of this step to look back at."""
        step, tensors = self.state.step, kept_tensors(self.state)
        if not all(np.isfinite(tensor).all() for tensor in tensors.values()):
            raise DivergedError(f"step {step}: its model is not finite any more")
        with self._going_on_later():
            history.keep(self.folder, step, tensors)

    def record(self, line: dict[str, Any]) -> None:
        """Add the line of a step to the metrics."""
        with self._going_on_later():
            metrics.append(self.folder, line)

    @property
    def resume_command(self) -> str:
        return f"mlx-tinylm train --resume {shlex.quote(str(self.folder))}"

    @contextlib.contextmanager
    def _going_on_later(self) -> Iterator[None]:
        """What cannot be written costs at most what came after the last checkpoint: say how to go on from there."""
        try:
            yield
        except DivergedError:
            raise
        except TinyLMError as error:
            raise TinyLMError(f"{error}. Then go on from the last checkpoint: {self.resume_command}") from None
