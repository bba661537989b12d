"""The training step and the loop around it."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from pydoc_data.topics import topics
from typing import Any

import mlx.core as mx
import numpy as np
import numpy.typing as npt
import pytest
from mlx.utils import tree_flatten
from tiny_runs import CONFIGS, PLAIN, RICH, SOAK, equal, weights_of

from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.models.ops import on_cpu
from mlx_tinylm.run_folder.events import Stepped
from mlx_tinylm.run_folder.settings import TrainConfig
from mlx_tinylm.text.tokenizer import Tokenizer
from mlx_tinylm.training.batches import dropout_seed, step_offsets
from mlx_tinylm.training.loop import run_steps, validate
from mlx_tinylm.training.state import TrainState, new_state
from mlx_tinylm.training.step import make_step

Ids = npt.NDArray[Any]
TEXT = topics["while"] + topics["for"]
TOKENIZER = Tokenizer.from_alphabet(TEXT)
IDS = TOKENIZER.encode_array(TEXT).astype(np.uint16)

every_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())

# Losses of the first five steps. Float32 sums in another order on other machines change the fifth digit.
# Without dropout, whose masks depend on how many cores share a batch, and not on topics, which change with Python.
GOLDEN = {
    "gpt2-adamw": [4.0001, 4.036, 4.0113, 3.9773, 3.9315],
    "qwen3-muon-dropout-ema": [4.0245, 4.0704, 4.1003, 4.0464, 3.8757],
}
GOLDEN_IDS = (np.arange(700) ** 2 // 5 % 37).astype(np.uint16)
TOLERANCE = 2e-3


def fresh(config: TrainConfig) -> TrainState:
    return new_state(config, config.model_config(TOKENIZER.vocab_size, TOKENIZER.vocab_size - 1))


def trained(
    config: TrainConfig, until: int, *, compiled: bool | None = None, ids: Ids = IDS
) -> tuple[TrainState, list[Stepped]]:
    state = fresh(config)
    step = make_step(state, config, ids, compiled=compiled)
    return state, list(run_steps(step, state, config, len(ids), until, lambda: False))


@pytest.mark.parametrize("name", CONFIGS)
def test_golden_losses(name: str) -> None:
    """The first five losses of a run are what they always were."""
    config = dataclasses.replace(CONFIGS[name], dropout=0.0)
    losses = [stepped.loss for stepped in trained(config, 5, ids=GOLDEN_IDS)[1]]
    assert losses == pytest.approx(GOLDEN[name], abs=TOLERANCE), (
        f"a run computes something else than before. If that is meant, GOLDEN[{name!r}] is now "
        f"{[round(loss, 4) for loss in losses]}"
    )


@every_config
def test_steps_are_numbered_from_one(config: TrainConfig) -> None:
    """Each step is reported once, in order, the last one too, and the state counts them."""
    state, steps = trained(config, 4)
    assert [stepped.step for stepped in steps] == [1, 2, 3, 4]
    assert state.step == 4


@every_config
def test_one_batch_can_be_overfitted(config: TrainConfig) -> None:
    """On a text that is one window long, the loss falls to almost nothing."""
    config = dataclasses.replace(
        config, dropout=0.0, ema=None, batch_size=1, grad_accumulation_steps=1, learning_rate=0.01, steps=150
    )
    ids = IDS[: config.context + 1]
    state = fresh(config)
    steps = list(run_steps(make_step(state, config, ids), state, config, len(ids), 150, lambda: False))
    assert steps[0].loss > 3
    assert steps[-1].loss < 0.05


@pytest.mark.parametrize("family", ["gpt2", "qwen3"])
def test_accumulated_gradients_equal_the_large_batch(family: str) -> None:
    """Three batches of two windows make the step that one batch of six makes."""
    accumulated = dataclasses.replace(PLAIN, family=family, batch_size=2, grad_accumulation_steps=3, grad_clip=None)
    at_once = dataclasses.replace(accumulated, batch_size=6, grad_accumulation_steps=1)
    np.testing.assert_array_equal(
        step_offsets(accumulated, 5, len(IDS)).reshape(-1), step_offsets(at_once, 5, len(IDS)).reshape(-1)
    )
    ours, our_steps = trained(accumulated, 3)
    theirs, their_steps = trained(at_once, 3)
    for one, other in zip(our_steps, their_steps, strict=True):
        assert one.loss == pytest.approx(other.loss, rel=1e-5)
        assert one.grad_norm == pytest.approx(other.grad_norm, rel=1e-4)
    for name, tensor in weights_of(theirs).items():
        # Adam divides by the size of the gradient, so a tiny gradient's rounding is the size of a step (3e-3).
        np.testing.assert_allclose(weights_of(ours)[name], tensor, atol=1e-3, err_msg=name)


@pytest.mark.parametrize("family", ["gpt2", "qwen3"])
def test_any_number_of_lanes_makes_the_same_step(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two batches of four windows on one lane, or on three, of which one has two windows."""
    config = dataclasses.replace(PLAIN, family=family, grad_accumulation_steps=2, grad_clip=None)
    streams = [mx.new_stream(mx.default_device()) for _ in range(3)]
    one: list[Stepped] = []
    three: list[Stepped] = []
    for count, steps in ((1, one), (3, three)):
        monkeypatch.setattr("mlx_tinylm.training.loop.lanes", lambda most, count=count: streams[:count])
        steps += trained(config, 3)[1]
    for few, many in zip(one, three, strict=True):
        assert many.loss == pytest.approx(few.loss, rel=1e-5)
        assert many.grad_norm == pytest.approx(few.grad_norm, rel=1e-4)


