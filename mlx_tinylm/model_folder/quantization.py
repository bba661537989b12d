"""MLX's affine quantisation (`mlx.core.quantize`), undone: w = scale * q + bias, one of both for a group of a row.

Shapes: O rows (output), I columns (input), P = 32 / bits numbers in one packed uint32.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mlx_tinylm.model_folder.config import Quantization
from mlx_tinylm.model_folder.layout import transposed
from mlx_tinylm.model_folder.tensor_files import Tensors


def dequantised(tensors: Tensors, quantization: Quantization) -> Tensors:
    """The same tensors in the layout of a model that is not quantised.

    Each weight, scales and biases of a quantised matrix become one float32 weight.
    """
    result = dict(tensors)
    for scales in [name for name in tensors if name.endswith(".scales")]:
        name = scales.removesuffix(".scales")
        packed = result.pop(f"{name}.weight")
        weight = dequantise(packed, result.pop(scales), result.pop(f"{name}.biases"), quantization)
        result |= transposed({f"{name}.weight": weight})  # GPT-2: quantised (out, in), else (in, out)
    return result


def dequantise(
    packed: npt.NDArray[np.uint32],
    scales: npt.NDArray[np.float32],
    biases: npt.NDArray[np.float32],
    quantization: Quantization,
) -> npt.NDArray[np.float32]:
    """(O, I / P), (O, I / group), (O, I / group) -> (O, I); the first number is in the lowest bits."""
    bits, group = quantization.bits, quantization.group_size
    shifts = np.arange(0, 32, bits, dtype=np.uint32)
    q = (packed[..., None] >> shifts) & np.uint32(2**bits - 1)  # (O, I / P, P)
    q = q.reshape(*scales.shape, group).astype(np.float32)
    w: npt.NDArray[np.float32] = q * scales[..., None] + biases[..., None]
    return w.reshape(len(packed), -1)
