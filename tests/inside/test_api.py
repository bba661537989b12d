"""The answers to the page: what they hold, what they equal, and that nothing that may be asked brings them down."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tiny_models import METRICS

from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.evaluation import evaluate
from mlx_tinylm.generation import stream_generate
from mlx_tinylm.inside.api import POINTS, TEXT, TOKENS, Api
from mlx_tinylm.inside.code_links import FIRST
from mlx_tinylm.inside.collection import Collection
from mlx_tinylm.inside.origins import LEAST, Origins
from mlx_tinylm.inside.payload import Payload
from mlx_tinylm.inside.subject import Subject
from mlx_tinylm.inside.writing import Memory
from mlx_tinylm.locks import lock
from mlx_tinylm.model_folder.tensor_files import read_safetensors
from mlx_tinylm.run_folder.folder import HISTORY
from mlx_tinylm.run_folder.folder import METRICS as METRICS_FILE
from mlx_tinylm.run_folder.history import keep

PROMPT = "1+2 = 3; 4+5 = 9"
PACKAGE = Path(__file__).parents[2]


def ask(api: Api, name: str, **request: Any) -> Any:
    """An answer; of a long one its lines, or what it says in the end."""
    found = api.answer(f"/api/{name}", json.dumps(request).encode())
    if isinstance(found, bytes):
        return Payload.from_bytes(found)
    if not isinstance(found, Generator):
        return json.loads(json.dumps(found, allow_nan=False))
    lines = []
    while True:
        try:
            lines += filter(None, [next(found)])
        except StopIteration as end:
            return lines if end.value is None else end.value


# The model


def test_model_says_all_that_the_page_begins_with(api: Api, subject: Subject) -> None:
    """Facts, vocabulary, a prompt, limits, settings, runs and the code of each view; and no path."""
    found = ask(api, "model")
    assert found["model"] == subject.facts
    assert found["vocabulary"] == list(subject.vocabulary)
    assert subject.encode(found["prompt"])
    assert found["limits"] == {"write": TOKENS, "surprise": TEXT}
    assert (found["longest"], found["settings"]["temperature"], found["runs"]) == (32, 0.8, [])
    assert found["text"]["counter"] is False
    assert found["text"]["why"]
    assert str(subject.folder.path.parent) not in json.dumps(found)


def test_code_links_show_the_lines_that_they_name(api: Api) -> None:
    """Each of the eight views has three lines of this program, which stand where it says."""
    links = ask(api, "model")["code"]
    assert list(links) == list(FIRST)
    assert len(links) == 8
    for view, link in links.items():
        lines = (PACKAGE / link["file"]).read_text(encoding="utf-8").splitlines()
        found = [line for line in lines if line.lstrip().startswith(FIRST[view][1])]
        assert len(found) == 1, view
        there = lines[link["line"] - 1 : link["line"] + 2]
        assert [line.strip() for line in there] == [line.strip() for line in link["lines"]]


# A trace


def test_trace_is_the_payload(api: Api, subject: Subject) -> None:
    """A text and its ids give the payload that `inspect` shows."""
    expected = subject.look(subject.encode(PROMPT)).to_bytes()
    assert ask(api, "trace", text=PROMPT).to_bytes() == expected
    assert ask(api, "trace", ids=subject.encode(PROMPT)).to_bytes() == expected


@pytest.mark.parametrize("parts", [["logits"], ["surprise", "logits"], ["attention"], ["ids"], []])
def test_parts_of_a_trace(api: Api, parts: list[str]) -> None:
    """Only what is asked for comes, the ids always, with the same numbers."""
    whole, part = (
        ask(api, "trace", text=PROMPT, heads_off=[[1, 0]]),
        ask(api, "trace", text=PROMPT, heads_off=[[1, 0]], parts=parts),
    )
    assert set(part.tensors) == {"ids", *parts}
    assert part.meta["heads_off"] == [[1, 0]]
    for name, tensor in part.tensors.items():
        np.testing.assert_array_equal(tensor, whole.tensors[name])


# A text by surprise


@pytest.mark.parametrize("length", [2, 17, 33, 34, 600, 2500])
def test_surprise_is_that_of_eval(api: Api, subject: Subject, length: int) -> None:
    """Mean, bits and targets are those of `eval`, to the last bit; each loss is that of its own character."""
    text = (PROMPT * 200)[:length]
    ids = np.array(subject.encode(text))
    expected = evaluate(subject.model, ids)
    found = ask(api, "surprise", text=text)
    assert (found["mean"], found["bits_per_char"]) == (expected.loss, expected.bits_per_char)
    assert found["targets"] == expected.targets == length - 1
    assert found["ids"] == ids.tolist()
    assert len(found["nats"]) == len(found["top"]) == length
    assert (found["nats"][0], found["top"][0]) == (None, None)
    assert float(np.mean(found["nats"][1:])) == pytest.approx(expected.loss, rel=1e-6)
    for nats, top, id in zip(found["nats"][1:], found["top"][1:], ids[1:], strict=True):
        assert [p for _, p in top] == sorted((p for _, p in top), reverse=True)
        assert dict(map(tuple, top)).get(id, math.exp(-nats)) == pytest.approx(math.exp(-nats), rel=1e-4)


def test_surprise_on_mlx_is_that_of_eval(folder: Path) -> None:
    """On MLX, too."""
    pytest.importorskip("mlx.core", exc_type=ImportError)
    subject = Subject.open(folder, "mlx")
    found = ask(Api(Collection(subject)), "surprise", text=PROMPT * 40)
    assert found["mean"] == evaluate(subject.model, np.array(subject.encode(PROMPT * 40))).loss


# Writing


@pytest.mark.parametrize("backend", ["numpy", "mlx"])
def test_writing_is_generate(folder: Path, backend: str) -> None:
    """The text is that of `generate` with the same seed; each line says what the model gave the id that was drawn."""
    if backend == "mlx":
        pytest.importorskip("mlx.core", exc_type=ImportError)
    subject = Subject.open(folder, backend)
    given = {"temperature": 1.2, "top_k": 9}
    *lines, end = ask(Api(Collection(subject)), "write", text=PROMPT, seed=5, tokens=60, settings=given)
    expected = stream_generate(subject.model, subject.tokenizer, PROMPT, seed=5, max_tokens=60, **given)
    assert "".join(line["text"] for line in lines) == "".join(expected)
    assert end == {"done": "length" if len(lines) == 60 else "end"}
    history = subject.encode(PROMPT)
    for line in lines[:16]:
        logits = subject.model.logits(np.array([history]))[0, -1].astype(np.float64)
        chances = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
        assert line["p"] == pytest.approx(chances[line["id"]], rel=1e-3)
        assert [id for id, _ in line["top"]] == np.argsort(-chances, kind="stable")[:5].tolist()
        history.append(line["id"])


def test_writing_ends_at_the_end_of_a_text(api: Api) -> None:
    """Where the model draws the end of a text, the last line says so."""
    ends = [ask(api, "write", text=PROMPT, seed=seed, tokens=300, settings={"temperature": 2})[-1] for seed in range(5)]
    assert {"done": "end"} in ends


KNOWN = "To be, or not to be, that is the question:\nWhether 'tis nobler in the mind to suffer\nThe slings and arrows"


@given(st.lists(st.sampled_from([KNOWN[:30], KNOWN[5:50], KNOWN[40:90], "to be", "x", "\n", KNOWN[-25:]]), max_size=8))
def test_origins_come_as_they_are_found_in_the_whole(pieces: list[str]) -> None:
    """What is marked character by character is what is found by looking at the whole text, with the same lines."""
    known, text = Origins(KNOWN), "".join(pieces)
    memory, marked = Memory(known, ""), set()
    for i, character in enumerate(text):
        if place := memory.add(character):
            first, last, length = place
            assert length >= LEAST
            run = text[i + 1 - length : i + 1]
            assert run in "".join(KNOWN.splitlines(keepends=True)[first - 1 : last])
            marked |= set(range(i + 1 - length, i + 1))
    assert marked == {i for run in known.runs(text) for i in range(run.start, run.end)}


# Embeddings


def test_embedding_against_arithmetic(api: Api, folder: Path) -> None:
    """Neighbours are the largest cosines, the plane is that of a singular value decomposition."""
    table = read_safetensors(folder / "model.safetensors")["model.embed_tokens.weight"].astype(np.float64)
    found = ask(api, "embedding")
    lengths = np.linalg.norm(table, axis=1)
    cosine = table @ table.T / np.outer(lengths, lengths)
    np.fill_diagonal(cosine, -2)
    for id, (near, values) in enumerate(zip(found["neighbours"], found["cosine"], strict=True)):
        assert id not in near
        np.testing.assert_allclose(values, np.sort(cosine[id])[::-1][:8], atol=1e-4)
        np.testing.assert_allclose(cosine[id, near], values, atol=1e-4)
    centred = table - table.mean(0)
    _, sizes, directions = np.linalg.svd(centred)
    np.testing.assert_allclose(np.abs(found["plane"]), np.abs(centred @ directions[:2].T), atol=1e-3)
    np.testing.assert_allclose(found["variance"], sizes[:2] ** 2 / (sizes**2).sum(), atol=1e-5)


# Runs


@pytest.fixture
def run(folder: Path, tmp_path: Path) -> Path:
    """The same model as a run, with a snapshot of other weights at step 5."""
    import shutil

    from tiny_models import with_run

    place = with_run(Path(shutil.copytree(folder, tmp_path / "run")))
    tensors = read_safetensors(place / "model.safetensors")
    keep(place, 5, {name: tensor * np.float32(0.5) for name, tensor in tensors.items()})
    return place


def test_runs_are_known_by_name(subject: Subject, run: Path) -> None:
    """A run has its folder's name, its snapshots and the step of its best weights, and says whether it is under way."""
    api = Api(Collection(subject, [run, run.parent / "run"]))
    assert [each["name"] for each in ask(api, "model")["runs"]] == ["run", "run (2)"]
    first = ask(api, "model")["runs"][0]
    assert (first["steps"], first["live"], first["loss"]) == ([5, 20], False, 1.25)
    with lock(run):
        assert ask(api, "model")["runs"][0]["live"] is True
        assert ask(api, "metrics", run="run")["live"] is True
    for name in ("../run", str(run), "", "run (3)"):
        with pytest.raises(TinyLMError, match="no such run"):
            ask(api, "metrics", run=name)


