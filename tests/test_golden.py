"""What is computed stays what it was: the text and the loss of the weights that ship, the first losses of tiny runs.

Where it has changed on purpose, renew what is expected, look at the difference, and say why in the commit:

    python tests/test_golden.py
"""

from __future__ import annotations

import dataclasses
import json
import tempfile
from pathlib import Path
from typing import Any

import conftest  # prepares computing
import numpy as np
import pytest
from click.testing import CliRunner
from tiny_runs import PLAIN, on_streams

from mlx_tinylm.backend.choose import load, load_model
from mlx_tinylm.cli import main
from mlx_tinylm.generation import generate
from mlx_tinylm.mean_loss import evaluate
from mlx_tinylm.model_folder.folder import open_folder, shipped_weights
from mlx_tinylm.run_folder.events import Stepped
from mlx_tinylm.run_folder.settings import TrainConfig
from mlx_tinylm.text.corpus import open_corpus
from mlx_tinylm.text.ids import encode_part
from mlx_tinylm.training import run

ROOT = Path(__file__).parents[1]
GOLDEN = Path(__file__).with_name("golden.json")
EXPECTED = json.loads(GOLDEN.read_text(encoding="utf-8"))
# A text that lies beside the program and stays as it is; what the model that ships has no character for is left out.
ALPHABET = open_folder(shipped_weights()).tokenizer.alphabet or ""
TEXT = "".join(character for character in (ROOT / "LICENSE").read_text(encoding="utf-8") if character in ALPHABET)
RENEW = "this has changed; if it was meant to, renew it: python tests/test_golden.py"
PROMPT, CHARACTERS = "ROMEO:", 200
HELD_OUT = 4_096  # characters
# Sums in another order (MLX or NumPy, one core or many, the kernels of another CPU) move these losses by about 1e-6;
# a wrong scale, position, mask or key moves them by 1e-3 and more. (Where a GPU multiplies in TF32: MLX_ENABLE_TF32=0.)
TOLERANCE = 1e-4

GPT2 = dataclasses.replace(
    PLAIN,
    layers=2,
    width=32,
    context=16,
    steps=5,
    warmup_steps=2,
    schedule="linear",
    eval_every=5,
    save_every=5,
)
QWEN3 = dataclasses.replace(GPT2, family="qwen3", optimizer="muon", grad_accumulation_steps=2)
TRACED = {
    "gpt2, AdamW": GPT2,
    "gpt2, AdamW, dropout": dataclasses.replace(GPT2, dropout=0.2),
    "qwen3, Muon, accumulated": QWEN3,
    "qwen3, Muon, accumulated, dropout": dataclasses.replace(QWEN3, dropout=0.2),
}


def greedy_text(backend: str) -> str:
    model, tokenizer = load(shipped_weights(), backend)
    return generate(model, tokenizer, PROMPT, temperature=0, max_tokens=CHARACTERS)


def loss_on_text(backend: str, folder: Path) -> float:
    """What `eval` says of the weights that ship."""
    (folder / "text.txt").write_text(TEXT, encoding="utf-8", newline="")
    done = CliRunner().invoke(main, ["eval", "--data", str(folder / "text.txt"), "--backend", backend, "--json"])
    assert done.exit_code == 0, (done.output, done.exception)
    return float(json.loads(done.stdout)["loss"])


def loss_on_held_out() -> float:
    """The loss of the weights that ship on the first characters of the tenth that they were not trained on."""
    folder = open_folder(shipped_weights())
    ids = encode_part(open_corpus(["tinyshakespeare"]), folder.tokenizer, "held_out").ids[: HELD_OUT + 1]
    return evaluate(load_model(folder, "mlx", spread=True), ids).loss


def trace(config: TrainConfig, folder: Path) -> list[float]:
    """The loss of each step of a run."""
    (folder / "text.txt").write_text(TEXT, encoding="utf-8", newline="")
    with run.start(on_streams(), folder / "run", config, [str(folder / "text.txt")]) as running:
        return [event.loss for event in running.events() if isinstance(event, Stepped)]


@pytest.mark.parametrize("backend", ["mlx", "numpy"])
def test_greedy_text(backend: str) -> None:
    """The likeliest character at each step is the same everywhere: no two are nearly as likely."""
    assert greedy_text(backend) == EXPECTED["greedy"], RENEW


def test_greedy_text_is_decided(tmp_path: Path) -> None:
    """All along that text, the best logit leads by far more than the back ends, which round otherwise, differ by."""
    logits = {}
    for backend in ("mlx", "numpy"):
        model, tokenizer = load(shipped_weights(), backend)
        ids = tokenizer.encode(PROMPT + EXPECTED["greedy"])
        logits[backend] = model.logits(np.array([ids]))[0, len(PROMPT) - 1 : -1]
    rounding = float(np.abs(logits["mlx"] - logits["numpy"]).max())
    best_two = np.sort(logits["numpy"], axis=-1)[:, -2:]
    lead = float((best_two[:, 1] - best_two[:, 0]).min())
    assert 0 < rounding < lead / 100, (rounding, lead)


@pytest.mark.parametrize("backend", ["mlx", "numpy"])
def test_loss_on_another_text(backend: str, tmp_path: Path, own_cache: Path) -> None:
    """The weights that ship predict text of another kind as badly as they did."""
    assert loss_on_text(backend, tmp_path) == pytest.approx(EXPECTED["loss"], abs=TOLERANCE), RENEW


@pytest.mark.network
def test_loss_on_held_out_text(own_cache: Path) -> None:
    """The weights that ship predict what was held out from their training as well as they did."""
    assert loss_on_held_out() == pytest.approx(EXPECTED["held_out_loss"], abs=TOLERANCE), RENEW


@pytest.mark.parametrize("name", TRACED)
def test_first_losses(name: str, tmp_path: Path, own_cache: Path) -> None:
    """The first five losses of a run are what they were, so all that a step computes is."""
    assert trace(TRACED[name], tmp_path) == pytest.approx(EXPECTED["losses"][name], abs=TOLERANCE), RENEW


def renew() -> None:
    """Write what is computed now into golden.json."""
    found: dict[str, Any] = {
        "greedy": greedy_text("numpy"),
        "loss": 0.0,
        "held_out_loss": round(loss_on_held_out(), 6),
        "losses": {},
    }
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        conftest.use_cache(patch, Path(folder))
        found["loss"] = round(loss_on_text("numpy", Path(folder)), 6)
        for number, (name, config) in enumerate(TRACED.items()):
            Path(folder, str(number)).mkdir()
            found["losses"][name] = [round(loss, 6) for loss in trace(config, Path(folder, str(number)))]
    GOLDEN.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    renew()
