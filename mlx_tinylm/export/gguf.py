"""A model as one GGUF file, the format of llama.cpp, which has both architectures; written with the `gguf` package."""

from __future__ import annotations

from pathlib import Path

from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.export.gguf_tokenizer import add_tokenizer, check_tokenizer
from mlx_tinylm.model_folder.config import GPT2Config, ModelConfig
from mlx_tinylm.model_folder.layout import transposed
from mlx_tinylm.model_folder.tensor_files import Tensors
from mlx_tinylm.text.tokenizer import Tokenizer

GGUF = "model.gguf"

# What llama.cpp calls the parts of a block, and of a model.
_BLOCK = {
    "gpt2": {
        "ln_1": "attn_norm",
        "attn.c_attn": "attn_qkv",
        "attn.c_proj": "attn_output",
        "ln_2": "ffn_norm",
        "mlp.c_fc": "ffn_up",
        "mlp.c_proj": "ffn_down",
    },
    "qwen3": {
        "input_layernorm": "attn_norm",
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "self_attn.q_norm": "attn_q_norm",
        "self_attn.k_norm": "attn_k_norm",
        "post_attention_layernorm": "ffn_norm",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
    },
}
_MODEL = {
    "wte": "token_embd",
    "model.embed_tokens": "token_embd",
    "wpe": "position_embd",
    "ln_f": "output_norm",
    "model.norm": "output_norm",
    "lm_head": "output",
}

_FILE_TYPE = {"float32": 0, "float16": 1, "bfloat16": 32}  # llama.cpp's LLAMA_FTYPE: what most tensors are


def check_gguf(tokenizer: Tokenizer) -> None:
    """Raise TinyLMError where no GGUF can be written: without the `gguf` package, or if llama.cpp splits otherwise."""
    try:
        import gguf  # noqa: F401
    except ImportError:
        raise TinyLMError("GGUF needs a package that is not installed: pip install 'mlx-tinylm[gguf]'") from None
    check_tokenizer(tokenizer)


def write_gguf(
    path: Path,
    config: ModelConfig,
    tokenizer: Tokenizer,
    tensors: Tensors,
    dtype: str,
    name: str,
    chat_template: str,
) -> None:
    """Write the stored `tensors` of the model `name`, its matrices as `dtype`; vectors and positions stay float32."""
    import gguf

    writer = gguf.GGUFWriter(path, config.family)
    writer.add_name(name)
    writer.add_file_type(_FILE_TYPE[dtype])
    writer.add_context_length(config.context)
    writer.add_embedding_length(config.width)
    writer.add_block_count(config.layers)
    writer.add_head_count(config.heads)
    if isinstance(config, GPT2Config):
        writer.add_feed_forward_length(4 * config.width)
        writer.add_layer_norm_eps(config.norm_eps)
    else:
        writer.add_feed_forward_length(config.hidden)
        writer.add_head_count_kv(config.kv_heads)
        writer.add_key_length(config.head_dim)
        writer.add_value_length(config.head_dim)
        writer.add_rope_freq_base(config.rope_theta)
        writer.add_layer_norm_rms_eps(config.norm_eps)
    add_tokenizer(writer, config, tokenizer)
    writer.add_chat_template(chat_template)
    matrix_type = gguf.GGMLQuantizationType[{"float32": "F32", "float16": "F16", "bfloat16": "BF16"}[dtype]]
    if config.family == "gpt2":
        tensors = transposed(tensors)
    for name, tensor in tensors.items():
        narrow = tensor.ndim == 2 and name != "wpe.weight"
        kind = matrix_type if narrow else gguf.GGMLQuantizationType.F32
        writer.add_tensor(gguf_name(config.family, name), gguf.quants.quantize(tensor, kind), raw_dtype=kind)
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()


def gguf_name(family: str, name: str) -> str:
    """The name of a stored tensor in llama.cpp."""
    stem, kind = name.rsplit(".", 1)
    if stem in _MODEL:
        return f"{_MODEL[stem]}.{kind}"
    _, layer, part = stem.removeprefix("model.").split(".", 2)
    return f"blk.{layer}.{_BLOCK[family][part]}.{kind}"