def test_the_norm_is_that_of_the_gradient() -> None:
    """The reported norm is that of the mean gradient before clipping, and clipping bounds the step."""
    config = dataclasses.replace(PLAIN, grad_clip=None, grad_accumulation_steps=2)
    state = fresh(config)
    offsets = step_offsets(config, 0, len(IDS))
    windows = mx.array(IDS[offsets.reshape(-1)[:, None] + np.arange(config.context + 1)].astype(np.int32))

    def loss_of(parameters: Any) -> mx.array:
        state.model.update(parameters)
        logits = state.model(windows[:, :-1])
        chosen = mx.take_along_axis(logits, windows[:, 1:, None], axis=-1)[..., 0]
        return (mx.logsumexp(logits, axis=-1) - chosen).mean()

    loss, gradient = mx.value_and_grad(loss_of)(state.model.trainable_parameters())
    norm = np.sqrt(sum(float((np.array(g) ** 2).sum()) for _, g in tree_flatten(gradient)))
    for clip in (None, 1e-3):
        clipped = dataclasses.replace(config, grad_clip=clip)
        _, steps = trained(clipped, 1)
        assert steps[0].loss == pytest.approx(loss.item(), rel=1e-5)
        assert steps[0].grad_norm == pytest.approx(norm, rel=1e-4)


def test_clipping_bounds_the_step() -> None:
    """What reaches the optimizer has the norm of --grad-clip, seen in Adam's first moment after one step."""
    for clip in (None, 0.01):
        state, steps = trained(dataclasses.replace(PLAIN, grad_clip=clip, beta1=0.5), 1)
        moments = [np.array(m) for name, m in tree_flatten(state.optimizer.state) if name.endswith(".m")]
        norm = 2 * np.sqrt(sum((m.astype(np.float64) ** 2).sum() for m in moments))
        assert norm == pytest.approx(clip or steps[0].grad_norm, rel=1e-3)


@pytest.mark.skipif(
    on_cpu() and not SOAK, reason="on a CPU, g++ compiles each kernel for minutes; MLX_TINYLM_TEST_SOAK=1 runs it"
)
@pytest.mark.parametrize("name", CONFIGS)
def test_compiled_steps_equal_plain_ones(name: str) -> None:
    """A compiled step computes what the plain one does; their masks differ, which other tests look at."""
    config = dataclasses.replace(CONFIGS[name], dropout=0.0)
    plain, plain_steps = trained(config, 4, compiled=False)
    compiled, compiled_steps = trained(config, 4, compiled=True)
    for one, other in zip(plain_steps, compiled_steps, strict=True):
        assert one.loss == pytest.approx(other.loss, rel=1e-5)
    for tensor_name, tensor in weights_of(plain).items():
        np.testing.assert_allclose(weights_of(compiled)[tensor_name], tensor, atol=1e-3, err_msg=tensor_name)
    for tensor_name, tensor in plain.average.items():
        np.testing.assert_allclose(compiled.average[tensor_name], tensor, atol=1e-3, err_msg=tensor_name)


def masked_losses(config: TrainConfig, numbers: list[int], *, compiled: bool) -> list[float]:
    """The loss of one and the same batch under the dropout masks of the steps `numbers`; nothing is learned."""
    config = dataclasses.replace(config, dropout=0.5, learning_rate=1e-30, muon_learning_rate=1e-30, ema=None)
    state = fresh(config)
    state.model.train()
    step = make_step(state, config, IDS, compiled=compiled)
    offsets = mx.array(step_offsets(config, 0, len(IDS)))
    losses = []
    for number in numbers:
        state.step = number
        mx.random.seed(dropout_seed(config.seed, number))
        loss, _ = step(offsets)
        losses.append(loss.item())
    return losses


# A fresh qwen3 passes its blocks by (their last matrices begin at 0): the mask of its embedding is seen all the same.
@every_config
@pytest.mark.parametrize("compiled", [False, True], ids=["plain", "compiled"])
def test_dropout_is_a_function_of_seed_and_step(config: TrainConfig, compiled: bool) -> None:
    """The mask changes from step to step, is the same whenever that step is made, and differs for another seed."""
    first, second, third, again = masked_losses(config, [0, 1, 2, 1], compiled=compiled)
    assert len({first, second, third}) == 3
    assert second == again
    assert masked_losses(config, [1], compiled=compiled) == [second]
    other = dataclasses.replace(config, seed=config.seed + 1)
    assert dropout_seed(config.seed, 1) != dropout_seed(other.seed, 1)


