"""The first weights of a model, and the weights worth keeping."""

from __future__ import annotations

import dataclasses
import math

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten
from tiny_runs import IDS, PLAIN, RICH, equal, fresh, on_streams, trained, weights_of

from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.model_folder.layout import tensor_shapes
from mlx_tinylm.training.loop import validate
from mlx_tinylm.training.state import check_memory, kept_tensors, kept_weights

SHAPES = [
    {},
    {"layers": 6},
    {"width": 64, "heads": 4},
    {"width": 128, "heads": 1, "layers": 2, "context": 32},
    {"width": 256, "heads": 8, "context": 16},
]
families = pytest.mark.parametrize("family", ["gpt2", "qwen3"])


@families
@pytest.mark.parametrize("changes", SHAPES, ids=str)
def test_first_loss_is_that_of_a_guess(family: str, changes: dict[str, int]) -> None:
    """Before its first step a model of any shape is within 0.1 nats of guessing uniformly."""
    ids = np.random.default_rng(0).integers(0, 38, 300).astype(np.uint16)
    for seed in (0, 1):
        config = dataclasses.replace(PLAIN, family=family, seed=seed, **changes)
        assert validate(fresh(config), config, ids, on_streams()) == pytest.approx(math.log(38), abs=0.1)


@families
def test_first_weights(family: str) -> None:
    """A seed draws each matrix from a key of its own, whatever was drawn before; norms begin at 1, biases at 0."""
    config = dataclasses.replace(PLAIN, family=family, layers=3)
    state = fresh(config)
    first = kept_tensors(state)
    mx.random.seed(123)
    mx.eval(mx.random.normal((7,)))
    assert equal(first, weights_of(fresh(config)))
    other = weights_of(fresh(dataclasses.replace(config, seed=1)))
    drawn = {name: tensor for name, tensor in first.items() if tensor.ndim == 2 and tensor.any()}
    assert all(not np.array_equal(tensor, other[name]) for name, tensor in drawn.items())
    assert len({tensor.reshape(-1)[:8].tobytes() for tensor in drawn.values()}) == len(drawn) >= 8
    assert {name: tensor.shape for name, tensor in first.items()} == tensor_shapes(state.model.config)
    for name in first.keys() - {name for name, tensor in first.items() if tensor.ndim == 2}:
        assert (first[name] == (0 if name.endswith("bias") else 1)).all(), name


def test_gpt2_projections_into_the_residual_are_smaller() -> None:
    """With 8 layers, what is added to the residual stream begins 4 times smaller (Radford et al. 2019)."""
    tensors = weights_of(fresh(dataclasses.replace(PLAIN, layers=8, width=64)))
    ratio = tensors["h.3.attn.c_attn.weight"].std() / tensors["h.3.mlp.c_proj.weight"].std()
    assert ratio == pytest.approx(4, rel=0.05)


@pytest.mark.parametrize("error", [None, KeyboardInterrupt])
def test_averaged_weights_are_kept_and_given_back(error: type[BaseException] | None) -> None:
    """What is kept of a run that averages are the averages; afterwards, and after an error, the model is as it was."""
    state = fresh(RICH)
    assert state.average is not None
    before = {name: np.array(tensor) for name, tensor in tree_flatten(state.model.parameters())}
    state.average.restore(1, {name: tensor + 1 for name, tensor in state.average.weights.items()})
    assert (kept_tensors(state)["model.norm.weight"] == 2).all()
    try:
        with kept_weights(state) as model:
            assert (np.array(model.model.norm.weight) == 2).all()
            if error:
                raise error
    except KeyboardInterrupt:
        pass
    assert equal(before, {name: np.array(tensor) for name, tensor in tree_flatten(state.model.parameters())})


@pytest.mark.parametrize("changes", [{"width": 1_000_000}, {"batch_size": 10_000_000}, {"context": 10_000_000}])
def test_a_run_larger_than_the_machine_is_refused(changes: dict[str, int]) -> None:
    """Settings that need more memory than there is are refused before anything is allocated."""
    config = dataclasses.replace(PLAIN, layers=4, **changes)
    with pytest.raises(TinyLMError, match=r"needs [\d,.]+ GiB of memory or more, the machine has [\d,.]+; lower --"):
        check_memory(config, config.model_config(66, 65), on_streams())
    check_memory(PLAIN, PLAIN.model_config(66, 65), on_streams())


def test_memory_is_counted_for_one_batch_and_for_attention() -> None:
    """Accumulated batches follow each other and count once; B x H x T^2 weights of attention are kept, and count."""
    vocabulary = (66, 65)
    many = dataclasses.replace(PLAIN, grad_accumulation_steps=10_000_000)
    check_memory(many, many.model_config(*vocabulary), on_streams())
    long = dataclasses.replace(PLAIN, layers=8, heads=16, context=100_000, batch_size=1)
    with pytest.raises(TinyLMError, match=r"needs [12],\d\d\d.\d GiB"):  # 8 x 16 x 10^10 / 2 weights of 4 bytes
        check_memory(long, long.model_config(*vocabulary), on_streams())


@pytest.mark.parametrize(
    ("device", "limit"),
    [
        ({"total_memory": 2**30, "free_memory": 2**40}, 1),
        ({"memory_size": 2**40, "max_recommended_working_set_size": 2 * 2**30}, 2),
    ],
    ids=["CUDA", "Metal"],
)
def test_on_a_gpu_its_memory_counts(device: dict[str, int], limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run on a GPU must fit into that, however much the machine has; all of attention's weights count there."""
    monkeypatch.setattr(mx, "device_info", lambda _: device)
    gpu = dataclasses.replace(on_streams(), device="gpu", streams=1)
    fits = dataclasses.replace(PLAIN, layers=1, heads=4, context=4096, batch_size=limit * 3)
    check_memory(fits, fits.model_config(66, 65), gpu)
    larger = dataclasses.replace(fits, batch_size=limit * 4)  # 2^30 bytes of attention each
    with pytest.raises(TinyLMError, match=rf"needs {limit}\.\d GiB of memory or more, the GPU has {limit}\.0; lower"):
        check_memory(larger, larger.model_config(66, 65), gpu)


def test_freed_memory_is_given_back_after_looking(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a validation or a sample leaves in MLX's cache is of no use to a step; a step's own stays there."""
    cleared: list[int] = []
    monkeypatch.setattr(mx, "clear_cache", lambda: cleared.append(1))
    state, _ = trained(PLAIN, 3)
    assert not cleared
    validate(state, PLAIN, IDS, on_streams())
    assert cleared == [1]
