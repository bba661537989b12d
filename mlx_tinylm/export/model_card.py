"""The README.md of an exported model: what it is, how good it is, and how each tool loads it."""

from __future__ import annotations

import importlib.metadata
import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_tinylm.errors import TinyLMError, escaped
from mlx_tinylm.export.loading import loading
from mlx_tinylm.export.read_back import Losses
from mlx_tinylm.files import read
from mlx_tinylm.integrity import digest
from mlx_tinylm.model_folder.config import ModelConfig
from mlx_tinylm.model_folder.folder import ModelFolder
from mlx_tinylm.model_folder.layout import count_parameters
from mlx_tinylm.model_folder.trained_on import TextRecord
from mlx_tinylm.run_folder.metrics import best_validation, bits_per_byte, exact_answers
from mlx_tinylm.run_folder.record import RunRecord
from mlx_tinylm.run_folder.training_text import trained_on
from mlx_tinylm.text.named_corpora import NAMED

CARD = "README.md"
PUBLIC_DOMAIN = {NAMED[name].sha256 for name in ("tinyshakespeare", "shakespeare")}  # of texts
SEAL = "<!-- mlx-tinylm export of {}; SHA-256 of that and of the text above: {} -->\n"


@dataclass(frozen=True)
class Training:
    """What is recorded about a model: its text, and the step and loss of the weights that its run kept."""

    text: TextRecord
    best: tuple[int, float] | None  # in nats a token, the lowest validation loss; None where no run is recorded
    bits_per_byte: float | None  # the same in that measure, where it is recorded
    is_free: bool  # to be published: the text is in the public domain, and the weights began as random numbers
    exact: tuple[int, int] | None = None  # held-out pairs that were answered exactly, and all; None of other text

    @classmethod
    def recorded(cls, folder: Path) -> Training | None:
        """What a model folder says; None where that is nothing, or damaged."""
        try:
            text, record = trained_on(folder), RunRecord.find(folder)
            best = best_validation(folder, record.first_validation if record else 0)
            bits = bits_per_byte(folder, best[0]) if best else None
            exact = exact_answers(folder, best[0]) if best else None
        except TinyLMError:
            return None
        began_here = record is None or record.init_from is None
        return cls(text, best, bits, began_here and text.sha256 in PUBLIC_DOMAIN, exact) if text else None


def sealed_card(text: str, files: Iterable[str]) -> str:
    """A card with a last line by which `sealed_files` knows it, and the names of the files beside it."""
    names = " ".join(sorted(files))
    return text + SEAL.format(names, digest(f"{text}{names}".encode()))


def sealed_files(path: Path) -> set[str] | None:
    """The files that an export wrote beside its card; None where there is no card as `sealed_card` gave it."""
    try:
        content = read(path).decode()
    except (TinyLMError, UnicodeDecodeError):
        return None
    found = re.fullmatch(
        r"(.*\n|)<!-- mlx-tinylm export of (.*); SHA-256 of that and of the text above: .*\n", content, re.S
    )
    if found is None or content != sealed_card(found[1], found[2].split()):
        return None
    return {CARD, *found[2].split()}


def model_card(
    source: ModelFolder,
    config: ModelConfig,
    training: Training | None,
    name: str,
    dtype: str,
    gguf: bool = False,
    example: str = "",
    losses: Losses | None = None,
) -> str:
    """The card of the model in the folder `name`, made from `source` with the shape `config` and the type `dtype`.

    `example` is the prompt in its commands, if the text that the model was trained on has one; `losses` are of that
    text, where it is at hand.
    """
    characters = source.tokenizer.alphabet is not None
    return "\n".join(
        [
            "---",
            *_front_matter(config, escaped(name, keep=""), training, characters, losses),
            "---",
            "",
            f"# {escaped(name, keep='')}",
            "",
            *_description(source, config, dtype, training, losses),
            "",
            *loading(config, source.tokenizer, name, example or source.tokenizer.example, gguf),
        ]
    )


