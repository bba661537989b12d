"""How runs come about in their folders: resumed exactly, extended, started from other weights, kept apart."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny_runs import (
    CONFIGS,
    PLAIN,
    RICH,
    equal,
    losses,
    on_streams,
    resume,
    same_run,
    stored,
    tensors,
    train,
    train_until,
    weights_of,
    write_text,
)

from mlx_tinylm.backend.choose import load
from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.generation import generate
from mlx_tinylm.model_folder.folder import read_config
from mlx_tinylm.run_folder.record import RunRecord
from mlx_tinylm.run_folder.settings import TrainConfig
from mlx_tinylm.text.reading import Reading
from mlx_tinylm.training import checkpoint, resumption, run

pytestmark = pytest.mark.usefixtures("own_cache")
every_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())


@pytest.fixture
def text(tmp_path: Path) -> Path:
    return write_text(tmp_path / "text.txt")


# Resuming


@every_config
@pytest.mark.parametrize("stop", [1, 2, 5])
def test_resumed_equals_uninterrupted(tmp_path: Path, text: Path, config: TrainConfig, stop: int) -> None:
    """A run that was stopped anywhere and resumed equals one that was not, bit for bit, in losses and tensors."""
    config = dataclasses.replace(config, save_every=3)
    train(tmp_path / "whole", config, text)
    train_until(tmp_path / "halves", config, text, stop)
    assert len(losses(tmp_path / "halves")) < config.steps
    resume(tmp_path / "halves")
    same_run(tmp_path / "halves", tmp_path / "whole")


@every_config
def test_extended_equals_longer(tmp_path: Path, text: Path, config: TrainConfig) -> None:
    """`train N` and `resume M more` equals `train N + M`, where the schedule does not depend on the length.

    How long it is to be is remembered: after the extension was interrupted, resuming alone goes on to its end.
    """
    train(tmp_path / "longer", dataclasses.replace(config, steps=12), text)
    train(tmp_path / "extended", config, text)
    with pytest.raises(TinyLMError, match=r"is at step 8 already; give --steps above 8 to go on"):
        resume(tmp_path / "extended")
    with resumption.resume(on_streams(), tmp_path / "extended", {"steps": 12}) as running:
        for event in running.events():
            if event.step >= 9:
                running.stop()
    assert running.state.step < 12
    resume(tmp_path / "extended")
    same_run(tmp_path / "extended", tmp_path / "longer")


@every_config
def test_resumed_on_other_cores(tmp_path: Path, text: Path, config: TrainConfig) -> None:
    """A run that goes on with another number of streams reaches the same losses, up to rounding."""
    train(tmp_path / "whole", config, text)
    with run.start(on_streams(1), tmp_path / "halves", config, [str(text)]) as running:
        for event in running.events():
            if event.step >= 3:
                running.stop()
    with resumption.resume(on_streams(3), tmp_path / "halves", {}) as running:
        list(running.events())
    for ours, theirs in zip(losses(tmp_path / "halves"), losses(tmp_path / "whole"), strict=True):
        assert [figure or 0.0 for figure in ours] == pytest.approx([figure or 0.0 for figure in theirs], rel=1e-4)


def test_a_run_that_never_saved_can_be_resumed(tmp_path: Path, text: Path) -> None:
    """A run that ended before its first checkpoint, however that came, is resumed from its beginning."""
    config = dataclasses.replace(PLAIN, save_every=1000)
    train(tmp_path / "whole", config, text)
    with run.start(on_streams(), tmp_path / "lost", config, [str(text)]) as running:
        for event in running.events():
            if event.step == 5:
                break
    resumed = resume(tmp_path / "lost")
    assert resumed.state.step == config.steps
    same_run(tmp_path / "lost", tmp_path / "whole")


@pytest.fixture(scope="module")
def halfway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run that was stopped after about four of its eight steps; copy it to change it."""
    folder = tmp_path_factory.mktemp("halfway")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLX_TINYLM_CACHE", str(folder / "cache"))
        train_until(folder / "run", PLAIN, write_text(folder / "text.txt"), 4)
        yield folder / "run"


FREE = {"steps": 9, "eval_every": 3, "save_every": 3, "sample_every": 8, "history": 1, "patience": 9}


@pytest.mark.parametrize("name", [item.name for item in dataclasses.fields(TrainConfig) if item.name not in FREE])
def test_what_decides_the_steps_made_cannot_change(halfway: Path, name: str) -> None:
    """A setting that decides the steps already made is refused on --resume; the message says what to do instead."""
    with pytest.raises(TinyLMError) as caught:
        resume(halfway, **{name: "another"})
    option, message = "--" + name.replace("_", "-"), str(caught.value)
    assert f"was trained with {option} {getattr(PLAIN, name)}, which cannot change on --resume" in message
    assert f"leave {option} out, or start another run with --init-from" in message


