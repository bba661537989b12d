"""What the model card says about other tools is true: its own lines are run."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from other_tools import exported
from tiny_models import METRICS, TEXT, with_run

from mlx_tinylm.export.folder import export


@pytest.mark.parametrize("family", ["gpt2", "qwen3"])
def test_its_code_runs(family: str, tmp_path: Path) -> None:
    """Every Python block of the card, and mlx-lm's line, runs in the folder above."""
    folder = exported(family, tmp_path)
    blocks = re.findall(r"```(\w+)\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    python = [code for language, code in blocks if language == "python"]
    shell = [code for language, code in blocks if language == "sh" and code.startswith("mlx_lm.")]
    assert (len(python), len(shell)) == (2, 1)
    programs = Path(sys.executable).parent
    for command in [*([sys.executable, "-c", code] for code in python), ["sh", "-c", f"{programs}/{shell[0]}"]]:
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr[-2000:]
        assert done.stdout.strip()


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
