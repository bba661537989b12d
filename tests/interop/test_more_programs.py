"""Programs that are no part of the interop extra: each test is skipped by name where its program is not installed."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from other_tools import check_close, exported, some_ids, torch, torch_model

from mlx_tinylm.backend.choose import load
from mlx_tinylm.model_folder.folder import shipped_weights

LENGTH = 20


def test_lm_eval() -> None:
    """lm-eval gives the letter after "To be or not to b" the log-likelihood that it has here."""
    pytest.importorskip("lm_eval", reason="lm-eval is not installed: pip install lm-eval")
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    before, letter = "To be or not to b", "e"
    request = Instance("loglikelihood", {}, (before, letter), 0)
    model = HFLM(pretrained=str(shipped_weights()), dtype="float32", device="cpu")
    ((found, is_greedy),) = model.loglikelihood([request], disable_tqdm=True)
    ours, tokenizer = load(shipped_weights(), "numpy")
    logits = ours.logits(np.array([tokenizer.encode(before)]))[0, -1]
    assert found == pytest.approx(logits[tokenizer.encode(letter)[0]] - np.logaddexp.reduce(logits), abs=1e-4)
    assert (is_greedy, round(np.exp(found), 3)) == (True, 0.863)


@pytest.mark.filterwarnings("ignore")  # PyTorch's exporter warns of PyTorch
@pytest.mark.parametrize("family", ["gpt2", "qwen3"])
def test_onnx(family: str, tmp_path: Path) -> None:
    """A model that PyTorch wrote as ONNX has our logits in onnxruntime, and so our greedy text."""
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason=f"{package} is not installed: pip install onnx onnxscript onnxruntime")
    import onnxruntime

    folder = exported(family, tmp_path)
    model = torch_model(folder)
    model.config.use_cache = False

    class Logits(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self, input_ids: object) -> object:
            return self.inner(input_ids=input_ids, use_cache=False).logits

    T = torch.export.Dim("T", min=2, max=255)
    given = (torch.tensor(some_ids(96, 6)),)
    torch.onnx.export(
        Logits().eval(), given, tmp_path / "model.onnx", dynamo=True, dynamic_shapes={"input_ids": {1: T}}
    )
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    ours, _ = load(folder, "numpy")
    ids = some_ids(96, 6)
    for _ in range(LENGTH):
        (logits,) = session.run(None, {session.get_inputs()[0].name: ids})
        check_close(logits, ours.logits(ids))
        ids = np.concatenate([ids, logits[:, -1:].argmax(-1)], 1)


TRANSFORMERS_JS = """
const { AutoTokenizer, env } = require("@huggingface/transformers");
const [parent, name, texts] = process.argv.slice(1);
env.allowRemoteModels = false;
env.localModelPath = parent + "/";
AutoTokenizer.from_pretrained(name).then((tokenizer) => {
  const answers = JSON.parse(texts).map((text) => {
    const ids = tokenizer.encode(text);
    const messages = [{ role: "user", content: text }];
    return [ids, tokenizer.decode(ids), tokenizer.apply_chat_template(messages, { tokenize: false })];
  });
  console.log(JSON.stringify(answers));
});
"""


def test_transformers_js() -> None:
    """transformers.js gives our ids, the text again, and in a chat the text as it was typed."""
    node = shutil.which("node")
    found = node and subprocess.run([node, "-e", "require.resolve('@huggingface/transformers')"], capture_output=True)
    if not node or not found or found.returncode:
        pytest.skip("transformers.js is not installed: npm install @huggingface/transformers, NODE_PATH=node_modules")
    folder = shipped_weights()
    texts = ["Hello", "\n\nROMEO:\n  O, speak  again, bright angel!\n\n", " . , ? ! 's n't"]
    arguments = [str(folder.parent), folder.name, json.dumps(texts)]
    done = subprocess.run([node, "-e", TRANSFORMERS_JS, *arguments], capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr[-2000:]
    tokenizer = load(folder, "numpy")[1]
    assert json.loads(done.stdout) == [[tokenizer.encode(text), text, text] for text in texts]