def test_windows_of_a_batch_have_masks_of_their_own() -> None:
    """Two equal windows in one batch are not masked alike."""
    config = dataclasses.replace(PLAIN, dropout=0.5)
    state = fresh(config)
    state.model.train()
    mx.random.seed(dropout_seed(0, 0))
    logits = np.array(state.model(mx.array(np.stack([IDS[:8], IDS[:8]]).astype(np.int32))))
    assert not np.allclose(logits[0], logits[1])


def test_shares_of_a_batch_have_masks_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """No two shares of a step's batches draw their dropout masks from the same seed, and a mask never repeats."""
    config = dataclasses.replace(PLAIN, grad_accumulation_steps=2, dropout=0.5)
    seeds = []
    monkeypatch.setattr(mx.random, "seed", seeds.append)
    state = fresh(config)
    step = make_step(state, config, IDS, compiled=False)
    for number in range(3):
        state.step = number
        mx.eval(step(mx.array(step_offsets(config, number, len(IDS)))))
    assert len(seeds) >= 6
    assert len(set(seeds)) == len(seeds)


def test_validation_has_no_dropout() -> None:
    """Validation gives one loss, however often it is asked for, and leaves the model training."""
    config = dataclasses.replace(PLAIN, dropout=0.5)
    state, _ = trained(config, 1)
    first, second = validate(state, config, IDS[:300]), validate(state, config, IDS[:300])
    assert first == second
    assert first.targets == 299
    assert state.model.training


@every_config
def test_a_run_repeats_itself(config: TrainConfig) -> None:
    """The same settings give the same losses and weights, bit for bit."""
    first, first_steps = trained(config, 3)
    second, second_steps = trained(config, 3)
    assert first_steps == second_steps
    assert equal(weights_of(first), weights_of(second))


def test_average_follows_its_formula() -> None:
    """After step n the average has moved by 1 - min(decay, (n + 1) / (n + 10)) towards the weights, as in NumPy."""
    config = dataclasses.replace(PLAIN, ema=0.3)
    state = fresh(config)
    expected = {name: np.array(tensor, np.float64) for name, tensor in tree_flatten(state.model.parameters())}
    step = make_step(state, config, IDS)
    for until in range(1, 6):
        list(run_steps(step, state, config, len(IDS), until, lambda: False))
        for name, tensor in tree_flatten(state.model.parameters()):
            decay = min(0.3, (until + 1) / (until + 10))
            expected[name] = decay * expected[name] + (1 - decay) * np.array(tensor, np.float64)
            np.testing.assert_allclose(np.array(state.average[name]), expected[name], atol=1e-6, err_msg=name)
    final = np.array(state.model.wte.weight)
    assert not np.allclose(final, expected["wte.weight"], atol=1e-4)


def test_stopping_finishes_the_step_under_way() -> None:
    """After a request to stop no further step begins, and each step that began is reported."""
    state = fresh(PLAIN)
    stopping: list[int] = []
    step = make_step(state, PLAIN, IDS)

    def events() -> Iterator[Stepped]:
        for stepped in run_steps(step, state, PLAIN, len(IDS), 100, lambda: bool(stopping)):
            if stepped.step == 2:
                stopping.append(1)
            yield stepped

    numbers = [stepped.step for stepped in events()]
    assert numbers == list(range(1, state.step + 1))
    assert state.step <= 4


def test_a_run_that_diverges_stops() -> None:
    """A loss or gradient that is no number stops the run at once, with the step, both figures and what to try."""
    with pytest.raises(TinyLMError) as caught:
        trained(dataclasses.replace(PLAIN, learning_rate=1e30, grad_clip=None), 8)
    found = re.fullmatch(
        r"step (\d+): the loss is (\S+), the norm of its gradient (\S+)\. Training stopped\. "
        r"Try a lower --learning-rate, more --warmup-steps, or --grad-clip 1: anew, or with --init-from .*",
        str(caught.value),
    )
    assert found
    assert 1 < int(found[1]) <= 4
    assert not np.isfinite([float(found[2]), float(found[3])]).all()


def test_an_infinite_gradient_stops_even_a_finite_loss() -> None:
    """A step whose loss is a number but whose gradient is not is not passed over."""
    state = fresh(PLAIN)

    def step(offsets: mx.array) -> tuple[mx.array, mx.array]:
        return mx.array(1.5), mx.array(float("inf"))

    with pytest.raises(TinyLMError, match=r"step 1: the loss is 1\.5, the norm of its gradient inf\."):
        list(run_steps(step, state, PLAIN, len(IDS), 8, lambda: False))


def test_dropout_seeds_do_not_collide() -> None:
    """Neither neighbouring seeds nor neighbouring steps share a dropout mask, nor do (1, 0) and (0, 1)."""
    seeds = {dropout_seed(seed, step) for seed in range(30) for step in range(30)}
    assert len(seeds) == 900


def test_the_rich_run_is_rich() -> None:
    """The run that these tests use for everything with a state of its own really has all of it."""
    state = fresh(RICH)
    assert len(state.optimizer.state["states"]) == 3
    assert state.average.keys() == dict(tree_flatten(state.model.parameters())).keys()
