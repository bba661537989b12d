"""The loop around the training step, and validation."""

from __future__ import annotations

import dataclasses
import re
import string
from collections.abc import Iterator
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from pair_files import numbered, opened, write
from tiny_runs import CONFIGS, IDS, PLAIN, RICH, equal, fresh, on_streams, trained, weights_of

from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.run_folder.events import Stepped
from mlx_tinylm.run_folder.settings import TrainConfig
from mlx_tinylm.text.pair_ids import encode_part_of_pairs
from mlx_tinylm.text.tokenizer import Tokenizer
from mlx_tinylm.training.loop import answered, run_steps, validate
from mlx_tinylm.training.step import make_step

every_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())


@every_config
def test_a_run_repeats_itself(config: TrainConfig) -> None:
    """The same settings give the same losses and weights, bit for bit; each step is numbered and reported once."""
    first, first_steps = trained(config, 4)
    second, second_steps = trained(config, 4)
    assert first_steps == second_steps
    assert equal(weights_of(first), weights_of(second))
    assert [stepped.step for stepped in first_steps] == [1, 2, 3, 4]
    assert first.step == 4


@every_config
def test_one_batch_can_be_overfitted(config: TrainConfig) -> None:
    """On a text that is one window long, the loss falls to almost nothing."""
    config = dataclasses.replace(
        config, dropout=0.0, ema=None, batch_size=1, grad_accumulation_steps=1, learning_rate=0.01, steps=150
    )
    _, steps = trained(config, 150, IDS[100 : 100 + config.context + 1])
    assert steps[0].loss > 3
    assert steps[-1].loss < 0.05


def test_stopping_finishes_the_step_under_way() -> None:
    """After a request to stop no further step begins, and each step that began is reported."""
    state = fresh(PLAIN)
    stopping: list[int] = []
    step = make_step(state, PLAIN, on_streams())

    def events() -> Iterator[Stepped]:
        for stepped in run_steps(step, state, PLAIN, IDS, 100, lambda: bool(stopping)):
            if stepped.step == 2:
                stopping.append(1)
            yield stepped

    numbers = [stepped.step for stepped in events()]
    assert numbers == list(range(1, state.step + 1))
    assert state.step <= 4


def test_a_run_that_diverges_stops() -> None:
    """A loss or gradient that is no number stops the run at once, with the step and both figures."""
    with pytest.raises(TinyLMError) as caught:
        trained(dataclasses.replace(PLAIN, learning_rate=1e30, grad_clip=None), 8)
    found = re.fullmatch(
        r"step (\d+): the loss is (\S+), the norm of its gradient (\S+)",
        str(caught.value),
    )
    assert found
    assert 1 < int(found[1]) <= 4
    assert not np.isfinite([float(found[2]), float(found[3])]).all()


@pytest.mark.parametrize(("loss", "norm"), [(1.5, float("inf")), (float("nan"), 1.5)])
def test_one_figure_that_is_no_number_is_enough(loss: float, norm: float) -> None:
    """A step whose loss is a number but whose gradient is not is not passed over, nor the other way round."""

    def step(*inputs: mx.array | None) -> tuple[mx.array, mx.array]:
        return mx.array(loss), mx.array(norm)

    with pytest.raises(TinyLMError, match=rf"step 1: the loss is {loss:g}, the norm of its gradient {norm:g}$"):
        list(run_steps(step, fresh(PLAIN), PLAIN, IDS, 8, lambda: False))


def test_validation_is_of_the_kept_weights() -> None:
    """Validation has no dropout, is the same on any number of streams, and sees the averages where there are some."""
    config = dataclasses.replace(RICH, dropout=0.5)
    state, _ = trained(config, 2)
    first, second, wider = (validate(state, config, IDS[:301], on_streams(count)) for count in (1, 1, 3))
    assert first == second
    assert wider == pytest.approx(first, rel=1e-6)
    state.average = None
    assert validate(state, config, IDS[:301], on_streams(1)) != first


def test_counting_answers_stops(tmp_path: Path, own_cache: Path) -> None:
    """Where a run is to stop, it does not wait until all answers are counted."""
    corpus = opened(write(tmp_path / "a.jsonl", *numbered(60)))
    alphabet = corpus.alphabet + string.ascii_uppercase
    pairs = encode_part_of_pairs(corpus, Tokenizer.from_alphabet(alphabet[: 38 - 1]), "all")  # as `fresh` has ids
    asked: list[bool] = []
    state = fresh(dataclasses.replace(PLAIN, context=pairs.longest))
    assert answered(state, pairs, on_streams(), lambda: asked.append(True) or False) == 0
    assert len(asked) == 60 // 16
    assert answered(state, pairs, on_streams(), lambda: True) is None
