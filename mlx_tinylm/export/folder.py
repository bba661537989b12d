"""A clean copy of a model folder to publish: in a chosen type of numbers, without training state, and verified.

Shapes: T time, V vocabulary.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mlx_tinylm.backend.devices import MLX_MISSING, prepare_if_possible
from mlx_tinylm.backend.numpy_model import NumpyModel
from mlx_tinylm.checks import check
from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.export.gguf import GGUF, check_gguf, write_gguf
from mlx_tinylm.export.model_card import CARD, model_card
from mlx_tinylm.files import filled_folder, flush, read, write_atomically
from mlx_tinylm.model_folder.config import GPT2Config, ModelConfig
from mlx_tinylm.model_folder.folder import MLX_LM_PREFIX, WEIGHTS, ModelFolder, open_folder, write_folder
from mlx_tinylm.model_folder.quantization import dequantised
from mlx_tinylm.model_folder.tensor_files import FLOATS, Tensors, write_tensors

BITS = (8, 4)

# The largest logit difference allowed, over the standard deviation of the source's logits. Largest measured over 17
# models, a trained one and random ones of both families with 1 to 12 layers and widths 32 to 256, 256 ids each:
# 1.4e-5 (the two back ends add in another order), 1.0e-2, 0.11; 0.18 and 2.6 with the matrices in 8 and 4 bits.
# Logits that have nothing to do with each other differ by about 7.
TOLERANCE = {"float32": 5e-4, "float16": 5e-2, "bfloat16": 0.5, 8: 0.8, 4: 4.0}
LONGEST_CHECK = 256  # ids
MOST_LOGITS = 1 << 24

# What comes along from the folder of another tool's model, as it is; our own tokenizer needs none of it.
FOREIGN_FILES = ("tokenizer_config.json", "chat_template.jinja")
OWN_FILES = {"config.json", "tokenizer.json", "generation_config.json", WEIGHTS, CARD, GGUF, *FOREIGN_FILES}


@dataclass(frozen=True)
class Exported:
    """A model folder as it was written and verified; `difference` is the largest between two logits."""

    folder: Path
    bytes: int
    difference: float
    spread: float  # standard deviation of the source's logits


def export(
    weights: Path,
    out: Path,
    dtype: str = "float32",
    quantize: int | None = None,
    force: bool = False,
    gguf: bool = False,
) -> Exported:
    """Write the model in `weights` to the folder `out`, its numbers as `dtype`, its matrices in `quantize` bits.

    With `gguf`, also as one file for llama.cpp, which has its own ways to quantise.
    A quantised source is dequantised first. The new folder is opened on the NumPy back end, and its logits are compared
    with the source's, from MLX where it is installed. Raises TinyLMError, and leaves nothing, where they differ by more
    than `dtype` and `quantize` explain, a number is too large for `dtype`, a matrix cannot be quantised, or `out` has
    something in it and not `force`; `force` replaces an earlier export only.
    """
    check(dtype in FLOATS, f"no type {dtype!r}; there are {', '.join(FLOATS)}")
    check(quantize is None or quantize in BITS, f"quantize must be {' or '.join(map(str, BITS))}, not {quantize}")
    check(quantize is None or prepare_if_possible() is not None, f"to quantise needs MLX. {MLX_MISSING}")
    check(not (quantize and gguf), "a GGUF is not quantised here; llama.cpp's llama-quantize does that")
    source = open_folder(weights)
    if gguf:
        check_gguf(source.tokenizer)
    _check_free(out, force)
    # Read once: a run that goes on may replace the file at any moment.
    stored = source.tensors()
    config, tensors = source.config, stored
    if config.quantization:
        tensors = dequantised(tensors, config.quantization)
        config = dataclasses.replace(config, quantization=None)
    if quantize:
        config, tensors = _quantised(config, tensors, quantize)
    with filled_folder(out, OWN_FILES) as folder:
        write_folder(folder, config, source.tokenizer, dtype)
        write_tensors(folder / WEIGHTS, tensors, dtype)
        if source.tokenizer.alphabet is None:
            for name in FOREIGN_FILES:
                if (weights / name).is_file():
                    write_atomically(folder / name, read(weights / name))
        if gguf:
            write_gguf(folder / GGUF, config, source.tokenizer, tensors, dtype)
            flush(folder / GGUF)
        write_atomically(folder / CARD, model_card(source, config, out.resolve().name, dtype, gguf))
        difference, spread = _compare(source, stored, folder)
        allowed = TOLERANCE[quantize or dtype] * spread
        if not difference <= allowed:
            raise TinyLMError(
                f"{out}: not written: read back, its logits differ from those of {weights} by up to {difference:.2g}, "
                f"where {allowed:.2g} is the most to expect; choose another --dtype or leave out --quantize"
            )
        size = sum(file.stat().st_size for file in folder.iterdir())
    return Exported(out, size, difference, spread)


def _check_free(out: Path, force: bool) -> None:
    """Raise TinyLMError unless `out` does not exist, is empty, or with `force` holds an export and nothing else."""
    if not out.exists():
        return
    check(out.is_dir(), f"{out}: is a file; choose another --out")
    there = sorted(path.name for path in out.iterdir())
    check(
        force or not there,
        f"{out}: has something in it already ({', '.join(there[:3])}); "
        "choose another --out, or add --force to replace it",
    )
    foreign = [name for name in there if name not in OWN_FILES]
    check(
        not foreign, f"{out}: holds {', '.join(foreign[:3])}, which no export wrote; choose another --out, or remove it"
    )


def _quantised(config: ModelConfig, tensors: Tensors, bits: int) -> tuple[ModelConfig, Tensors]:
    from mlx_tinylm.export.quantize import quantised

    tensors, quantization = quantised(tensors, bits)
    if isinstance(config, GPT2Config):
        # mlx-lm transposes the matrices of a GPT-2 without this prefix, and cannot transpose packed ones.
        tensors = {f"{MLX_LM_PREFIX}{name}": tensor for name, tensor in tensors.items()}
    return dataclasses.replace(config, quantization=quantization), tensors


def _compare(source: ModelFolder, stored: Tensors, folder: Path) -> tuple[float, float]:
    """The largest difference between the logits of the two models, and the standard deviation of the source's."""
    V = source.config.vocab_size
    T = min(source.config.context, LONGEST_CHECK, max(1, MOST_LOGITS // V))
    ids = np.random.default_rng(0).integers(0, V, (1, T))
    wanted = _logits(source, stored, ids)
    found = NumpyModel.load(open_folder(folder)).logits(ids)
    if not np.isfinite(wanted).all():
        raise TinyLMError(f"{source.path}: the model's output is not a finite number; its weights are damaged")
    difference = float(np.abs(found - wanted).max())
    return difference if math.isfinite(difference) else math.inf, float(wanted.std())


def _logits(source: ModelFolder, stored: Tensors, ids: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """(1, T) -> (1, T, V), from MLX where it is installed, so that two programs have to agree."""
    compute = prepare_if_possible()
    if compute is None:
        return NumpyModel(source.config, stored).logits(ids)
    import mlx.core as mx

    from mlx_tinylm.backend.mlx_model import MLXModel

    with mx.stream(mx.cpu):  # some GPUs multiply float32 with fewer bits than it has
        return MLXModel.with_tensors(source.config, stored, compute).logits(ids)
