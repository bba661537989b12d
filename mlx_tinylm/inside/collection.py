"""The models that can be looked at: one to begin with, and runs with the weights they had on the way."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mlx_tinylm.backend.choose import LanguageModel
from mlx_tinylm.checks import check
from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.inside.subject import Subject
from mlx_tinylm.model_folder.folder import open_folder
from mlx_tinylm.model_folder.layout import count_parameters
from mlx_tinylm.model_folder.tensor_files import Tensors
from mlx_tinylm.run_folder.history import read_snapshot, snapshots
from mlx_tinylm.run_folder.runs import UNDER_WAY, find_run

KEPT = 1 << 27  # parameters of models that are held at once, besides the first


class Collection:
    """Runs are asked for by their names, which are told once: no name is ever a path."""

    def __init__(self, subject: Subject, folders: Iterable[Path] = ()) -> None:
        self.subject = subject
        self.folders: dict[str, Path] = {}
        for folder in folders:
            name, number = folder.resolve().name, 1
            while name in self.folders:
                number += 1
                name = f"{folder.resolve().name} ({number})"
            self.folders[name] = folder
        self._kept: OrderedDict[tuple[str, int | None], Subject] = OrderedDict()

    def folder(self, name: str) -> Path:
        """The folder of a run; raises TinyLMError where there is none of that name."""
        check(name in self.folders, "no such run here; choose one of those that are shown")
        return self.folders[name]

    def runs(self) -> list[dict[str, Any]]:
        """What is known of each run: name, steps whose weights are there, whether it is under way, its lowest loss."""
        found = []
        for name, folder in self.folders.items():
            run = find_run(folder)
            whole = run is not None and run.whole
            best = run.best if run is not None and run.whole else None
            found.append(
                {
                    "name": name,
                    "steps": self.steps(folder, best[0] if best else None),
                    "live": whole and run is not None and run.whole and run.state == UNDER_WAY,
                    "loss": best[1] if best else None,
                }
            )
        return found

    @staticmethod
    def steps(folder: Path, best: int | None) -> list[int]:
        """The steps of a run's snapshots; of one under way its best so far, which model.safetensors is, comes last."""
        found = [step for step, _ in snapshots(folder)]
        return [*found, best] if best is not None and best > max(found, default=-1) else found

    def at(self, name: str | None, step: int | None) -> Subject:
        """The model of a run after a step; without a step as it is now, without a run the one to begin with.

        Raises TinyLMError where there is none, or where it cannot be read.
        """
        if name is None:
            check(step is None, "a step belongs to a run; say which")
            return self.subject
        folder = self.folder(name)
        if (name, step) in self._kept:
            self._kept.move_to_end((name, step))
            return self._kept[name, step]
        opened = open_folder(folder)
        found = Subject(opened, loaded_like(self.subject.model, opened.config, self._tensors(folder, step, opened)))
        if step is not None:  # what a run has now may be something else in a moment
            self._kept[name, step] = found
        while sum(count_parameters(each.model.config) for each in self._kept.values()) > KEPT and len(self._kept) > 1:
            self._kept.popitem(last=False)
        return found

    def _tensors(self, folder: Path, step: int | None, opened: Any) -> Tensors:
        there = dict(snapshots(folder))
        if step in there:
            return read_snapshot(there[step], opened.config)
        run = find_run(folder)
        best = run.best if run is not None and run.whole else None
        if step is None or (best is not None and best[0] == step):
            tensors: Tensors = opened.tensors()
            return tensors
        raise TinyLMError(f"no weights of step {step:,} are kept of this run")


def loaded_like(model: LanguageModel, config: Any, tensors: Tensors) -> LanguageModel:
    """A model of other weights on the same back end."""
    if model.backend == "mlx":
        from mlx_tinylm.backend.mlx_model import MLXModel

        held: Any = model
        return MLXModel.with_tensors(config, tensors, held.compute)
    from mlx_tinylm.backend.numpy_model import NumpyModel

    return NumpyModel(config, tensors)
