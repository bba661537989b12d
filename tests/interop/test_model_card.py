"""What the model card says about other tools is true: its own lines are run."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import random_folder
from other_tools import GPT2, QWEN3, exported
from tiny_models import METRICS, TEXT, with_run

from mlx_tinylm.export.folder import export
from mlx_tinylm.model_folder.config import ModelConfig
from mlx_tinylm.model_folder.folder import shipped_weights


def run_snippets(folder: Path, home: Path) -> dict[str, str]:
    """What each block of the card's code prints, by its heading, run as it is written in the folder above."""
    blocks = re.findall(
        r"^## (.*?)\n\n```(\w+)\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL | re.MULTILINE
    )
    printed = {}
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for heading, language, code in blocks:
        command = [sys.executable, "-c", code] if language == "python" else ["sh", "-euc", code]
        environment = os.environ | {"PATH": programs, "HOME": str(home)}
        done = subprocess.run(
            command, cwd=folder.parent, env=environment, capture_output=True, text=True, errors="replace", timeout=120
        )
        assert done.returncode == 0, (heading, done.stderr[-2000:])
        printed[heading.split(",")[0]] = done.stdout
    return printed


@pytest.mark.parametrize("config", [GPT2, QWEN3], ids=lambda config: config.family)
def test_its_code_runs(config: ModelConfig, tmp_path: Path) -> None:
    """Every block of the card runs as it stands, in the smallest of contexts, and what writes text writes all of it."""
    source = random_folder(tmp_path / "source", replace(config, context=8, suppressed=(95,)))
    folder = export(source, tmp_path / "my model").folder
    printed = run_snippets(folder, tmp_path / "home")
    assert list(printed) == ["mlx-tinylm", "NumPy from Python", "mlx-lm", "LM Studio", "transformers"]
    assert (tmp_path / "home" / ".lmstudio" / "models" / "local" / "my model" / "model.safetensors").exists()
    prompt, length = "ROME", 4
    written = re.split(r"^=+\n", printed["mlx-lm"], flags=re.MULTILINE)[1]
    assert len(written.removesuffix("\n")) == length
    assert len(printed["transformers"].removesuffix("\n")) == len(prompt) + length
    assert printed["transformers"].startswith(prompt)
    assert len(printed["NumPy from Python"]) == 200 + len("\n")


def test_the_code_of_what_ships(tmp_path: Path) -> None:
    """The commands of the card that ships run as they stand, too, and write verse."""
    shutil.copytree(shipped_weights(), tmp_path / "shakespeare")
    for heading, text in run_snippets(tmp_path / "shakespeare", tmp_path / "home").items():
        assert heading == "LM Studio" or len(text) > 200, heading


def test_front_matter(tmp_path: Path) -> None:
    """The library that the model hub itself uses reads the card's library, tags and figures."""
    cards = pytest.importorskip("huggingface_hub", reason="huggingface_hub comes with mlx-lm")
    source = with_run(exported("gpt2", tmp_path))
    card = cards.ModelCard.load(export(source, tmp_path / "out").folder / "README.md")
    assert (card.data.library_name, card.data.pipeline_tag) == ("mlx", "text-generation")
    assert {"mlx", "gpt2", "character-level"} <= set(card.data.tags)
    loss = card.data.eval_results[0]
    assert loss.dataset_name == " ".join(TEXT.split())
    assert loss.metric_value == min(json.loads(line).get("val_loss", 9) for line in METRICS.splitlines())
