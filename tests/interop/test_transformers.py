"""What people do with transformers and an exported folder: chats, batches, a Trainer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from other_tools import exported, torch_logits, transformers

from mlx_tinylm.backend.choose import load
from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.export.folder import export
from mlx_tinylm.generation import generate

LENGTH = 30
PROMPTS = ["ROMEO:", "A", "To be or not to b"]


@pytest.fixture(scope="module", params=["gpt2", "qwen3"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A float32 export."""
    return exported(request.param, tmp_path_factory.mktemp(request.param))


def greedy(folder: Path, prompt: str) -> str:
    model, tokenizer = load(folder, "numpy")
    return generate(model, tokenizer, prompt, max_tokens=LENGTH, temperature=0)


def pipeline(folder: Path) -> Any:
    return transformers.pipeline("text-generation", model=str(folder))


def test_chat(folder: Path) -> None:
    """A pipeline goes on from the contents of messages, in our greedy text."""
    messages = [{"role": "system", "content": "RO"}, {"role": "user", "content": "MEO:"}]
    (answer,) = pipeline(folder)(messages, max_new_tokens=LENGTH, do_sample=False)
    assert answer["generated_text"][-1] == {"role": "assistant", "content": greedy(folder, "ROMEO:")}


def test_a_batch(folder: Path) -> None:
    """Prompts of different lengths are padded into one batch, and each gets our greedy text."""
    answers = pipeline(folder)(PROMPTS, batch_size=len(PROMPTS), max_new_tokens=LENGTH, do_sample=False)
    assert [answer["generated_text"] for (answer,) in answers] == [p + greedy(folder, p) for p in PROMPTS]


def test_inputs(folder: Path) -> None:
    """The tokenizer hands over what both families take, and nothing else: version 4 refuses token_type_ids."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    assert tokenizer.model_input_names == ["input_ids", "attention_mask"]
    batch = tokenizer(PROMPTS, padding=True, return_tensors="pt")
    assert set(batch) == {"input_ids", "attention_mask"}
    assert batch["attention_mask"].sum(1).tolist() == [len(prompt) for prompt in PROMPTS]


def test_trainer(folder: Path, tmp_path: Path) -> None:
    """A model that Trainer trained, with the usual collator, opens here with its logits, and is exported again."""
    pytest.importorskip("accelerate", reason="accelerate is not installed: pip install -e '.[interop]'")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    arguments = transformers.TrainingArguments(
        tmp_path / "theirs", max_steps=2, learning_rate=0.01, use_cpu=True, report_to=[], save_strategy="no"
    )
    trainer = transformers.Trainer(
        model,
        arguments,
        transformers.DataCollatorForLanguageModeling(tokenizer, mlm=False),
        [tokenizer(prompt) for prompt in PROMPTS],
        processing_class=tokenizer,
    )
    trainer.train()
    trainer.save_model()
    ids = np.array([tokenizer.encode("ROMEO: speak again")])
    expected = torch_logits(model.eval(), ids)
    for backend in ("mlx", "numpy"):
        ours, ours_tokenizer = load(tmp_path / "theirs", backend)
        assert abs(ours.logits(ids) - expected).max() < 1e-4
    assert abs(load(folder, "numpy")[0].logits(ids) - expected).max() > 0.01  # it did learn something
    with pytest.raises(TinyLMError, match="the model does not know 'é'"):
        ours_tokenizer.encode("café")
    again = export(tmp_path / "theirs", tmp_path / "again").folder
    assert (again / "tokenizer_config.json").read_text() == (folder / "tokenizer_config.json").read_text()