def test_snapshots_are_read_and_written_with(subject: Subject, run: Path) -> None:
    """A trace and a text of a snapshot are those of its weights; those of the best step are what the folder holds."""
    api = Api(Collection(subject, [run]))
    whole, best = ask(api, "trace", text=PROMPT), ask(api, "trace", text=PROMPT, run="run", step=20)
    np.testing.assert_array_equal(whole.tensors["logits"], best.tensors["logits"])
    early = ask(api, "trace", text=PROMPT, run="run", step=5, parts=["logits"])
    assert not np.allclose(early.tensors["logits"], whole.tensors["logits"])
    written = [ask(api, "write", text=PROMPT, run="run", step=step, seed=1, tokens=40) for step in (5, 20)]
    assert written[0] != written[1] == ask(api, "write", text=PROMPT, seed=1, tokens=40)
    for wrong in ({"run": "run", "step": 6}, {"step": 5}, {"run": "run", "step": -1}, {"run": "none", "step": 5}):
        with pytest.raises(TinyLMError):
            ask(api, "trace", text=PROMPT, **wrong)


def test_a_damaged_snapshot_is_a_line(subject: Subject, run: Path) -> None:
    """What cannot be read is said, and the rest goes on."""
    (run / HISTORY / "00000005.safetensors").write_bytes(b"x" * 100)
    api = Api(Collection(subject, [run]))
    with pytest.raises(TinyLMError, match=r"00000005\.safetensors"):
        ask(api, "trace", text=PROMPT, run="run", step=5)
    assert ask(api, "trace", text=PROMPT)


