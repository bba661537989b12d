"""The layout of model.safetensors: the name and shape of every stored tensor, as Hugging Face and mlx-lm know them."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from mlx_tinylm.model_folder.config import GPT2Config, ModelConfig, Qwen3Config
from mlx_tinylm.model_folder.tensor_files import Tensors

Shape = tuple[int, ...]


def tensor_shapes(config: ModelConfig) -> dict[str, Shape]:
    """The name and shape of every stored tensor of a model.

    Of a quantised one, a matrix is its packed weight, scales and biases. A matrix whose input dimension no whole
    number of groups fills stays as it is, as in mlx-lm and `models.build`.
    """
    if isinstance(config, GPT2Config):
        matrices, vectors = _gpt2_shapes(config)
    else:
        matrices, vectors = _qwen3_shapes(config)
    shapes = dict(vectors)
    for name, (rows, columns) in matrices.items():
        # a quantised GPT-2 matrix is stored (out, in) like any other, packed along the input dimension
        out, into = (columns, rows) if _is_transposed(f"{name}.weight") else (rows, columns)
        if config.quantization is None or into % config.quantization.group_size:
            shapes[f"{name}.weight"] = (rows, columns)
        else:
            bits, group = config.quantization.bits, config.quantization.group_size
            shapes[f"{name}.weight"] = (out, into * bits // 32)
            shapes[f"{name}.scales"] = shapes[f"{name}.biases"] = (out, into // group)
    return shapes


def count_parameters(config: ModelConfig) -> int:
    """How many numbers were trained, however they are stored."""
    shapes = tensor_shapes(dataclasses.replace(config, quantization=None))
    return sum(math.prod(shape) for shape in shapes.values())


def _gpt2_shapes(c: GPT2Config) -> tuple[dict[str, tuple[int, int]], dict[str, Shape]]:
    D = c.width
    matrices = {"wte": (c.vocab_size, D), "wpe": (c.context, D)}
    vectors: dict[str, Shape] = {"ln_f.weight": (D,), "ln_f.bias": (D,)}
    for layer in range(c.layers):
        h = f"h.{layer}"
        linears = {
            "attn.c_attn": (D, 3 * D),
            "attn.c_proj": (D, D),
            "mlp.c_fc": (D, 4 * D),
            "mlp.c_proj": (4 * D, D),
        }
        for name, shape in linears.items():
            matrices[f"{h}.{name}"] = shape
            vectors[f"{h}.{name}.bias"] = (shape[1],)
        for norm in ("ln_1", "ln_2"):
            vectors[f"{h}.{norm}.weight"] = vectors[f"{h}.{norm}.bias"] = (D,)
    if not c.tied:
        matrices["lm_head"] = (c.vocab_size, D)
    return matrices, vectors


def _qwen3_shapes(c: Qwen3Config) -> tuple[dict[str, tuple[int, int]], dict[str, Shape]]:
    D, Q, G = c.width, c.heads * c.head_dim, c.kv_heads * c.head_dim
    matrices = {"model.embed_tokens": (c.vocab_size, D)}
    vectors: dict[str, Shape] = {"model.norm.weight": (D,)}
    for layer in range(c.layers):
        h = f"model.layers.{layer}"
        matrices |= {
            f"{h}.self_attn.q_proj": (Q, D),
            f"{h}.self_attn.k_proj": (G, D),
            f"{h}.self_attn.v_proj": (G, D),
            f"{h}.self_attn.o_proj": (D, Q),
            f"{h}.mlp.gate_proj": (c.hidden, D),
            f"{h}.mlp.up_proj": (c.hidden, D),
            f"{h}.mlp.down_proj": (D, c.hidden),
        }
        vectors |= {
            f"{h}.input_layernorm.weight": (D,),
            f"{h}.post_attention_layernorm.weight": (D,),
            f"{h}.self_attn.q_norm.weight": (c.head_dim,),
            f"{h}.self_attn.k_norm.weight": (c.head_dim,),
        }
    if not c.tied:
        matrices["lm_head"] = (c.vocab_size, D)
    return matrices, vectors


def transposed(tensors: Tensors) -> Tensors:
    """Turn GPT-2's four matrices a block between the stored (in, out) and the Linear layer's (out, in)."""
    return {
        name: tensor.T if _is_transposed(name) and tensor.dtype != np.uint32 else tensor
        for name, tensor in tensors.items()
    }


def _is_transposed(name: str) -> bool:
    return name.endswith((".c_attn.weight", ".c_proj.weight", ".c_fc.weight"))
