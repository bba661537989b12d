"""One training step: the loss and gradient of its windows, clipped, however they are spread."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten
from pair_files import opened, pair, write
from tiny_runs import CONFIGS, IDS, PLAIN, RICH, SOAK, fresh, go_on, on_streams, trained, weights_of

from mlx_tinylm.backend.mlx_model import MLXModel
from mlx_tinylm.run_folder.settings import TrainConfig
from mlx_tinylm.text.pair_ids import encode_part_of_pairs
from mlx_tinylm.text.tokenizer import Tokenizer
from mlx_tinylm.training.batches import dropout_keys, step_batch
from mlx_tinylm.training.step import make_step, norm_of

every_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
FAMILIES = ["gpt2", "qwen3"]


def same_steps(ours: Any, theirs: Any) -> None:
    """Assert that two runs without clipping are the same up to rounding."""
    for one, other in zip(ours[1], theirs[1], strict=True):
        assert one.loss == pytest.approx(other.loss, rel=1e-5)
        assert one.grad_norm == pytest.approx(other.grad_norm, rel=1e-4)
    for parts in (weights_of, lambda state: dict(tree_flatten(state.model.parameters()))):  # averages, and weights
        one, other = parts(ours[0]), parts(theirs[0])
        assert one.keys() == other.keys()
        for name, tensor in one.items():
            # Adam divides by the size of the gradient, so a tiny gradient's rounding is the size of a step (3e-3).
            np.testing.assert_allclose(np.array(other[name]), np.array(tensor), atol=1e-3, err_msg=name)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("family", FAMILIES)
def test_accumulation_does_not_change_a_run(family: str, dropout: float) -> None:
    """Two batches of two windows make the step that one batch of four makes, dropout included."""
    parts = dataclasses.replace(PLAIN, family=family, dropout=dropout, grad_clip=None)
    parts = dataclasses.replace(parts, batch_size=2, grad_accumulation_steps=2)
    whole = dataclasses.replace(parts, batch_size=4, grad_accumulation_steps=1)
    same_steps(trained(parts, 3), trained(whole, 3))


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("streams", [1, 2])
@pytest.mark.parametrize("family", FAMILIES)
def test_accumulation_takes_the_memory_of_one_batch(family: str, streams: int, dropout: float) -> None:
    """Eight batches a step, one after the other on each stream, need hardly more than one."""
    one = dataclasses.replace(PLAIN, family=family, layers=3, context=64, batch_size=16, width=32, dropout=dropout)
    peaks = []
    for batches in (1, 8):
        mx.reset_peak_memory()
        trained(dataclasses.replace(one, grad_accumulation_steps=batches), 2, streams=streams)
        peaks.append(mx.get_peak_memory())
    assert peaks[1] < 1.25 * peaks[0]


@pytest.mark.parametrize("family", FAMILIES)
def test_streams_do_not_change_a_run(family: str) -> None:
    """Two batches of four windows on one stream, or on three, of which one has two windows, dropout included."""
    config = dataclasses.replace(PLAIN, family=family, dropout=0.5, grad_accumulation_steps=2, grad_clip=None)
    same_steps(trained(config, 3, streams=1), trained(config, 3, streams=3))


def test_the_norm_is_that_of_the_mean_gradient() -> None:
    """Loss and norm are those of all windows at once, before clipping, as MLX computes them in one piece."""
    config = dataclasses.replace(PLAIN, grad_accumulation_steps=2)
    state = fresh(config)
    windows = mx.array(step_batch(config, 0, IDS).windows.reshape(-1, config.context + 1))

    def loss_of(parameters: Any) -> mx.array:
        state.model.update(parameters)
        logits = state.model(windows[:, :-1])
        chosen = mx.take_along_axis(logits, windows[:, 1:, None], axis=-1)[..., 0]
        return (mx.logsumexp(logits, axis=-1) - chosen).mean()

    loss, gradient = mx.value_and_grad(loss_of)(state.model.trainable_parameters())
    norm = np.sqrt(sum(float((np.array(g) ** 2).sum()) for _, g in tree_flatten(gradient)))
    for clip in (None, 1e-3):
        _, [step] = trained(dataclasses.replace(config, grad_clip=clip), 1)
        assert (step.loss, step.grad_norm) == pytest.approx((loss.item(), norm), rel=1e-4)


def operations(path: Path, *arrays: mx.array) -> list[str]:
    """What MLX will do for arrays that it has not computed yet."""
    mx.export_to_dot(str(path), *arrays)
    return re.findall(r'label ?="(\w+)", shape=rectangle', path.read_text())


def test_the_norm_takes_few_operations(tmp_path: Path) -> None:
    """Fifty matrices of one shape and fifty vectors are summed together, and to the last digits: float64 agrees."""
    random = np.random.default_rng(0)
    arrays = {f"{n}-{i}": random.standard_normal((200, 30)[:n]) for n in (1, 2) for i in range(50)}
    gradient = {name: mx.array(array.astype(np.float32)) for name, array in arrays.items()}
    mx.eval(gradient)
    norm = norm_of(gradient)
    assert 1 < len(operations(tmp_path / "graph.dot", norm)) < 15
    assert norm.item() == pytest.approx(np.sqrt(sum((array**2).sum() for array in arrays.values())), rel=1e-6)


@pytest.mark.parametrize(("clip", "clipped"), [(None, False), (0.01, True), (1e6, False)])
def test_clipping_bounds_the_step(clip: float | None, clipped: bool) -> None:
    """What reaches the optimizer has at most the norm of --grad-clip, seen in Adam's first moment after one step."""
    state, [step] = trained(dataclasses.replace(PLAIN, grad_clip=clip, beta1=0.5), 1)
    moments = [np.array(m) for name, m in tree_flatten(state.optimizer.state) if name.endswith(".m")]
    norm = 2 * np.sqrt(sum((m.astype(np.float64) ** 2).sum() for m in moments))
    assert norm == pytest.approx(clip if clipped else step.grad_norm, rel=1e-3)


