"""A clean copy of a model folder to publish: in a chosen type of numbers, without training state, and verified."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from mlx_tinylm.backend.devices import MLX_MISSING, prepare_if_possible
from mlx_tinylm.checks import check
from mlx_tinylm.errors import TinyLMError, escaped
from mlx_tinylm.export.gguf import GGUF, check_gguf, write_gguf
from mlx_tinylm.export.model_card import CARD, Training, model_card, sealed_card
from mlx_tinylm.export.read_back import Losses, logits_apart, losses
from mlx_tinylm.export.target import OWN_FILES, check_target
from mlx_tinylm.export.tokenizer_files import bring_tokenizer_files
from mlx_tinylm.files import filled_folder, flush, read_json, write_atomically
from mlx_tinylm.model_folder.config import GPT2Config, ModelConfig
from mlx_tinylm.model_folder.folder import MLX_LM_PREFIX, WEIGHTS, open_folder, write_folder
from mlx_tinylm.model_folder.quantization import dequantised
from mlx_tinylm.model_folder.tensor_files import FLOATS, Tensors, write_tensors
from mlx_tinylm.run_folder.training_text import text_at_hand
from mlx_tinylm.text.tokenizer import TOKENIZER_CONFIG

BITS = (8, 4)

# The largest logit difference allowed, over the standard deviation of the source's logits. Largest measured over 17
# models, a trained one and random ones of both families with 1 to 12 layers and widths 32 to 256, 256 ids each:
# 1.4e-5 (the two back ends add in another order), 1.0e-2, 0.11; 0.18 and 2.6 with the matrices in 8 and 4 bits.
# Logits that have nothing to do with each other differ by about 7.
TOLERANCE = {"float32": 5e-4, "float16": 5e-2, "bfloat16": 0.5, 8: 0.8, 4: 4.0}


@dataclass(frozen=True)
class Exported:
    """A model folder as it was written and verified; `difference` is the largest between two logits."""

    folder: Path
    bytes: int
    difference: float
    spread: float  # standard deviation of the source's logits
    losses: Losses | None  # of the text it was trained on, where that is at hand


def export(
    weights: Path,
    out: Path,
    dtype: str | None = None,
    quantize: int | None = None,
    force: bool = False,
    gguf: bool = False,
) -> Exported:
    """Write the model in `weights` to the folder `out`, its numbers as `dtype`, its matrices in `quantize` bits.

    Without `dtype`, numbers are float32, beside quantised matrices float16, as mlx-lm has them.
    With `gguf`, also as one file for llama.cpp, which has its own ways to quantise.
    A quantised source is dequantised first. The new folder is opened on the NumPy back end, and its logits are compared
    with the source's, from MLX where it is installed. Raises TinyLMError, and leaves nothing, where they differ by more
    than `dtype` and `quantize` explain, a number is too large for `dtype`, a matrix cannot be quantised, or `out` has
    something in it and not `force`; `force` replaces the files of an earlier export, and nothing else.
    """
    dtype = dtype or ("float16" if quantize else "float32")
    check(dtype in FLOATS, f"no type {dtype!r}; there are {', '.join(FLOATS)}")
    check(quantize is None or quantize in BITS, f"quantize must be {' or '.join(map(str, BITS))}, not {quantize}")
    check(quantize is None or prepare_if_possible() is not None, f"to quantise needs MLX. {MLX_MISSING}")
    check(not (quantize and gguf), "a GGUF is not quantised here; llama.cpp's llama-quantize does that")
    source = open_folder(weights)
    if gguf:
        check_gguf(source.tokenizer)
    check_target(weights, out, force)
    # Read once: a run that goes on may replace the file at any moment.
    stored = source.tensors()
    config, tensors = source.config, stored
    if config.quantization:
        tensors = dequantised(tensors, config.quantization)
        config = dataclasses.replace(config, quantization=None)
    if quantize:
        config, tensors = _quantised(config, tensors, quantize)
    training, corpus, name = Training.recorded(weights), text_at_hand(weights), out.resolve().name
    example = corpus.first_words() if corpus else ""
    with filled_folder(out, OWN_FILES) as folder:
        write_folder(folder, config, source.tokenizer, dtype, training.text if training else None)
        write_tensors(folder / WEIGHTS, tensors, dtype)
        bring_tokenizer_files(weights, folder, source.tokenizer)
        if gguf:
            template = read_json(folder / TOKENIZER_CONFIG)["chat_template"]
            write_gguf(folder / GGUF, config, source.tokenizer, tensors, dtype, escaped(name), template)
            flush(folder / GGUF)
        difference, spread = logits_apart(source, stored, folder)
        allowed = TOLERANCE[quantize or dtype] * spread
        if not difference <= allowed:
            raise TinyLMError(
                f"{out}: not written: read back, its logits differ from those of {weights} by up to {difference:.2g}, "
                f"where {allowed:.2g} is the most to expect; choose another --dtype or leave out --quantize"
            )
        measured = losses(source, stored, folder, corpus) if corpus else None
        card = model_card(source, config, training, name, dtype, gguf, example, measured)
        write_atomically(folder / CARD, sealed_card(card, [path.name for path in folder.iterdir()]))
        size = sum(file.stat().st_size for file in folder.iterdir())
    return Exported(out, size, difference, spread, measured)


def _quantised(config: ModelConfig, tensors: Tensors, bits: int) -> tuple[ModelConfig, Tensors]:
    from mlx_tinylm.export.quantize import quantised

    tensors, quantization = quantised(tensors, bits)
    if isinstance(config, GPT2Config):
        # mlx-lm transposes the matrices of a GPT-2 without this prefix, and cannot transpose packed ones.
        tensors = {f"{MLX_LM_PREFIX}{name}": tensor for name, tensor in tensors.items()}
    return dataclasses.replace(config, quantization=quantization), tensors
