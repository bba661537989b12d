"""The model families in MLX. Whoever needs MLX comes through here, so fast products are set up first."""

# ruff: noqa: E402  (the library with fast matrix products must be loaded before MLX is)
from mlx_tinylm.platform_blas import use_fast_blas

use_fast_blas()

import mlx.core as mx
import mlx.nn as nn

from mlx_tinylm.config import GPT2Config, ModelConfig
from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.layout import transposed
from mlx_tinylm.models.gpt2 import GPT2
from mlx_tinylm.models.lanes import take_turns
from mlx_tinylm.models.qwen3 import Qwen3
from mlx_tinylm.tensor_files import Tensors


def build(config: ModelConfig, dropout: float = 0.0) -> GPT2 | Qwen3:
    """A model of the shape `config` describes; its weights are MLX's defaults until loaded or initialised."""
    model = GPT2(config, dropout) if isinstance(config, GPT2Config) else Qwen3(config, dropout)
    if config.quantization:
        group, bits = config.quantization.group_size, config.quantization.bits
        nn.quantize(model, group, bits, class_predicate=lambda _, layer: is_quantisable(layer, group))
    model.eval()
    return model


def load_stored(model: GPT2 | Qwen3, tensors: Tensors) -> None:
    """Fill in tensors in the stored layout, all of the model's."""
    stored = transposed(tensors) if model.config.family == "gpt2" else tensors
    model.load_weights([(name, mx.array(tensor)) for name, tensor in stored.items()])


def is_quantisable(layer: nn.Module, group_size: int) -> bool:
    """Whether `layer` is a matrix whose rows whole groups fill; mlx-lm leaves the others as they are, too."""
    return hasattr(layer, "to_quantized") and layer.weight.shape[-1] % group_size == 0


def use_device(name: str) -> None:
    """Compute on the "cpu" or the "gpu" from now on, or where MLX does by itself ("auto")."""
    if name != "auto":
        if not mx.is_available(mx.Device(getattr(mx, name), 0)):
            raise TinyLMError(f"MLX has no {name} here; leave out --device")
        mx.set_default_device(getattr(mx, name))
    take_turns()