def test_metrics_come_in_increments(subject: Subject, run: Path) -> None:
    """What was added is what comes, from where the last answer ended; one that became shorter comes anew."""
    api = Api(Collection(subject, [run]))
    first = ask(api, "metrics", run="run")
    assert [line["step"] for line in first["lines"]] == [10, 20, 21, 30]
    assert first["next"] == len(METRICS)
    with (run / METRICS_FILE).open("a") as file:
        file.write('{"step": 31, "loss": 1.5, "lr": 0.1}\n{"step": 32, "lo')
    then = ask(api, "metrics", **{"run": "run", "from": first["next"]})
    assert (then["lines"], then["restarted"]) == ([{"step": 31, "loss": 1.5}], False)
    assert ask(api, "metrics", **{"run": "run", "from": then["next"]})["lines"] == []
    (run / METRICS_FILE).write_text('{"step": 1, "loss": 3}\n')
    anew = ask(api, "metrics", **{"run": "run", "from": then["next"]})
    assert (anew["lines"], anew["restarted"]) == ([{"step": 1, "loss": 3}], True)


def test_long_runs_are_thinned(subject: Subject, run: Path) -> None:
    """Of many steps about a thousand come, evenly; of validations and baselines none is left out."""
    lines = [{"step": step, "loss": 1.0} | ({"val_loss": 2.0} if step % 250 == 0 else {}) for step in range(1, 5001)]
    lines[3] |= {"baselines": {"guessing": 3.5, "ngrams": [3.0, 2.5, 2.0, 1.8, 1.7]}}
    (run / METRICS_FILE).write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = ask(Api(Collection(subject, [run])), "metrics", run="run")
    steps = [line["step"] for line in found["lines"]]
    assert POINTS <= len(steps) <= POINTS + 21
    assert [line["step"] for line in found["lines"] if "val_loss" in line] == list(range(250, 5001, 250))
    assert found["baselines"] == {"guessing": 3.5, "ngrams": [3.0, 2.5, 2.0, 1.8, 1.7]}
    assert max(np.diff(steps)) <= 5


