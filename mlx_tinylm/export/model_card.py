"""The README.md of an exported model: what it is, how good it is, and how each tool loads it."""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_tinylm.errors import TinyLMError, escaped
from mlx_tinylm.export.gguf import GGUF
from mlx_tinylm.files import read
from mlx_tinylm.integrity import digest
from mlx_tinylm.model_folder.config import GPT2Config, ModelConfig
from mlx_tinylm.model_folder.folder import ModelFolder
from mlx_tinylm.model_folder.layout import count_parameters
from mlx_tinylm.model_folder.trained_on import TextRecord
from mlx_tinylm.run_folder.metrics import best_validation
from mlx_tinylm.run_folder.record import RunRecord
from mlx_tinylm.run_folder.training_text import trained_on

CARD = "README.md"
SEAL = "<!-- mlx-tinylm export, SHA-256 of the text above: {} -->\n"


@dataclass(frozen=True)
class Training:
    """What is recorded about a model: its text, and the step and loss of the weights that its run kept."""

    text: TextRecord
    best: tuple[int, float] | None  # in nats a token, the lowest validation loss; None where no run is recorded

    @classmethod
    def recorded(cls, folder: Path) -> Training | None:
        """What a model folder says; None where that is nothing, or damaged."""
        try:
            text, record = trained_on(folder), RunRecord.find(folder)
            best = best_validation(folder, record.first_validation if record else 0)
        except TinyLMError:
            return None
        return cls(text, best) if text else None


def sealed_card(text: str) -> str:
    """A card with a last line by which `is_sealed` knows it."""
    return text + SEAL.format(digest(text.encode()))


def is_sealed(path: Path) -> bool:
    """Whether a file is there and is a card as `sealed_card` gave it: an export's, with nothing changed since."""
    try:
        content = read(path)
    except TinyLMError:
        return False
    text = b"".join(content.splitlines(keepends=True)[:-1])
    return content == text + SEAL.format(digest(text)).encode()


def model_card(
    source: ModelFolder,
    config: ModelConfig,
    training: Training | None,
    name: str,
    dtype: str,
    gguf: bool = False,
    example: str = "",
) -> str:
    """The card of the model in the folder `name`, made from `source` with the shape `config` and the type `dtype`.

    `example` is the prompt in its commands, if the text that the model was trained on has one.
    """
    characters = source.tokenizer.alphabet is not None
    return "\n".join(
        [
            "---",
            *_front_matter(config, escaped(name, keep=""), training, characters),
            "---",
            "",
            f"# {escaped(name, keep='')}",
            "",
            *_description(source, config, dtype, training),
            "",
            *_loading(config, name, example or source.tokenizer.example, gguf),
        ]
    )


def _front_matter(config: ModelConfig, name: str, training: Training | None, characters: bool) -> list[str]:
    tags = ["mlx", "mlx-tinylm", config.family, *(["character-level"] if characters else [])]
    lines = ["library_name: mlx", "pipeline_tag: text-generation", "tags:", *(f"- {tag}" for tag in tags)]
    if (
        training and training.best and not config.quantization
    ):  # JSON is YAML, and its strings cannot break out of their quotes
        text, (_, loss) = _one_line(training.text.name), training.best
        metrics = [{"type": "loss", "name": "validation loss, nats", "value": round(loss, 4)}]
        if characters:
            bits = round(loss / math.log(2), 4)
            metrics.append({"type": "bits_per_character", "name": "validation bits per character", "value": bits})
        result = {
            "task": {"type": "text-generation"},
            "dataset": {"name": text, "type": text},
            "metrics": metrics,
        }
        lines.append(f"model-index: {json.dumps([{'name': name, 'results': [result]}])}")
    return lines


def _description(source: ModelFolder, config: ModelConfig, dtype: str, training: Training | None) -> list[str]:
    characters = source.tokenizer.alphabet
    packed = config.quantization
    numbers = f"{packed.bits} bits in groups of {packed.group_size}, the rest {dtype}" if packed else dtype
    rows: list[tuple[str, Any]] = [
        ("architecture", f"{config.family}, {config.layers} layers, {config.heads} heads, width {config.width}"),
        ("parameters", f"{count_parameters(config):,}"),
        ("context", f"{config.context:,} {'characters' if characters else 'tokens'}"),
        ("vocabulary", f"{config.vocab_size:,} ids"),
        ("numbers", numbers),
    ]
    if training:
        text = f"`{_one_line(training.text.name).replace('`', chr(39)).replace('|', '/')}`"  # nothing of it is markup
        rows.append(("trained on", f"{text}, {training.text.characters:,} characters"))
    if training and training.best:
        step, loss = training.best
        before = ", before it was quantised" if packed else ""
        rows.append(("training steps", f"{step:,}"))
        rows.append(("validation loss", f"{loss:.4f} nats on the last tenth of the text{before}"))
        if characters:
            rows.append(("bits per character", f"{loss / math.log(2):.4f}{before}"))
    version = importlib.metadata.version("mlx-tinylm")
    what = "character by character" if characters else "token by token"
    return [
        f"A tiny language model that writes {what}, exported with mlx-tinylm {version}.",
        "It goes on from a text; it does not answer questions.",
        "",
        "| | |",
        "|---|---|",
        *(f"| {key} | {value} |" for key, value in rows),
    ]


def _one_line(name: str) -> str:
    return escaped(" ".join(name.split()), keep="")[:100]


def _shell(name: str) -> str:
    """The name of a file for a shell; what does not print, or is no UTF-8, as bash and zsh write it."""
    if escaped(name, keep="") == name:
        return shlex.quote(name)
    return "$'" + "".join(f"\\{byte:03o}" for byte in os.fsencode(name)) + "'"


def _loading(config: ModelConfig, name: str, prompt: str, gguf: bool) -> list[str]:
    """How each tool that knows this architecture loads the folder, from the folder above it."""
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
            f"print(mlx_tinylm.generate(model, tokenizer, {call}, max_tokens=200))",
        ),
    ]
    if not isinstance(config, GPT2Config) or config.tied:  # mlx-lm knows no GPT-2 with a head of its own
        blocks.append(("mlx-lm", "sh", f"mlx_lm.generate --model {shell} --prompt {call} --ignore-chat-template"))
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
                "ids = model.generate(**inputs, max_new_tokens=200, do_sample=True)[0]\n"
                "print(tokenizer.decode(ids, skip_special_tokens=True))",
            )
        )
    if gguf:
        blocks.append(("llama.cpp", "sh", f"llama-server --model {_shell(f'{name}/{GGUF}')}"))
    return [line for title, language, code in blocks for line in (f"## {title}", "", f"```{language}", code, "```", "")]
