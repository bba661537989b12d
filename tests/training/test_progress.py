"""What is due after which step, and what a run remembers of its losses."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from mlx_tinylm.run_folder.settings import TrainConfig
from mlx_tinylm.training.progress import Due, Progress, due_at, next_due

EVERY = TrainConfig(steps=10, eval_every=4, save_every=6, sample_every=8, history=None)


@pytest.mark.parametrize(
    ("after", "changes", "due"),
    [
        (0, {}, Due(4, save=False, evaluate=True, sample=False, snapshot=False)),
        (3, {}, Due(4, save=False, evaluate=True, sample=False, snapshot=False)),
        (4, {}, Due(6, save=True, evaluate=False, sample=False, snapshot=False)),
        (6, {}, Due(8, save=False, evaluate=True, sample=True, snapshot=False)),
        (8, {}, Due(10, save=True, evaluate=True, sample=True, snapshot=False)),
        (8, {"sample_every": None}, Due(10, save=True, evaluate=True, sample=False, snapshot=False)),
        (8, {"save_every": 5}, Due(10, save=True, evaluate=True, sample=True, snapshot=False)),
        (0, {"steps": 3}, Due(3, save=True, evaluate=True, sample=True, snapshot=False)),
        (0, {"history": 1}, Due(1, save=False, evaluate=False, sample=False, snapshot=True)),
        (1, {"history": 1}, Due(4, save=False, evaluate=True, sample=False, snapshot=False)),
        (4, {"history": 3}, Due(5, save=False, evaluate=False, sample=False, snapshot=True)),
        (8, {"history": 1}, Due(10, save=True, evaluate=True, sample=True, snapshot=True)),
    ],
)
def test_what_is_due(after: int, changes: dict[str, Any], due: Due) -> None:
    """After a step comes the next multiple of any interval, or the last step, after which all is done."""
    config = dataclasses.replace(EVERY, **changes)
    assert due_at(config, next_due(config, after)) == due


def test_what_is_due_before_the_first_step() -> None:
    """Before the first step a run is validated and may be kept to look back at; there is nothing to save or sample."""
    assert due_at(EVERY, 0) == Due(0, save=False, evaluate=True, sample=False, snapshot=False)
    assert due_at(dataclasses.replace(EVERY, history=2), 0).snapshot
    assert due_at(EVERY, 1) == Due(1, save=False, evaluate=False, sample=False, snapshot=False)


def test_validations_are_remembered() -> None:
    """The best validation, the latest two, and how many came since the best one."""
    progress = Progress()
    assert [progress.validated(step, loss) for step, loss in ((0, 4.0), (2, 3.0), (4, 3.0), (6, 3.5))] == [
        True,
        True,
        False,
        False,
    ]
    assert (progress.best_step, progress.best_loss, progress.without_best) == (2, 3.0, 2)
    assert (progress.last_step, progress.last_loss, progress.before_last_loss) == (6, 3.5, 3.0)
    assert (progress.out_of(2), progress.out_of(3), progress.out_of(None)) == (True, False, False)


def test_the_training_loss_is_a_mean_of_the_latest() -> None:
    """One batch that is easy or hard changes the training loss a little, fifty of them change it for good."""
    progress = Progress()
    progress.trained(2.0)
    progress.trained(1.0)
    assert progress.train_loss == pytest.approx(1.95)
    for _ in range(80):
        progress.trained(1.0)
    assert progress.train_loss == pytest.approx(1.0, abs=0.02)