def test_what_may_change(halfway: Path, tmp_path: Path) -> None:
    """How long to train, and how often to look and to save, may change on --resume, and other settings be repeated."""
    shutil.copytree(halfway, tmp_path / "run")
    resumed = resume(tmp_path / "run", **FREE, width=16, grad_clip=1.0)
    assert resumed.state.step == 9
    assert resumed.config == dataclasses.replace(PLAIN, **FREE) == RunRecord.read(tmp_path / "run").settings


def test_another_text_is_refused(halfway: Path, tmp_path: Path) -> None:
    """A run does not go on with another text, neither given anew nor changed where it lies."""
    other = write_text(tmp_path / "other.txt", 1_999)
    with pytest.raises(TinyLMError, match=r"was trained on another text than .*other\.txt is now; say with --d"):
        resumption.resume(on_streams(), halfway, {}, [str(other)]).__enter__()
    with resumption.resume(on_streams(), halfway, {}, [str(halfway.parent / "text.txt")]) as running:
        assert running.state.step >= 4


@pytest.mark.parametrize("data", ["-", "./tinyshakespeare"])
def test_where_the_text_came_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: str) -> None:
    """A pipe, which can be read only once, is kept for a resume; a file may have the name of a corpus, or of a pipe."""
    monkeypatch.chdir(tmp_path)
    text = write_text(tmp_path / "tinyshakespeare")
    (tmp_path / "-").write_text("this is not it")
    with open(text, "rb") as pipe:
        monkeypatch.setattr("sys.stdin", type("Stdin", (), {"buffer": pipe}))
        with run.start(on_streams(), tmp_path / "run", PLAIN, [data]) as running:
            assert running.corpus.name == ("stdin" if data == "-" else data)
    monkeypatch.setattr("sys.stdin", None)
    kept = tmp_path / "run" / "text.txt"
    assert (kept.read_bytes() == text.read_bytes()) if data == "-" else not kept.exists()
    assert resume(tmp_path / "run").state.step == 8


def test_other_steps_under_a_falling_rate_are_pointed_out(tmp_path: Path, text: Path) -> None:
    """A resumed run whose learning rate will jump says so; one whose rate is level does not."""
    for schedule, notes in (("linear", 1), ("cosine", 1), ("constant", 0)):
        config = dataclasses.replace(PLAIN, schedule=schedule)
        train_until(tmp_path / schedule, config, text, 2)
        with resumption.resume(on_streams(), tmp_path / schedule, {"steps": 30}) as running:
            assert len(running.notes) == notes
            words = r"the learning rate jumps from 0\.002\d* to 0\.00[23]\d*: it is now that of a run of 30 steps"
            assert all(re.fullmatch(words, note) for note in running.notes)
        with resumption.resume(on_streams(), tmp_path / schedule, {}) as running:
            assert running.notes == ()


# Folders


def test_force_replaces_a_run_and_nothing_else(tmp_path: Path, text: Path) -> None:
    """A folder with a run in it is refused; with --force nothing of that is left, and files of other kinds stay."""
    folder = tmp_path / "run"
    train(folder, dataclasses.replace(RICH, steps=20), text)
    (folder / "notes.txt").write_text("mine")
    (folder / ".model.safetensors.77.tmp").write_text("left by a run that was killed")
    before = {path.name for path in folder.iterdir()}
    with pytest.raises(TinyLMError, match=r"has something in it already \(checkpoints, .*\); choose another --out"):
        train(folder, PLAIN, text)
    assert {path.name for path in folder.iterdir()} == before
    train(folder, PLAIN, text, force=True)
    train(tmp_path / "other", PLAIN, text)
    same_run(folder, tmp_path / "other")
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["00000006", "00000008"]
    names = {path.name for path in (tmp_path / "other").iterdir()}
    assert {path.name for path in folder.iterdir()} == names | {"notes.txt"}


def test_two_runs_never_share_a_folder(tmp_path: Path, text: Path) -> None:
    """While a run holds its folder, neither a start nor a resume gets in; afterwards they do."""
    with run.start(on_streams(), tmp_path / "run", PLAIN, [str(text)]):
        for attempt in (
            run.start(on_streams(), tmp_path / "run", PLAIN, [str(text)], force=True),
            resumption.resume(on_streams(), tmp_path / "run", {}),
        ):
            with pytest.raises(TinyLMError, match=r"another training run is writing here"):
                attempt.__enter__()
    assert resume(tmp_path / "run").state.step == 8