# Held-out text


def test_held_out_text_with_what_was_expected(run_with_text: Path) -> None:
    """A seed names a window of held-out text; probabilities are those of the model and of the counter."""
    subject = Subject.open(run_with_text, "numpy")
    api = Api(Collection(subject))
    assert subject.dataset is not None
    assert subject.counter is not None
    found = ask(api, "held_out", seed=3)
    assert found == ask(api, "held_out", seed=3) != ask(api, "held_out", seed=4)
    ids = found["ids"]
    held = subject.dataset.validation.tolist()
    assert any(held[i : i + len(ids)] == ids for i in range(len(held)))
    payload = subject.look(ids)
    chances = np.exp(-payload.tensors["surprise"][1:])
    np.testing.assert_allclose(found["model"], chances, rtol=1e-4)
    np.testing.assert_allclose(
        found["counter"], payload.tensors["counter"][np.arange(len(ids) - 1), ids[1:]], rtol=1e-4
    )
    assert len(found["model_top"]) == len(found["counter_top"]) == len(ids) - 1


@pytest.fixture
def run_with_text(folder: Path, tmp_path: Path, own_cache: Path) -> Path:
    """A model that says which text it was trained on, which is here."""
    import hashlib
    import shutil

    from mlx_tinylm.integrity import sealed
    from mlx_tinylm.run_folder.settings import TrainConfig

    place = Path(shutil.copytree(folder, tmp_path / "texted"))
    text = "".join(f"{i} + {i * 3 % 7} = {i + i * 3 % 7}; " for i in range(300))
    (tmp_path / "text.txt").write_text(text)
    record = {"settings": TrainConfig().to_json(), "init_from": None, "data": [str(tmp_path / "text.txt")], "files": {}}
    sha = hashlib.sha256(text.encode()).hexdigest()
    record |= {"corpus": {"name": "text.txt", "sha256": sha, "characters": len(text)}, "versions": {}, "device": "cpu"}
    (place / "train.json").write_text(sealed(record))
    return place


def test_without_its_text_there_is_nothing_to_guess(api: Api) -> None:
    """Where the training text is not here, that is said."""
    with pytest.raises(TinyLMError, match="is not here"):
        ask(api, "held_out", seed=1)


# What may be asked


