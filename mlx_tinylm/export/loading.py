"""How each tool loads an exported model: the commands of its card, each of which works as it stands."""

from __future__ import annotations

import json
import os
import shlex

from mlx_tinylm.errors import escaped
from mlx_tinylm.export.gguf import GGUF
from mlx_tinylm.model_folder.config import GPT2Config, ModelConfig
from mlx_tinylm.text.tokenizer import Tokenizer

LENGTH = 200  # ids, where the context has room for them


def _shell(name: str) -> str:
    """The name of a file for a shell; what does not print, or is no UTF-8, as bash and zsh write it."""
    if escaped(name, keep="") == name:
        return shlex.quote(name)
    return "$'" + "".join(f"\\{byte:03o}" for byte in os.fsencode(name)) + "'"


def loading(config: ModelConfig, tokenizer: Tokenizer, name: str, prompt: str, gguf: bool) -> list[str]:
    """How each tool that knows this architecture loads the folder `name`, from the folder above it.

    Where a tool has no guard of its own, prompt and text fit into the context: past it, transformers' GPT-2 raises
    IndexError, and mlx-lm's writes nothing.
    """
    while len(prompt) > 1 and len(tokenizer.encode(prompt)) > config.context // 2:
        prompt = prompt[:-1]
    length = max(1, min(LENGTH, config.context - len(tokenizer.encode(prompt))))
    shell, quoted, call = _shell(name), json.dumps(name), json.dumps(prompt)
    blocks = [
        (
            "mlx-tinylm, on MLX or where there is none on NumPy",
            "sh",
            f"mlx-tinylm generate --weights {shell} --prompt {call}\n"
            f"mlx-tinylm generate --weights {shell} --prompt {call} --backend numpy",
        ),
        (
            "NumPy from Python",
            "python",
            "import mlx_tinylm\n\n"
            f'model, tokenizer = mlx_tinylm.load({quoted}, backend="numpy")\n'
            f"print(mlx_tinylm.generate(model, tokenizer, {call}, max_tokens={LENGTH}))",
        ),
    ]
    if not isinstance(config, GPT2Config) or config.tied:  # mlx-lm knows no GPT-2 with a head of its own
        options = f"--max-tokens {length} --ignore-chat-template"
        blocks.append(("mlx-lm", "sh", f"mlx_lm.generate --model {shell} --prompt {call} {options}"))
        blocks.append(
            (
                "LM Studio, on a Mac with Apple silicon",
                "sh",
                f"mkdir -p ~/.lmstudio/models/local && cp -R {shell} ~/.lmstudio/models/local/",
            )
        )
    if config.quantization is None:  # transformers does not read MLX's packed matrices
        blocks.append(
            (
                "transformers",
                "python",
                "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
                f"tokenizer = AutoTokenizer.from_pretrained({quoted})\n"
                f"model = AutoModelForCausalLM.from_pretrained({quoted})\n"
                f'inputs = tokenizer({call}, return_tensors="pt")\n'
                f"ids = model.generate(**inputs, max_new_tokens={length}, do_sample=True)[0]\n"
                "print(tokenizer.decode(ids, skip_special_tokens=True))",
            )
        )
    if gguf:
        blocks.append(("llama.cpp", "sh", f"llama-server --model {_shell(f'{name}/{GGUF}')}"))
    return [line for title, language, code in blocks for line in (f"## {title}", "", f"```{language}", code, "```", "")]
