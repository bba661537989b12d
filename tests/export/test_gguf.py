"""Names and characters as llama.cpp has them; what it makes of a whole file is tested in tests/interop."""

from __future__ import annotations

from tiny_models import every_family

from mlx_tinylm.export.gguf import gguf_name
from mlx_tinylm.model_folder.config import ModelConfig
from mlx_tinylm.model_folder.layout import tensor_shapes

NAMES = {
    "gpt2": {"wpe.weight": "position_embd.weight", "h.1.attn.c_attn.bias": "blk.1.attn_qkv.bias"},
    "qwen3": {
        "model.embed_tokens.weight": "token_embd.weight",
        "model.layers.1.self_attn.q_norm.weight": "blk.1.attn_q_norm.weight",
    },
}


@every_family
def test_names(config: ModelConfig) -> None:
    """Every stored tensor has a name of its own in llama.cpp."""
    names = {name: gguf_name(config.family, name) for name in tensor_shapes(config)}
    assert len(set(names.values())) == len(names)
    assert NAMES[config.family].items() <= names.items()