def test_force_never_removes_what_the_new_run_is_made_from(tmp_path: Path, text: Path) -> None:
    """A text beside a run stays; where the text, or the weights to start from, would be replaced, nothing is done."""
    book = tmp_path / "mybook"
    book.mkdir()
    mine = write_text(book / "text.txt")
    train(book, PLAIN, mine, force=True)
    train(book, PLAIN, mine, force=True)
    assert mine.read_bytes() == text.read_bytes()
    before = stored(book)
    with pytest.raises(TinyLMError, match=r"mybook: the new run is to be made from this, and --force would remove it"):
        train(book, PLAIN, mine, force=True, init_from=book)
    with pytest.raises(TinyLMError, match=r"tokenizer\.json: the new run is to be made from this, and --force would"):
        train(book, PLAIN, book / "tokenizer.json", force=True)
    assert stored(book) == before


def test_force_keeps_the_only_copy_of_a_text(tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What came through a pipe stays, whatever is trained there next; another pipe is refused, the same one is not."""
    folder, other = tmp_path / "run", write_text(tmp_path / "other.txt", 1_500)

    def piped(source: Path, **more: Any) -> None:
        with open(source, "rb") as pipe:
            monkeypatch.setattr("sys.stdin", type("Stdin", (), {"buffer": pipe}))
            with run.start(on_streams(), folder, PLAIN, ["-"], **more):
                pass

    piped(text)
    kept = folder / "text.txt"
    train(folder, PLAIN, kept, force=True)
    train(folder, PLAIN, other, force=True)
    with pytest.raises(TinyLMError, match=r"text\.txt: is another text, perhaps the only copy of what came through"):
        piped(other, force=True)
    piped(text, force=True)
    assert kept.read_bytes() == text.read_bytes()
    assert resume(folder).state.step == 8
    train(folder, PLAIN, kept, force=True)
    folder.rename(tmp_path / "moved")
    assert resume(tmp_path / "moved", steps=9).state.step == 9  # its own text moves with it


def test_force_replaces_runs_only(tmp_path: Path, text: Path) -> None:
    """A model that was not trained here, or a config.json of another kind, is not removed by --force."""
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "config.json").write_text('{"title": "my page"}')
    with pytest.raises(TinyLMError, match=r"site: has config\.json, and no train\.json that a run of this pro"):
        train(folder, PLAIN, text, force=True)
    for theirs, message in (('{"lr": 1}', "has config.json, train.json, and no"), ("not JSON", "may be none: choose")):
        (folder / "train.json").write_text(theirs)
        with pytest.raises(TinyLMError, match=message):
            train(folder, PLAIN, text, force=True)
        assert (folder / "train.json").read_text() == theirs
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "train.json"]


def test_a_folder_that_exists_keeps_its_place(tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """--out . trains in the folder itself, which stays the same one, with its mode."""
    folder = tmp_path / "here"
    folder.mkdir(mode=0o700)
    before = folder.stat()
    monkeypatch.chdir(folder)
    train(Path(), PLAIN, text)
    assert (folder.stat().st_ino, folder.stat().st_mode) == (before.st_ino, before.st_mode)
    assert resume(Path(), steps=9).state.step == 9


def test_nothing_is_left_of_a_run_that_could_not_begin(tmp_path: Path, text: Path) -> None:
    """Where the first checkpoint cannot be written there is no folder, under no name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "save", lambda *_: os.mkdir(text))
        with pytest.raises(TinyLMError, match=r"run: cannot be written \(File exists\)"):
            train(tmp_path / "run", PLAIN, text)
    assert [path.name for path in tmp_path.iterdir() if path.name != "home"] == ["text.txt"]