def _front_matter(
    config: ModelConfig, name: str, training: Training | None, characters: bool, losses: Losses | None
) -> list[str]:
    tags = ["mlx", "mlx-tinylm", config.family, *(["character-level"] if characters else [])]
    lines = ["library_name: mlx", "pipeline_tag: text-generation", "tags:", *(f"- {tag}" for tag in tags)]
    if training and training.is_free:
        lines.append("license: mit")
    if measured := _measured(config, training, losses):
        text, what, loss = measured
        metrics = [{"type": "loss", "name": f"{what}, nats", "value": round(loss, 4)}]
        if characters and not (training and training.text.pairs):  # the end of a text is no character
            bits = round(loss / math.log(2), 4)
            metrics.append({"type": "bits_per_character", "name": f"{what}, bits per character", "value": bits})
        if training and training.bits_per_byte is not None and not config.quantization:
            bits = round(training.bits_per_byte, 4)
            metrics.append({"type": "bits_per_byte", "name": f"{what}, bits per byte", "value": bits})
        result = {
            "task": {"type": "text-generation"},
            "dataset": {"name": text, "type": text},
            "metrics": metrics,
        }  # JSON is YAML, and its strings cannot break out of their quotes
        lines.append(f"model-index: {json.dumps([{'name': name, 'results': [result]}])}")
    return lines


def _measured(config: ModelConfig, training: Training | None, losses: Losses | None) -> tuple[str, str, float] | None:
    """The text, what was measured on it, and the loss in nats of these very weights; None where that is not known."""
    if training is None:
        return None
    name = _one_line(training.text.name)  # `losses` says where that text lies, which is nobody else's business
    if training.best and not config.quantization:
        return name, "validation loss", training.best[1]
    return (name, f"loss on {losses.part}", losses.after) if losses else None


def _description(
    source: ModelFolder, config: ModelConfig, dtype: str, training: Training | None, losses: Losses | None
) -> list[str]:
    characters = source.tokenizer.alphabet
    packed = config.quantization
    numbers = f"{packed.bits} bits in groups of {packed.group_size}, the rest {dtype}" if packed else dtype
    rows: list[tuple[str, Any]] = [
        ("architecture", f"{config.family}, {config.layers} layers, {config.heads} heads, width {config.width}"),
        ("parameters", f"{count_parameters(config):,}"),
        ("context", f"{config.context:,} {source.tokenizer.unit}"),
        ("vocabulary", f"{config.vocab_size:,} ids: {source.tokenizer.kind}"),
        ("numbers", numbers),
    ]
    if training:
        text = f"`{_one_line(training.text.name).replace('`', chr(39)).replace('|', '/')}`"  # nothing of it is markup
        pairs = f"{training.text.pairs:,} pairs, " if training.text.pairs else ""
        rows.append(("trained on", f"{text}, {pairs}{training.text.characters:,} characters"))
    if training and training.best:
        step, loss = training.best
        before = ", before it was quantised" if packed else ""
        rows.append(("training steps", f"{step:,}"))
        where = "the completions of held-out pairs" if training.text.pairs else "text held out from training"
        rows.append(("validation loss", f"{loss:.4f} nats on {where}{before}"))
        if training.exact:
            exact, asked = training.exact
            rows.append(("exact answers", f"{exact:,} of {asked:,} held-out pairs{before}"))
        if characters and not training.text.pairs:
            rows.append(("bits per character", f"{loss / math.log(2):.4f}{before}"))
        if training.bits_per_byte is not None:
            rows.append(("bits per byte", f"{training.bits_per_byte:.4f}{before}"))
    if packed and losses:
        rows.append(("loss quantised", f"{losses.after:.4f} nats on {losses.part}, {losses.before:.4f} before"))
    if training and training.is_free:
        rows.append(("license", "MIT, as that of mlx-tinylm; the text is in the public domain"))
    elif training:
        rows.append(("license", "none named: it depends on the text; name one above, as `license:`, to publish this"))
    version = importlib.metadata.version("mlx-tinylm")
    what = "character by character" if characters else "token by token"
    return [
        f"A tiny language model that writes {what}, exported with mlx-tinylm {version}.",
        "It completes prompts like those that it was trained on, and nothing else."
        if training and training.text.pairs
        else "It goes on from a text; it does not answer questions.",
        "",
        "| | |",
        "|---|---|",
        *(f"| {key} | {value} |" for key, value in rows),
    ]


def _one_line(name: str) -> str:
    return escaped(" ".join(name.split()), keep="")[:100]
