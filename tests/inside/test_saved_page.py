"""The page as one file. How it looks and works is tried in a browser, in tests/browser."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_models import with_run

from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.inside.payload import Payload
from mlx_tinylm.inside.saved_page import save_page
from mlx_tinylm.inside.subject import Subject
from mlx_tinylm.model_folder.tensor_files import read_safetensors
from mlx_tinylm.run_folder.history import keep

PROMPT = "1+2 = 3; </script><!-- & "


class Parts(HTMLParser):
    """Scripts, styles and the policy of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        self.texts.append("")

    def handle_endtag(self, tag: str) -> None:
        self.handle_starttag(f"/{tag}", [])

    def handle_data(self, data: str) -> None:
        if self.texts:
            self.texts[-1] += data

    def of(self, tag: str) -> list[tuple[dict[str, str | None], str]]:
        found = zip(self.tags, self.texts, strict=True)
        return [(attributes, text) for (name, attributes), text in found if name == tag]


def unpacked(text: str) -> Payload:
    return Payload.from_bytes(base64.b64decode(text))


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    """A run with two snapshots, whose alphabet has what HTML is made of."""
    from conftest import random_folder

    from mlx_tinylm.model_folder.config import GPT2Config

    config = GPT2Config(vocab_size=97, context=32, width=16, layers=2, heads=2, eos_ids=(96,))
    folder = with_run(random_folder(tmp_path_factory.mktemp("saved") / "run <b>", config))
    tensors = read_safetensors(folder / "model.safetensors")
    for step in (0, 10):
        keep(folder, step, {name: tensor * np.float32(0.1 * step) for name, tensor in tensors.items()})
    return Subject.open(folder, "numpy")


@pytest.fixture(scope="module")
def page(subject: Subject, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("page") / "page.html"
    size = save_page(path, subject, subject.look(subject.encode(PROMPT)))
    assert size == path.stat().st_size
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def content(page: str) -> Any:
    (data,) = [text for attributes, text in Parts(page).of("script") if attributes.get("id") == "saved"]
    return json.loads(data)


def test_nothing_is_loaded_and_nothing_else_runs(page: str) -> None:
    """The policy names the one script and the one style by their SHA-256, and nothing points anywhere."""
    parts = Parts(page)
    (policy,) = [attributes["content"] for attributes, _ in parts.of("meta") if "http-equiv" in attributes]
    scripts = [text for attributes, text in parts.of("script") if attributes.get("id") != "saved"]
    for kind, texts in (("script", scripts), ("style", [text for _, text in parts.of("style")])):
        (text,) = texts
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert policy is not None
        assert f"{kind}-src 'sha256-{digest}';" in policy
    assert policy is not None
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    links = [attributes for _, attributes in parts.tags if {"src", "href"} & attributes.keys()]
    assert all((attributes.get("href") or "").startswith(("data:", "#")) for attributes in links), links


def test_text_stays_text(page: str, content: Any) -> None:
    """A prompt or a name that could end a script ends none: it is read as it was."""
    assert content["model"]["prompt"] == PROMPT
    assert content["model"]["model"]["name"] == "run <b>"
    assert len(Parts(page).of("script")) == 2
    assert "<!-- &" not in page


def test_what_was_asked_is_in_it(content: Any, subject: Subject) -> None:
    """The payload, and what the server would answer: without each head, embeddings, surprise, a sample."""
    expected = subject.look(subject.encode(PROMPT))
    assert unpacked(content["payload"]).to_bytes() == expected.to_bytes()
    assert sorted(content["heads_off"]) == ["0.0", "0.1", "1.0", "1.1"]
    without = unpacked(content["heads_off"]["1.0"])
    np.testing.assert_array_equal(
        without.tensors["logits"], subject.look(expected.tensors["ids"], [(1, 0)]).tensors["logits"]
    )
    np.testing.assert_allclose(content["surprise"]["nats"][1:], expected.tensors["surprise"][1:], rtol=1e-4)
    assert len(content["embedding"]["neighbours"]) == 97
    assert content["write"][-1]["done"]
    assert content["held_out"] is None  # its text is not here


def test_history_is_in_it(content: Any, subject: Subject) -> None:
    """Each snapshot with what it made of the prompt, the best weights as the last one; the losses; nothing is live."""
    (run,) = content["model"]["runs"]
    assert (run["name"], run["steps"], run["live"]) == ("run <b>", [0, 10, 20], False)
    history = content["history"]["run <b>"]
    assert list(history) == ["0", "10", "20"]
    traced = [unpacked(history[step]["payload"]).tensors["logits"] for step in ("10", "20")]
    np.testing.assert_allclose(traced[1], subject.look(subject.encode(PROMPT)).tensors["logits"], rtol=1e-5)
    assert not np.allclose(*traced)
    assert history["10"]["sample"]
    metrics = content["metrics"]["run <b>"]
    assert [line["step"] for line in metrics["lines"]] == [10, 20, 21, 30]
    assert metrics["live"] is False


def test_no_path_is_in_it(page: str, subject: Subject) -> None:
    """A page that is put on the web says nothing of the machine it was made on."""
    assert str(subject.folder.path.parent) not in page
    assert str(Path.home()) not in re.sub(r"[\"'](/root)?[\"']", "", page)


def test_a_page_of_a_folder_without_a_run(folder: Path, tmp_path: Path) -> None:
    """Where there is no run there is no history, and all else."""
    plain = Subject.open(folder, "numpy")
    save_page(tmp_path / "page.html", plain, plain.look(plain.encode("1+2")))
    html = (tmp_path / "page.html").read_text(encoding="utf-8")
    (data,) = [text for attributes, text in Parts(html).of("script") if attributes.get("id") == "saved"]
    found = json.loads(data)
    assert (found["model"]["runs"], found["history"], found["metrics"]) == ([], {}, {})


def test_only_its_own_pages_are_replaced(subject: Subject, tmp_path: Path) -> None:
    """A second page replaces the first; a file of somebody else's stays as it is."""
    payload = subject.look(subject.encode("abc"))
    path = tmp_path / "page.html"
    save_page(path, subject, payload)
    first = path.read_bytes()
    save_page(path, subject, subject.look(subject.encode("abcd")))
    assert path.read_bytes() != first
    path.write_text("<html>years of work</html>")
    with pytest.raises(TinyLMError, match=r"page\.html: is there already, and is no page of this program"):
        save_page(path, subject, payload)
    assert path.read_text() == "<html>years of work</html>"
    with pytest.raises(TinyLMError, match="cannot be written"):
        save_page(tmp_path / "none" / "page.html", subject, payload)
    shutil.rmtree(tmp_path / "none", ignore_errors=True)