@pytest.mark.parametrize(
    ("name", "request_", "why"),
    [
        ("trace", {}, "give either a text or ids"),
        ("trace", {"text": "1", "ids": [1]}, "give either a text or ids"),
        ("trace", {"text": ""}, "the prompt is empty"),
        ("trace", {"text": "é"}, "does not know"),
        ("trace", {"text": "1" * 33}, "33 characters; at most 32"),
        ("trace", {"text": "1" * (TEXT + 1)}, "at most 40,000"),
        ("trace", {"text": "\ud800"}, "half a character"),
        ("trace", {"text": 1}, "text must be text"),
        ("trace", {"ids": []}, "ids must be a list"),
        ("trace", {"ids": [40]}, "an id must be"),
        ("trace", {"ids": [True]}, "an id must be"),
        ("trace", {"ids": [1.5]}, "an id must be"),
        ("trace", {"text": "1", "heads_off": [[0, 2]]}, "no head 2"),
        ("trace", {"text": "1", "heads_off": [[0]]}, "a head is"),
        ("trace", {"text": "1", "heads_off": {}}, "heads_off must be"),
        ("trace", {"text": "1", "parts": "logits"}, "parts must be"),
        ("trace", {"text": "1", "run": "/etc"}, "no such run"),
        ("trace", {"text": "1", "path": "/etc"}, "knows no 'path'"),
        ("write", {}, "needs text"),
        ("write", {"text": "1", "tokens": TOKENS + 1}, "tokens must be"),
        ("write", {"text": "1", "tokens": 0}, "tokens must be"),
        ("write", {"text": "1", "seed": -1}, "seed"),
        ("write", {"text": "1", "settings": []}, "settings must be"),
        ("write", {"text": "1", "settings": {"max_tokens": 10**9}}, "no setting 'max_tokens'"),
        ("write", {"text": "1", "settings": {"temperature": -1}}, "temperature"),
        ("write", {"text": "1", "settings": {"temperature": 1e999}}, "is not JSON|no number"),
        ("write", {"text": "1", "settings": {"top_k": 41}}, "there are 40 ids"),
        ("surprise", {"text": "1"}, "too short"),
        ("surprise", {"text": "1" * (TEXT + 1)}, "at most 40,000"),
        ("metrics", {"run": 1}, "run must be"),
        ("held_out", {"seed": "1"}, "seed must be"),
        ("embedding", {"x": 1}, "knows no 'x'; it knows nothing"),
    ],
)
def test_what_cannot_be_asked_is_a_line(api: Api, name: str, request_: dict[str, Any], why: str) -> None:
    """Each mistake is said in one line that names it."""
    with pytest.raises(TinyLMError, match=why) as error:
        ask(api, name, **request_)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400


def test_nothing_else_can_be_asked(api: Api) -> None:
    """What is no endpoint is none, even where a method has that name."""
    for name in ("", "answer", "_ids", "model/", "prompt", "__init__", "collection"):
        with pytest.raises(LookupError):
            api.answer(f"/api/{name}", b"{}")


NAMES = ["text", "ids", "run", "step", "heads_off", "parts", "settings", "seed", "tokens", "from", "x"]
NUMBERS = st.integers(-3, 45) | st.sampled_from([10**9, 2**53, 2**63, -(2**63), 10**400]) | st.floats()
LEAVES = st.none() | st.booleans() | NUMBERS | st.text(max_size=40) | st.sampled_from(["run", "logits", PROMPT])
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=3))
SOUND = {
    "text": st.text("0123456789+-= ;", max_size=40),
    "ids": st.lists(st.integers(0, 39), max_size=34),
    "run": st.just("run"),
    "step": st.sampled_from([5, 20, 6]),
    "heads_off": st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)).map(list), max_size=3),
    "parts": st.lists(st.sampled_from(["logits", "surprise", "attention", "x"]), max_size=3),
    "settings": st.fixed_dictionaries(
        {}, optional={"temperature": NUMBERS, "top_k": NUMBERS, "top_p": NUMBERS, "repetition_penalty": NUMBERS}
    ),
    "tokens": st.integers(0, 5),
}
REQUESTS = st.fixed_dictionaries({}, optional={name: SOUND.get(name, VALUES) | VALUES for name in NAMES})
ENDPOINTS = ["model", "trace", "write", "surprise", "embedding", "metrics", "held_out", "none"]


def outcome(api: Api, endpoint: str, body: bytes) -> str:
    """What is told where a request is refused; "" where it is answered, with what can be sent."""
    try:
        found = api.answer(f"/api/{endpoint}", body)
        if isinstance(found, bytes):
            assert "ids" in Payload.from_bytes(found).tensors
        elif isinstance(found, Generator):
            for _, line in zip(range(20), found, strict=False):
                json.dumps(line, allow_nan=False)
        else:
            json.dumps(found, allow_nan=False)
    except TinyLMError as error:
        return str(error)
    except LookupError as error:
        return str(error.args[0])
    return ""


@settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.sampled_from(ENDPOINTS), REQUESTS.map(lambda request: json.dumps(request).encode()) | st.binary(max_size=60))
@example("trace", b'{"text": "\\ud800"}')
@example("write", b'{"text": "1", "tokens": 3, "settings": {"temperature": 1e-320}}')
def test_whatever_is_asked_is_answered_or_refused(subject: Subject, run: Path, endpoint: str, body: bytes) -> None:
    """No request ends in anything but an answer that is JSON or a payload, or an error in a line, and soon."""
    api = Api(Collection(subject, [run]))
    begun = time.monotonic()
    said = outcome(api, endpoint, body)
    assert "\n" not in said
    assert (said == "there is nothing to ask here") == (endpoint == "none")
    assert time.monotonic() - begun < 10
