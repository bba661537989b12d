"""Train a tiny language model from scratch with Apple MLX, and use it anywhere.

import mlx_tinylm
model, tokenizer = mlx_tinylm.load("weights/shakespeare")
for text in mlx_tinylm.stream_generate(model, tokenizer, "ROMEO:", max_tokens=200):
    print(text, end="", flush=True)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlx_tinylm.backend.choose import load
    from mlx_tinylm.errors import TinyLMError
    from mlx_tinylm.generation import generate, stream_generate
    from mlx_tinylm.sampling import SampleConfig

__version__ = "0.1.0"
__all__ = ["SampleConfig", "TinyLMError", "__version__", "generate", "load", "stream_generate"]

_HOMES = {
    "SampleConfig": "sampling",
    "TinyLMError": "errors",
    "generate": "generation",
    "load": "backend.choose",
    "stream_generate": "generation",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for only when it is asked for, so that `import mlx_tinylm` stays fast (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
