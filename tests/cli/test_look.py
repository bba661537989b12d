"""`data`, `info` and `bench`: tables for people, JSON for programs."""

from __future__ import annotations

import json
import re
import shutil
import threading
from collections.abc import Callable
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from click.testing import Result

from mlx_tinylm.model_folder.folder import shipped_weights

Invoke = Callable[..., Result]
GPT2_LAYER = [
    *("h.*.ln_1.weight", "h.*.ln_1.bias", "h.*.attn.c_attn.weight", "h.*.attn.c_attn.bias"),
    *("h.*.attn.c_proj.weight", "h.*.attn.c_proj.bias", "h.*.ln_2.weight", "h.*.ln_2.bias"),
    *("h.*.mlp.c_fc.weight", "h.*.mlp.c_fc.bias", "h.*.mlp.c_proj.weight", "h.*.mlp.c_proj.bias"),
]


def test_data(invoke: Invoke) -> None:
    """The corpora that have a name are listed with what they are."""
    result = invoke("data")
    assert result.exit_code == 0
    for name in ("tinyshakespeare", "shakespeare", "tinystories"):
        assert re.search(rf"^{name} +\S", result.stdout, re.M)


def test_info(invoke: Invoke) -> None:
    """Without a folder `info` says what computes; as JSON it is one object."""
    table = invoke("info").stdout
    assert re.search(r"^python +3\.\d+\.\d+$", table, re.M)
    assert re.search(r"^cpu cores +\d+$", table, re.M)
    known = json.loads(invoke("info", "--json").stdout)
    assert "tensors" not in known
    assert known["python"] in table


def test_info_of_a_model(invoke: Invoke) -> None:
    """A summary comes first, then the shape, then a line for each kind of tensor in the order of the model."""
    rows = [line.split(maxsplit=1) for line in invoke("info", "model").stdout.replace("\n\n", "\n").splitlines()]
    names = [row[0] for row in rows]
    assert names[:7] == ["model", "validation", "bits", "steps", "history", "text", "date"]
    assert names[7:11] == ["size", "family", "layers", "heads"]
    assert names[11:16] == ["width", "context", "vocabulary", "tokenizer", "parameters"]
    assert names[16:] == ["tensor", "wte.weight", "wpe.weight", *GPT2_LAYER, "ln_f.weight", "ln_f.bias"]
    said = dict(rows)
    assert re.fullmatch(r"loss +\d\.\d{4} after step 4", said["validation"])
    assert re.fullmatch(r"per byte +\d\.\d{4}", said["bits"])
    assert (said["steps"], said["text"].split(", ")[1]) == ("4 of 4, done", "2,000 characters")
    assert re.fullmatch(r"on disk +0\.0 MB of weights, 0\.\d MB in all", said["size"])
    assert said["h.*.attn.c_attn.weight"].split() == ["1", "16x48", "float32", "768"]


def test_every_tensor(invoke: Invoke, made: Path) -> None:
    """--tensors lists each one, --json always does, with what the system and the run are beside it."""
    table = invoke("info", "model", "--tensors").stdout
    assert re.search(r"^h\.0\.attn\.c_attn\.weight  16x48  float32      768$", table, re.M)
    assert "h.*" not in table
    known = json.loads(invoke("info", "model", "--json").stdout)
    assert all(re.fullmatch(r"[a-z0-9_-]+", name) for name in known)
    assert (known["family"], known["width"], known["tensors"]["ln_f.bias"]["shape"]) == ("gpt2", 16, [16])
    assert (known["run"]["steps"], known["run"]["state"]) == (4, "done")
    assert known["python"]
    assert known["folder_bytes"] > known["weights_bytes"] == (made / "model" / "model.safetensors").stat().st_size


@pytest.mark.parametrize("columns", [50, 100])
@pytest.mark.parametrize("arguments", [["info"], ["info", "model"], ["info", "model", "--tensors"]], ids=" ".join)
def test_info_fits(arguments: list[str], columns: int, invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    """No line is wider than the terminal."""
    monkeypatch.setenv("COLUMNS", str(columns))
    assert max(map(len, invoke(*arguments).stdout.splitlines())) <= columns


@pytest.mark.parametrize("more", [[], ["--tensors"]])
def test_no_name_of_a_tensor_is_cut(more: list[str], invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    """At 50 columns the long names of Qwen3's tensors are shortened so that each can be told from the others."""
    monkeypatch.setenv("COLUMNS", "50")
    lines = invoke("info", shipped_weights(), *more).stdout.split("\n\n")[1].splitlines()
    assert max(map(len, lines)) <= 50
    names = [line.split()[0] for line in lines]
    assert len({*names}) == len(names)
    assert ("*" if not more else "7") + ".post_attention_layernorm.weight" in names


def test_info_of_a_model_without_a_run(invoke: Invoke, made: Path, tmp_path: Path) -> None:
    """A model alone has a summary, too; one whose run is damaged says so and is shown."""
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        shutil.copy(made / "model" / name, tmp_path / name)
    names = [line.split()[0] for line in invoke("info", tmp_path).stdout.splitlines() if line]
    assert names[:3] == ["model", "size", "family"]
    (tmp_path / "train.json").write_text('{"settings":')
    shown = invoke("info", tmp_path)
    assert shown.exit_code == 0
    assert re.search(r"^run +damaged: train\.json: not valid JSON", shown.stdout, re.M)
    assert json.loads(invoke("info", tmp_path, "--json").stdout)["run"]["state"] == "damaged"


def test_data_says_what_is_kept(invoke: Invoke, own_cache: Path) -> None:
    """The list of corpora ends with the size of the cache, its limit, and the variable that moves it."""
    (own_cache / "ids").mkdir(parents=True)
    (own_cache / "ids" / "a").write_bytes(bytes(10**7))
    lines = invoke("data").stdout.splitlines()
    assert lines[0].startswith("tinyshakespeare  ")
    assert lines[-1] == (
        f"{own_cache / 'ids'} keeps 1 texts as ids: 10 MB; above 2 GB (MLX_TINYLM_CACHE_GB) the longest unused go"
    )


def test_data_at_an_address(invoke: Invoke, own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An address is fetched and described as a corpus is; the list says what is kept of addresses."""
    (tmp_path / "a.jsonl").write_text('{"text": "one"}\n{"text": "two"}\n' * 50)
    monkeypatch.setenv("no_proxy", "*")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=str(tmp_path))) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/a.jsonl"
        shown = invoke("data", url)
        server.shutdown()
    rows = dict(re.findall(r"^(\S.*?)  +(.*)$", shown.stdout, re.M))
    assert (rows["documents"], rows["characters"]) == ("100", "300")
    assert rows["held out"].startswith("30 characters: ")
    assert Path(rows["file"]).parent == own_cache / "texts"
    listed = invoke("data").stdout
    assert re.search(rf"^{re.escape(url)}  0\.0 MB$", listed, re.M)
    assert str(own_cache / "texts") in listed
