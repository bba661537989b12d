"""The card of an exported model says what was measured, and promises only what works."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import random_folder
from tiny_models import GPT2, TEXT, with_run

from mlx_tinylm.export.model_card import Training, model_card, sealed_card, sealed_files
from mlx_tinylm.export.read_back import Losses
from mlx_tinylm.integrity import read_sealed, sealed
from mlx_tinylm.model_folder.config import ModelConfig, Quantization
from mlx_tinylm.model_folder.folder import open_folder, shipped_weights
from mlx_tinylm.model_folder.trained_on import TextRecord
from mlx_tinylm.text.named_corpora import NAMED

QUANTISED = replace(GPT2, width=32, quantization=Quantization(4, 32))


def card(folder: Path, config: ModelConfig) -> str:
    source = open_folder(random_folder(folder, config))
    return model_card(source, config, Training.recorded(folder), "my book", "float16", gguf=True)


def test_a_run(tmp_path: Path) -> None:
    """The card gives what the run recorded about the weights it kept: the step of the lowest validation loss."""
    with_run(tmp_path)
    _, front, body = card(tmp_path, GPT2).split("---\n", 2)
    assert "library_name: mlx\npipeline_tag: text-generation\ntags:\n- mlx\n" in front
    (index,) = (line for line in front.splitlines() if line.startswith("model-index: "))
    (model,) = json.loads(index.removeprefix("model-index: "))
    assert model["results"][0]["dataset"]["name"] == 'my "book" | <b> ---'
    assert [metric["value"] for metric in model["results"][0]["metrics"]] == [1.25, 1.8034]
    assert '| trained on | `my "book" / <b> ---`, 12,345 characters |\n| training steps | 20 |' in body
    assert "| validation loss | 1.2500 nats on text held out from training |" in body
    assert "| numbers | float16 |" in body


def test_bits_per_byte(tmp_path: Path) -> None:
    """Where the run recorded its best loss in bits per byte, too, the card has it, for programs as well."""
    with_run(tmp_path)
    assert "bits per byte" not in card(tmp_path, GPT2)
    lines = (
        (tmp_path / "metrics.jsonl")
        .read_text()
        .replace('"val_loss": 1.25', '"val_loss": 1.25, "val_bits_per_byte": 1.75')
    )
    (tmp_path / "metrics.jsonl").write_text(lines)
    text = card(tmp_path, GPT2)
    assert "| bits per byte | 1.7500 |" in text
    assert '{"type": "bits_per_byte", "name": "validation loss, bits per byte", "value": 1.75}' in text
    quantised = card(tmp_path, QUANTISED)
    assert "| bits per byte | 1.7500, before it was quantised |" in quantised
    assert "model-index" not in quantised


def test_a_text_that_is_free(tmp_path: Path) -> None:
    """Weights made from a text in the public domain alone have this project's license; others name none."""
    with_run(tmp_path)
    assert "license:" not in card(tmp_path, GPT2).split("---\n", 2)[1]
    assert "| license | none named: it depends on the text;" in card(tmp_path, GPT2)
    for init_from, free in ((None, True), ("weights/theirs", False)):
        record = read_sealed(tmp_path / "train.json")
        record["corpus"]["sha256"] = NAMED["tinyshakespeare"].sha256
        (tmp_path / "train.json").write_text(sealed(record | {"init_from": init_from}))
        assert ("\nlicense: mit\n" in card(tmp_path, GPT2)) == free
        assert ("| license | MIT, as that of mlx-tinylm; the text is in the" in card(tmp_path, GPT2)) == free


LOSSES = Losses("/home/me/book.txt", "the first 8,192 characters of its held-out tenth", 1.25, 1.5)


@pytest.mark.parametrize("recorded", [True, False])
def test_results_of_a_quantised_model(recorded: bool, tmp_path: Path) -> None:
    """What was measured of the quantised weights themselves is their result, with the part of the text it holds for."""
    alone = Training(TextRecord("book", "", 9), None, None, False)
    training = Training.recorded(with_run(tmp_path)) if recorded else alone
    source = open_folder(random_folder(tmp_path, QUANTISED))
    text = model_card(source, QUANTISED, training, "book", "float16", losses=LOSSES)
    (line,) = (line for line in text.splitlines() if line.startswith("model-index: "))
    ((result,),) = (model["results"] for model in json.loads(line.removeprefix("model-index: ")))
    assert result["dataset"]["name"] == (" ".join(TEXT.split()) if recorded else "book")
    assert "/home/me" not in text  # where the text lies
    assert [(metric["name"], metric["value"]) for metric in result["metrics"]] == [
        (f"loss on {LOSSES.part}, nats", 1.5),
        (f"loss on {LOSSES.part}, bits per character", 2.164),
    ]
    assert f"| loss quantised | 1.5000 nats on {LOSSES.part}, 1.2500 before |" in text


@pytest.mark.parametrize(
    ("context", "prompt", "expected", "length"),
    [
        (1, "HELLO", "H", 1),
        (2, "HELLO", "H", 1),
        (8, "HELLO", "HELL", 4),
        (256, "HELLO", "HELLO", 200),
        (9, "A", "A", 8),
    ],
)
def test_commands_fit_the_context(context: int, prompt: str, expected: str, length: int, tmp_path: Path) -> None:
    """Prompt and text of the tools without a guard of their own fit into the context together."""
    config = replace(GPT2, context=context, vocab_size=60, eos_ids=(59,))
    source = open_folder(random_folder(tmp_path, config))
    text = model_card(source, config, None, "book", "float16", example=prompt)
    assert f'mlx_lm.generate --model book --prompt "{expected}" --max-tokens {length} ' in text
    assert f'tokenizer("{expected}", return_tensors="pt")' in text
    assert f"model.generate(**inputs, max_new_tokens={length}, do_sample=True)" in text


