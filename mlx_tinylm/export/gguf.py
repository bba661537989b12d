"""A model as one GGUF file, the format of llama.cpp, written with the `gguf` package.

llama.cpp has both architectures and GPT-2's byte-level tokenizer, of which a character tokenizer is a case: each
character is one token, and the bytes of a longer one are merged from left to right.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.model_folder.config import GPT2Config, ModelConfig
from mlx_tinylm.model_folder.layout import transposed
from mlx_tinylm.model_folder.tensor_files import Tensors
from mlx_tinylm.text.tokenizer import END_OF_TEXT, Tokenizer

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
    """Raise TinyLMError where no GGUF can be written: without the `gguf` package, or for another tool's tokenizer."""
    try:
        import gguf  # noqa: F401
    except ImportError:
        raise TinyLMError("GGUF needs a package that is not installed: pip install 'mlx-tinylm[gguf]'") from None
    if tokenizer.alphabet is None:
        raise TinyLMError("only a model that reads character by character can become a GGUF here; leave out --gguf")


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
    _add_tokenizer(writer, config, tokenizer)
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


def _add_tokenizer(writer: Any, config: ModelConfig, tokenizer: Tokenizer) -> None:
    import gguf

    characters = [visible_bytes(character) for character in tokenizer.alphabet or ""]
    tokens = [*characters, END_OF_TEXT]
    tokens += [f"<|unused {id}|>" for id in range(len(tokens), config.vocab_size)]
    kinds = [gguf.TokenType.NORMAL] * len(characters) + [gguf.TokenType.CONTROL] * (len(tokens) - len(characters))
    merges = {f"{c[:place]} {c[place]}": None for c in characters for place in range(1, len(c))}
    writer.add_tokenizer_model("gpt2")
    # Splits nothing that a character needs. With "gpt-2", llama_detokenize takes spaces away: "a , b" became "a, b".
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    # llama.cpp wants at least one merge, so here is one that no text can lead to
    writer.add_token_merges(list(merges) or [f"{END_OF_TEXT} {END_OF_TEXT}"])
    writer.add_eos_token_id(len(characters))
    writer.add_pad_token_id(len(characters))
    writer.add_add_bos_token(False)  # there is none


def visible_bytes(text: str) -> str:
    """The UTF-8 bytes of a text as GPT-2's tokenizer writes them: one visible character each."""
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(0x100) if byte not in visible]
    table = {byte: chr(byte) for byte in visible} | {byte: chr(0x100 + place) for place, byte in enumerate(hidden)}
    return "".join(table[byte] for byte in text.encode("utf-8", "surrogatepass"))
