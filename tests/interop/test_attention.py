"""What a trace shows of an export is what transformers computes on the way."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from other_tools import EXPORTED, check_close, exported, some_ids, torch, transformers

from mlx_tinylm.backend.choose import load
from mlx_tinylm.inside.trace import trace


@pytest.fixture(scope="module", params=EXPORTED)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported folder in float32."""
    return exported(request.param, tmp_path_factory.mktemp(request.param), dtype="float32")


@pytest.mark.parametrize("backend", ["mlx", "numpy"])
@pytest.mark.parametrize("T", [1, 2, 200])
def test_attention_and_the_stream(folder: Path, backend: str, T: int) -> None:
    """Every attention weight, and the stream before each layer, is transformers' own; and so are the logits."""
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    ours, _ = load(folder, backend)
    ids = some_ids(ours.config.vocab_size, T)
    with torch.no_grad():
        expected = theirs(torch.tensor(ids), output_attentions=True, output_hidden_states=True)
    found = trace(ours, ids[0])
    attention = np.stack([layer[0].float().numpy() for layer in expected.attentions])
    assert attention.shape == found.attention.shape == (ours.config.layers, ours.config.heads, T, T)
    np.testing.assert_allclose(found.attention, attention, atol=2e-5)
    if T > 2:  # weights that are all alike would agree about anything
        assert attention[:, :, -1].max() > 2 / T
    # Before each layer; the last of theirs has gone through the final norm.
    stream = np.stack([x[0].float().numpy() for x in expected.hidden_states[:-1]])
    np.testing.assert_allclose(found.stream[:-1:2], stream, atol=2e-4 * abs(stream).max())
    check_close(found.logits, expected.logits[0].float().numpy())
