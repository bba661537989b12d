"""MLX's affine quantisation (`mlx.core.quantize`), undone: w = scale * q + bias, one of both for a group of a row.

Shapes: O rows (output), I columns (input), W = I x bits / 32 packed uint32 in a row.
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
    """(O, W), (O, I / group), (O, I / group) -> (O, I); the first number is in the lowest bits of the first word.

    Numbers of 3, 5 or 6 bits lie across words: eight numbers take as many bytes as one has bits.
    """
    bits, group = quantization.bits, quantization.group_size
    columns = scales.shape[1] * group
    eight = np.zeros((len(packed), columns // 8, 8), np.uint8)  # the bytes of eight numbers, as one uint64
    eight[..., :bits] = np.ascontiguousarray(packed, "<u4").view(np.uint8).reshape(*eight.shape[:2], bits)
    words = eight.view("<u8")[..., 0]  # (O, I / 8)
    w = np.empty(eight.shape, np.float32)
    for place in range(8):
        w[..., place] = (words >> np.uint64(place * bits)) & np.uint64(2**bits - 1)
    w = w.reshape(*scales.shape, group)
    w *= scales[..., None]
    w += biases[..., None]
    return w.reshape(len(packed), columns)