COMPILED = {"small": dataclasses.replace(PLAIN, dropout=0.3, ema=0.9), "rich": RICH}


@pytest.mark.parametrize("name", COMPILED)
def test_compiled_steps_equal_plain_ones(name: str) -> None:
    """A compiled step computes what the plain one does: masks, averages, schedule and all."""
    if name == "rich" and on_streams().device == "cpu" and not SOAK:
        pytest.skip("on a CPU, g++ compiles each kernel; MLX_TINYLM_TEST_SOAK=1 runs it")
    config = dataclasses.replace(COMPILED[name], grad_clip=None)
    same_steps(trained(config, 4, compiled=True), trained(config, 4, compiled=False))


# A fresh qwen3 passes its blocks by (their last matrices begin at 0): the mask of its embedding is seen all the same.
@every_config
def test_dropout_follows_its_keys(config: TrainConfig) -> None:
    """The same windows under the keys of other steps or another seed are masked otherwise, and under the same alike."""
    config = dataclasses.replace(config, dropout=0.5, learning_rate=1e-30, muon_learning_rate=1e-30, ema=None)
    step = make_step(fresh(config), config, on_streams())
    windows = mx.array(step_batch(config, 0, IDS).windows)

    def loss(number: int, seed: int = 0) -> float:
        keys = dropout_keys(dataclasses.replace(config, seed=seed), number)
        return float(step(windows, None, mx.array(keys))[0].item())

    first, *others, again = [loss(0), loss(1), loss(2), loss(0, seed=1), loss(0)]
    assert first == again
    assert len({first, *others}) == 4


def test_windows_of_a_batch_have_masks_of_their_own() -> None:
    """Two equal windows in one batch are not masked alike, unless their keys are equal."""
    config = dataclasses.replace(PLAIN, dropout=0.5, batch_size=2)
    model = fresh(config).model
    keys = mx.array(dropout_keys(config, 0))[0]
    windows = mx.array(np.stack([IDS[:8], IDS[:8]]).astype(np.int32))
    apart, alike = model(windows, dropout_keys=keys), model(windows, dropout_keys=mx.stack([keys[0], keys[0]]))
    assert not np.allclose(apart[0], apart[1])
    np.testing.assert_allclose(np.array(alike[0]), np.array(alike[1]), atol=1e-6)


@every_config
def test_weights_decide_what_counts(config: TrainConfig) -> None:
    """The loss and gradient of weighted targets are the sums done by hand, however batches and streams part them."""
    config = dataclasses.replace(config, dropout=0.0, grad_clip=None, grad_accumulation_steps=2, batch_size=3, ema=None)
    windows = step_batch(config, 0, IDS).windows
    weights = np.random.default_rng(0).random(windows[..., 1:].shape).astype(np.float32)
    weights[0, 0], weights[1, 2, 3:] = 0, 0
    weights /= weights.sum()
    state = fresh(config)
    ids, counts = mx.array(windows.reshape(6, -1)), mx.array(weights.reshape(6, -1))

    def loss_of(parameters: Any) -> mx.array:
        state.model.update(parameters)
        logits = state.model(ids[:, :-1])
        chosen = mx.take_along_axis(logits, ids[:, 1:, None], axis=-1)[..., 0]
        return ((mx.logsumexp(logits, axis=-1) - chosen) * counts).sum()

    loss, gradient = mx.value_and_grad(loss_of)(state.model.trainable_parameters())
    for streams in (1, 2):
        step = make_step(fresh(config), config, on_streams(streams))
        found, norm = step(mx.array(windows), mx.array(weights), None)
        assert (found.item(), norm.item()) == pytest.approx((loss.item(), norm_of(gradient).item()), rel=1e-4)


# Pairs


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_step_learns_completions(family: str, masked: bool, tmp_path: Path, own_cache: Path) -> None:
    """Its loss is the mean over completions and their ends, each as if it stood alone; unmasked, prompts count as well.

    How they are accumulated and spread, and what pads them, changes nothing.
    """
    records = [pair("abc"[: n % 3 + 1] + str(n), "xyz"[: n % 4]) for n in range(6)]
    corpus = opened(write(tmp_path / "a.jsonl", *records))
    tokenizer = Tokenizer.from_alphabet(corpus.alphabet, pads=True)
    pairs = encode_part_of_pairs(corpus, tokenizer, "all")
    config = dataclasses.replace(PLAIN, family=family, context=pairs.longest - 1, batch_size=3, mask_prompt=masked)
    config = dataclasses.replace(config, grad_accumulation_steps=2, grad_clip=None)  # a step is all six pairs
    model, losses = MLXModel(fresh(config).model, on_streams()), []
    for record in records:
        ids = np.array([[*tokenizer.encode(record["prompt"] + record["completion"]), tokenizer.eos_id]], np.int32)
        losses += model.losses(ids[:, :-1], ids[:, 1:])[0, len(record["prompt"]) - 1 if masked else 0 :].tolist()
    steps = [go_on(fresh(config), config, 1, pairs, on_streams(streams))[0] for streams in (1, 2)]
    steps += go_on(fresh(config), config, 1, dataclasses.replace(pairs, pad_id=0))
    for step in steps:
        assert step.loss == pytest.approx(np.mean(losses), rel=1e-5)
        assert step.grad_norm == pytest.approx(steps[0].grad_norm, rel=1e-4)