def test_a_quantised_model(tmp_path: Path) -> None:
    """Where nothing was measured, the card says that its figures are from before, and claims none for itself."""
    with_run(tmp_path)
    text = card(tmp_path, QUANTISED)
    assert "1.2500 nats on text held out from training, before it was quantised" in text
    assert "| numbers | 4 bits in groups of 32, the rest float16 |" in text
    assert f"| parameters | {(13 + 8) * 32 + 2 * (12 * 32**2 + 13 * 32) + 2 * 32:,} |" in text
    assert "model-index" not in text


TOOLS = {
    "mlx-tinylm": "generate --weights 'my book' --prompt",
    "NumPy": 'mlx_tinylm.load("my book", backend="numpy")',
    "mlx-lm": "mlx_lm.generate --model 'my book' --prompt",
    "LM Studio": "cp -R 'my book' ~/.lmstudio/models/local/",
    "transformers": 'AutoModelForCausalLM.from_pretrained("my book")',
    "llama.cpp": "llama-server --model 'my book/model.gguf'",
}


@pytest.mark.parametrize(
    ("config", "missing"),
    [(GPT2, set()), (QUANTISED, {"transformers"}), (replace(GPT2, tied=False), {"mlx-lm", "LM Studio"})],
    ids=["plain", "quantised", "untied"],
)
def test_tools(config: ModelConfig, missing: set[str], tmp_path: Path) -> None:
    """The card shows each tool that loads the model: transformers reads no packed matrices, mlx-lm no untied GPT-2."""
    text = card(tmp_path, config)
    assert {name for name, line in TOOLS.items() if line not in text} == missing
    assert "trained on" not in text  # without a run there is nothing to say


DAMAGE: dict[str, Callable[[Path], object]] = {
    "no train.json": lambda folder: (folder / "train.json").unlink(),
    "no JSON": lambda folder: (folder / "train.json").write_text("["),
    "no object": lambda folder: (folder / "train.json").write_text("[]"),
    "edited": lambda folder: (folder / "train.json").write_text(
        (folder / "train.json").read_text().replace("12345", "12346")
    ),
    "no metrics": lambda folder: (folder / "metrics.jsonl").unlink(),
    "empty": lambda folder: (folder / "metrics.jsonl").write_text(""),
    "no lines": lambda folder: (folder / "metrics.jsonl").write_text('{\n[]\n\xff\n{"step": null, "val_loss": 1}\n'),
    "not finite": lambda folder: (folder / "metrics.jsonl").write_text('{"step": 1, "val_loss": NaN}\n'),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_nothing_usable_recorded(damage: Callable[[Path], object], tmp_path: Path) -> None:
    """Without a whole record of a run the card gives no figures, and that is no error."""
    damage(with_run(tmp_path))
    text = card(tmp_path, GPT2)
    assert "validation loss" not in text
    assert "model-index" not in text
    assert ("trained on" in text) == (damage in list(DAMAGE.values())[-4:])  # those that leave train.json


# The seal


def test_a_seal_by_hand(tmp_path: Path) -> None:
    """A sealed card ends in the SHA-256 of what stands above, here as sha256sum gave it, and is known by it."""
    path = tmp_path / "README.md"
    path.write_text(sealed_card("ab\n", ["b", "a"]))
    known = "79f7047299be98dffb96e7762c44f3a67b3f866fb2dfc1707edc168eb82fa97d"  # of "ab", a newline, "a b"
    line = f"<!-- mlx-tinylm export of a b; SHA-256 of that and of the text above: {known} -->"
    assert path.read_text() == f"ab\n{line}\n"
    assert sealed_files(path) == {"a", "b", "README.md"}


EDITS: dict[str, Callable[[str], str]] = {
    "a character": lambda card: card.replace("tiny", "Tiny", 1),
    "a line above": lambda card: f"\n{card}",
    "a line below": lambda card: f"{card}\n",
    "no seal": lambda card: card.rsplit("<!--", 1)[0],
    "nothing": lambda card: "",
    "the seal alone": lambda card: card.splitlines(keepends=True)[-1],
    "not text": lambda card: "\udcff",
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_an_edited_card(edit: Callable[[str], str], tmp_path: Path) -> None:
    """Whatever is changed in a card, it is no longer known as an export's; neither is what is no file."""
    path = tmp_path / "README.md"
    path.write_bytes(edit(sealed_card(card(tmp_path, GPT2), ["a"])).encode("utf-8", "surrogateescape"))
    assert sealed_files(path) is None
    path.unlink()
    assert sealed_files(path) is None
    path.mkdir()
    assert sealed_files(path) is None


def test_the_shipped_card_is_sealed() -> None:
    """The card of the model that ships has lines of its own; after an edit it is sealed anew, with `sealed_card`."""
    assert sealed_files(shipped_weights() / "README.md") == {path.name for path in shipped_weights().iterdir()}
