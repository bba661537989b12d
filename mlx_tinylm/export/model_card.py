"""The README.md of an exported model: what it is, how good it is, and how each tool loads it."""

from __future__ import annotations

import importlib.metadata
import json
import math
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.export.gguf import GGUF
from mlx_tinylm.model_folder.config import GPT2Config, ModelConfig
from mlx_tinylm.model_folder.folder import ModelFolder
from mlx_tinylm.model_folder.layout import count_parameters
from mlx_tinylm.run_folder.metrics import best_validation
from mlx_tinylm.run_folder.record import RunRecord

CARD = "README.md"


@dataclass(frozen=True)
class Training:
    """What a run recorded about the weights it kept: those of the lowest validation loss, in nats a token."""

    text: str
    characters: int
    step: int
    loss: float

    @classmethod
    def recorded(cls, folder: Path) -> Training | None:
        """What the run in a model folder recorded; None where there was no run, or its record is damaged."""
        try:
            record, best = RunRecord.find(folder), best_validation(folder)
        except TinyLMError:
            return None
        if record is None or best is None:
            return None
        step, loss = best
        return cls(" ".join(record.corpus.name.split())[:100], record.corpus.characters, step, loss)


def model_card(source: ModelFolder, config: ModelConfig, name: str, dtype: str, gguf: bool = False) -> str:
    """The card of the model `name`, made from `source` with the shape `config` and numbers of type `dtype`."""
    training = Training.recorded(source.path)
    characters = source.tokenizer.alphabet is not None
    return "\n".join(
        [
            "---",
            *_front_matter(config, name, training, characters),
            "---",
            "",
            f"# {name}",
            "",
            *_description(source, config, dtype, training),
            "",
            *_loading(config, name, source.tokenizer.example, gguf),
        ]
    )


def _front_matter(config: ModelConfig, name: str, training: Training | None, characters: bool) -> list[str]:
    tags = ["mlx", "mlx-tinylm", config.family, *(["character-level"] if characters else [])]
    lines = ["library_name: mlx", "pipeline_tag: text-generation", "tags:", *(f"- {tag}" for tag in tags)]
    if training and not config.quantization:  # JSON is YAML, and its strings cannot break out of their quotes
        metrics = [{"type": "loss", "name": "validation loss, nats", "value": round(training.loss, 4)}]
        if characters:
            bits = round(training.loss / math.log(2), 4)
            metrics.append({"type": "bits_per_character", "name": "validation bits per character", "value": bits})
        result = {
            "task": {"type": "text-generation"},
            "dataset": {"name": training.text, "type": training.text},
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
    before = ", before it was quantised" if packed else ""
    if training:
        rows += [
            ("trained on", f"{_cell(training.text)}, {training.characters:,} characters"),
            ("training steps", f"{training.step:,}"),
            ("validation loss", f"{training.loss:.4f} nats on the last tenth of the text{before}"),
        ]
        if characters:
            rows.append(("bits per character", f"{training.loss / math.log(2):.4f}{before}"))
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


def _cell(text: str) -> str:
    """Text for a Markdown table, in which nothing of it is markup."""
    return f"`{text.replace('`', chr(39)).replace('|', '/')}`"


def _loading(config: ModelConfig, name: str, prompt: str, gguf: bool) -> list[str]:
    """How each tool that knows this architecture loads the folder, from the folder above it."""
    shell, quoted, call = shlex.quote(name), json.dumps(name), json.dumps(prompt)
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
        blocks.append(("llama.cpp", "sh", f"llama-server --model {shlex.quote(f'{name}/{GGUF}')}"))
    return [line for title, language, code in blocks for line in (f"## {title}", "", f"```{language}", code, "```", "")]