def test_unwritable_checkpoints_are_found_before_the_first_step(
    halfway: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run whose checkpoints cannot be written is not resumed: better now than after hours."""
    shutil.copytree(halfway, tmp_path / "run")
    real = os.replace

    def refused(source: Any, target: Any) -> None:
        if "checkpoints" in str(target):
            raise PermissionError(13, "Permission denied")
        real(source, target)

    monkeypatch.setattr(os, "replace", refused)
    with pytest.raises(TinyLMError, match=r"cannot be written \(Permission denied\); you may not write there: change"):
        resume(tmp_path / "run")


def test_a_text_that_moved(halfway: Path, tmp_path: Path) -> None:
    """A run goes on with its text wherever that lies now, and remembers the new place."""
    folder, text = tmp_path / "run", tmp_path / "moved.txt"
    train_until(folder, PLAIN, write_text(tmp_path / "text.txt"), 2)
    (tmp_path / "text.txt").rename(text)
    with pytest.raises(TinyLMError, match=r"the text it was trained on, .* is not here; give a text with --data"):
        resume(folder)
    with resumption.resume(on_streams(), folder, {}, [str(text)]):
        pass
    assert RunRecord.read(folder).data == (str(text.resolve()),)
    assert resume(folder).state.step == 8


# Starting from other weights


@every_config
def test_init_from(tmp_path: Path, text: Path, config: TrainConfig) -> None:
    """A run that starts from a model begins with its weights and shape, on new text, with its tokenizer."""
    train(tmp_path / "first", dataclasses.replace(config, steps=4, ema=None), text)
    new = write_text(tmp_path / "new.txt", 1_300)
    with run.start(
        on_streams(), tmp_path / "second", TrainConfig(steps=4), [str(new)], init_from=tmp_path / "first"
    ) as running:
        assert equal(weights_of(running.state), tensors(tmp_path / "first"))
        assert equal(tensors(tmp_path / "second"), tensors(tmp_path / "first"))
        assert (running.config.family, running.config.width, running.config.context) == (config.family, 16, 8)
    first, second = (tmp_path / name / "tokenizer.json" for name in ("first", "second"))
    assert first.read_text() == second.read_text()


def test_ids_that_training_never_shows(tmp_path: Path) -> None:
    """What stands in the held-out tenth alone, and the end of the text, is recorded; fine-tuning may show it yet."""
    (tmp_path / "text.txt").write_text("abcd " * 100 + "z" * 56)
    (tmp_path / "more.txt").write_text("abz " * 100)
    train(tmp_path / "first", PLAIN, tmp_path / "text.txt")
    assert read_config(tmp_path / "first").suppressed == (5, 6)
    train(tmp_path / "second", PLAIN, tmp_path / "more.txt", init_from=tmp_path / "first")
    assert read_config(tmp_path / "second").suppressed == (6,)


def test_init_from_refuses_unknown_characters(tmp_path: Path, text: Path) -> None:
    """New text with characters that the tokenizer lacks is refused, with their list, before a folder is made."""
    train(tmp_path / "first", dataclasses.replace(PLAIN, steps=1), text)
    (tmp_path / "new.txt").write_text("été œuvre\x07" * 100)
    with pytest.raises(TinyLMError, match=r"has 3 characters that the model in .*first does not know: \\x07éœ\."):
        run.start(
            on_streams(), tmp_path / "second", PLAIN, [str(tmp_path / "new.txt")], init_from=tmp_path / "first"
        ).__enter__()
    assert not (tmp_path / "second").exists()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("width", 32, r"--width 32: the model in .* has 16; leave it out"),
        ("layers", 2, r"--layers 2: the model in .* has 1; leave it out"),
        ("family", "qwen3", r"--family qwen3: the model in .* has gpt2; leave it out"),
        ("context", 16, r"--context 16: the model in .* sees 8 at most"),
    ],
)
def test_init_from_refuses_another_shape(halfway: Path, tmp_path: Path, name: str, value: Any, message: str) -> None:
    """A shape that was asked for and is not that of the weights is refused; to see fewer characters at once is not."""
    config = dataclasses.replace(PLAIN, **{name: value})
    with pytest.raises(TinyLMError, match=message):
        run.start(
            on_streams(), tmp_path / "run", config, [str(halfway.parent / "text.txt")], init_from=halfway, given={name}
        ).__enter__()
    shorter = dataclasses.replace(PLAIN, context=4, steps=2)
    train(tmp_path / "run", shorter, halfway.parent / "text.txt", init_from=halfway, given={"context"})
    assert read_config(tmp_path / "run").context == 8


def test_impossible_shapes_are_refused_first(tmp_path: Path) -> None:
    """A shape that no model can have is refused before any text is looked for, and no folder is made."""
    with pytest.raises(TinyLMError, match=r"width 16 does not divide into 3 heads; choose a multiple"):
        run.start(on_streams(), tmp_path / "run", dataclasses.replace(PLAIN, heads=3), ["no such text"]).__enter__()
    assert not (tmp_path / "run").exists()


def test_any_unicode_trains_and_comes_back(tmp_path: Path) -> None:
    """Emoji, combining marks, right-to-left text, CRLF and NUL train, and come back from the tokenizer as they were."""
    sample = "naïve e\u0301 👩\u200d🚀 שלום مرحبا\r\nline\u2028sep \x00 \x1b[31m tab\t\U0010ffff 漢字\u3000\xa0"
    path = tmp_path / "text.txt"
    path.write_bytes((sample * 12).encode())
    train(tmp_path / "run", dataclasses.replace(PLAIN, steps=2, sample_every=1), path, reading=Reading(raw=True))
    model, tokenizer = load(tmp_path / "run")
    assert tokenizer.decode(tokenizer.encode(sample)) == sample
    assert set(generate(model, tokenizer, "\x00\r\n👩", max_tokens=20)) <= set(sample)
