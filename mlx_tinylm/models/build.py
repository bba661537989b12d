"""A model of a configured shape, and its weights from the stored tensors."""

from typing import TypeAlias

import mlx.core as mx
import mlx.nn as nn

from mlx_tinylm.model_folder.config import GPT2Config, ModelConfig
from mlx_tinylm.model_folder.layout import transposed
from mlx_tinylm.model_folder.tensor_files import Tensors
from mlx_tinylm.models.gpt2 import GPT2
from mlx_tinylm.models.qwen3 import Qwen3

Model: TypeAlias = GPT2 | Qwen3


def build(config: ModelConfig, dropout: float = 0.0) -> Model:
    """A model of the shape `config` describes; its weights are MLX's defaults until loaded or initialised.

    `dropout` is the part of the activations that is dropped where the model is called with `dropout_keys`.
    """
    model: Model = GPT2(config, dropout) if isinstance(config, GPT2Config) else Qwen3(config, dropout)
    if config.quantization:
        group, bits = config.quantization.group_size, config.quantization.bits
        nn.quantize(model, group, bits, class_predicate=lambda _, layer: is_quantisable(layer, group))
    return model


def load_stored(model: Model, tensors: Tensors) -> None:
    """Fill in tensors in the stored layout, all of the model's."""
    stored = transposed(tensors) if model.config.family == "gpt2" else tensors
    model.load_weights([(name, mx.array(tensor)) for name, tensor in stored.items()])


def is_quantisable(layer: nn.Module, group_size: int) -> bool:
    """Whether `layer` is a matrix whose rows whole groups fill; mlx-lm leaves the others as they are, too."""
    return hasattr(layer, "to_quantized") and layer.weight.shape[-1] % group_size == 0
