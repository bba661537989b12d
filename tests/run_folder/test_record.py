"""train.json: written and read back whole, or named where it is damaged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.integrity import sealed, sha256_of
from mlx_tinylm.run_folder.record import RunRecord, TextRecord
from mlx_tinylm.run_folder.settings import TrainConfig


@pytest.fixture
def record(tmp_path: Path) -> RunRecord:
    """The record of a run in `tmp_path`, where the model's small files are."""
    for name in ("config.json", "tokenizer.json"):
        (tmp_path / name).write_text(f"this is {name}")
    record = RunRecord(
        settings=TrainConfig(steps=7, dropout=0.1),
        init_from=None,
        data=("tinyshakespeare", "text.txt"),
        corpus=TextRecord("plays", "5" * 64, 1234),
        files={name: sha256_of(tmp_path / name) for name in ("config.json", "tokenizer.json")},
        versions={"mlx-tinylm": "1.2"},
        device="Device(cpu, 0)",
    )
    record.write(tmp_path)
    return record


def test_written_and_read(tmp_path: Path, record: RunRecord) -> None:
    """A record comes back as it was written, under the keys that train.json always had, in their order."""
    assert RunRecord.read(tmp_path) == RunRecord.find(tmp_path) == record
    raw = json.loads((tmp_path / "train.json").read_text())
    keys = ["settings", "init_from", "data", "corpus", "files", "versions", "device", "tf32"]
    assert list(raw) == [*keys, "reading", "val_data", "val_corpus", "sha256"]
    assert raw["corpus"] == {"name": "plays", "sha256": "5" * 64, "characters": 1234, "pairs": 0}
    assert (raw["settings"], raw["data"]) == (record.settings.to_json(), ["tinyshakespeare", "text.txt"])


def test_no_record(tmp_path: Path) -> None:
    """A folder without train.json has no record; to go on there is a mistake."""
    assert RunRecord.find(tmp_path) is None
    with pytest.raises(TinyLMError, match=r"no run to resume here \(train\.json is missing\)"):
        RunRecord.read(tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[]", "3", "{}", '{"settings": {}, "sha256": "0"}'])
def test_damage_is_named(tmp_path: Path, content: str) -> None:
    """A train.json that is not what was written is named, whoever asks."""
    (tmp_path / "train.json").write_text(content)
    for ask in (RunRecord.find, RunRecord.read):
        with pytest.raises(TinyLMError, match=r"train\.json: "):
            ask(tmp_path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("settings", None),
        ("settings", {}),
        ("settings", {**TrainConfig().to_json(), "colour": "red"}),
        ("settings", {**TrainConfig().to_json(), "steps": 0}),
        ("data", None),
        ("data", 3),
        ("corpus", None),
        ("corpus", {"name": "plays"}),
        ("corpus", {"name": "plays", "sha256": "5", "characters": "many"}),
        ("files", 3),
        ("versions", None),
    ],
)
def test_a_whole_file_that_is_no_record(tmp_path: Path, record: RunRecord, key: str, value: Any) -> None:
    """A seal that fits does not make a record of what is none."""
    (tmp_path / "train.json").write_text(sealed(record.to_json() | {key: value}))
    with pytest.raises(TinyLMError, match=r"train\.json: "):
        RunRecord.find(tmp_path)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_a_run_goes_on_only_with_its_small_files(tmp_path: Path, record: RunRecord, name: str) -> None:
    """Shape and tokenizer must be those the run began with to go on, not to be looked at."""
    (tmp_path / name).write_text("another")
    with pytest.raises(TinyLMError, match=rf"{name}: is not what this run began with; put it back from a copy"):
        RunRecord.read(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(TinyLMError, match=rf"{name}: is missing; put it back from a copy"):
        RunRecord.read(tmp_path)
    assert RunRecord.find(tmp_path) == record


def recorded(record: RunRecord, folder: Path, *data: str) -> RunRecord:
    (folder / "train.json").write_text(sealed(record.to_json() | {"data": data}))
    found = RunRecord.find(folder)
    assert found
    return found


def test_sources(tmp_path: Path, record: RunRecord) -> None:
    """The text is opened again by its name, its path, or from the run's folder where a pipe brought it."""
    (tmp_path / "text.txt").write_text("x")
    assert record.sources(tmp_path) == ["tinyshakespeare", str(tmp_path / "text.txt")]
    assert recorded(record, tmp_path, str(tmp_path)).sources(tmp_path) == [str(tmp_path)]


@pytest.mark.parametrize("item", ["-", "/dev/zero", "no such file", "\0", "x" * 9999, "text.txt"])
def test_a_text_that_is_not_here(tmp_path: Path, record: RunRecord, item: str) -> None:
    """Standard input, a device or a lost file, recorded by whomever, is never opened: a text is asked for."""
    with pytest.raises(TinyLMError, match="is not here; give a text with --data") as caught:
        recorded(record, tmp_path, item).sources(tmp_path)
    assert len(str(caught.value)) < 500


def test_a_record_from_before_tf32_was_noted(tmp_path: Path, record: RunRecord) -> None:
    """A train.json that does not say whether products were TF32 can go on."""
    raw = record.to_json()
    del raw["tf32"]
    (tmp_path / "train.json").write_text(sealed(raw))
    assert RunRecord.read(tmp_path) == record
