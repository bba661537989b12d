"""MLX's affine quantisation of stored tensors: a row in groups of numbers that share one scale and one bias."""

from __future__ import annotations

import mlx.core as mx
import numpy as np

from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.model_folder.config import Quantization
from mlx_tinylm.model_folder.layout import transposed
from mlx_tinylm.model_folder.tensor_files import Tensors

GROUP_SIZES = (64, 32)  # a larger group costs less memory; 64 is what mlx-lm takes


def quantised(tensors: Tensors, bits: int) -> tuple[Tensors, Quantization]:
    """Every matrix packed into `bits` bits a number, as `nn.quantize` does, embeddings included.

    Raises TinyLMError naming a matrix whose input dimension no group size divides.
    """
    result = transposed(tensors)  # (out, in)
    matrices = {name: tensor for name, tensor in result.items() if tensor.ndim == 2}
    group_size = next((n for n in GROUP_SIZES if all(m.shape[1] % n == 0 for m in matrices.values())), None)
    if group_size is None:
        name, inputs = next((name, m.shape[1]) for name, m in matrices.items() if m.shape[1] % GROUP_SIZES[-1])
        raise TinyLMError(
            f"{name} has {inputs} inputs, which groups of {' or '.join(map(str, GROUP_SIZES))} do not divide; "
            "export it without --quantize"
        )
    for name, matrix in matrices.items():
        packed, scales, biases = mx.quantize(mx.array(matrix), group_size=group_size, bits=bits)
        stem = name.removesuffix(".weight")
        result |= {name: np.array(packed), f"{stem}.scales": np.array(scales), f"{stem}.biases": np.array(biases)}
    return result, Quantization(bits, group_size)
