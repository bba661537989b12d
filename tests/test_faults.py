"""Broken on purpose: killed anywhere, disks that fail, signals, rot, two at once. Nothing is lost, nothing gets in."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from faulty_disk import FaultyDisk, Killed
from tiny_runs import (
    EXECUTABLE,
    PLAIN,
    RICH,
    SOAK,
    command,
    environment,
    equal,
    metrics,
    options,
    resume,
    same_run,
    train,
    train_until,
    write_text,
)

from mlx_tinylm.backend.choose import load
from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.generation import generate, stream_generate
from mlx_tinylm.model_folder.tensor_files import read_safetensors
from mlx_tinylm.run_folder.record import record, truncate_metrics
from mlx_tinylm.training import checkpoint, run

pytestmark = pytest.mark.usefixtures("own_cache")
SHORT = dataclasses.replace(PLAIN, steps=4, eval_every=2, dropout=0.2, ema=0.9)
LONG = dataclasses.replace(PLAIN, steps=90, eval_every=5, save_every=3)
STARTED = "step 1/"  # what `train` writes to stderr once it is under way


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """`whole`: four steps; `half`: the same, stopped after two; `long`: 90; and text.txt, and a cache for commands."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mlx_tinylm.text.ids.cache_dir", lambda: folder / "ids")
        text = write_text(folder / "text.txt")
        train(folder / "whole", SHORT, text)
        train(folder / "long", LONG, text)
        train_until(folder / "half", SHORT, text, 1)
    assert [path.name for path in checkpoint.saved(folder / "half")] == ["00000002", "00000000"]
    return folder


def copied(runs: Path, tmp_path: Path, name: str = "half") -> Path:
    return Path(shutil.copytree(runs / name, tmp_path / "run"))


def works(folder: Path) -> None:
    """Assert that the folder is a model that writes text."""
    model, tokenizer = load(folder, "numpy")
    generate(model, tokenizer, "e", max_tokens=2)


def unfinished(folder: Path) -> list[str]:
    """Whatever is half made: names that are not final, and checkpoints that miss a part."""
    found = [path for path in folder.rglob(".*") if path.name != ".lock"]
    found += [path for path in checkpoint.saved(folder) if len(list(path.iterdir())) != 4]
    return [str(path.relative_to(folder)) for path in found]


def with_prelude(prelude: str, *arguments: object) -> list[str]:
    """The command with a line of Python before it: what must be set up in that very process."""
    python, option, program = EXECUTABLE
    return [python, option, f"{prelude}; {program}", *map(str, arguments)]


# Every point of a save


@contextlib.contextmanager
def faulty_disk(at: int | None = None, error: int | None = None) -> Iterator[FaultyDisk]:
    with pytest.MonkeyPatch.context() as patch:
        yield FaultyDisk(patch, at, error)


def points_of(action: Callable[[], Any]) -> list[str]:
    """The calls that change something on the disk while `action` runs."""
    with faulty_disk() as disk:
        action()
    return disk.calls


def points_of_going_on(runs: Path, tmp_path: Path) -> list[str]:
    """Those of resuming `half`, with the text already encoded in the cache."""
    for _ in range(2):
        folder = copied(runs, tmp_path)
        points = points_of(lambda folder=folder: resume(folder))
        shutil.rmtree(folder)
    return points


def test_killed_at_every_point_of_going_on(runs: Path, tmp_path: Path) -> None:
    """Killed between any two calls of a resumed run, the folder still writes text and is resumed to the same end."""
    points = points_of_going_on(runs, tmp_path)
    assert len(points) > 40
    assert set(points) == {"open to write", "write", "fsync", "replace", "rename", "mkdir", "unlink", "rmdir"}
    for at in range(len(points)):
        folder = copied(runs, tmp_path)
        with faulty_disk(at), pytest.raises(Killed):
            resume(folder)
        works(folder)
        with contextlib.suppress(TinyLMError):  # killed when everything was done
            resume(folder)
        same_run(folder, runs / "whole")
        works(folder)
        assert unfinished(folder) == [], (at, points[at])
        shutil.rmtree(folder)


def test_what_is_written_outlasts_a_power_cut(runs: Path, tmp_path: Path) -> None:
    """Each file is flushed to the disk before it takes its name, and its folder after that."""
    calls = " ".join(points_of_going_on(runs, tmp_path))
    assert calls.count("write fsync replace fsync") == calls.count("replace") > 4
    assert "fsync unlink rename rename fsync" in calls  # the old checkpoint of this name goes, the new one comes


def test_killed_at_every_point_of_starting(runs: Path, tmp_path: Path) -> None:
    """Killed anywhere in a start, the folder is resumed, or replaced with --force where nothing had been begun."""
    config = dataclasses.replace(PLAIN, steps=1)
    train(tmp_path / "whole", config, runs / "text.txt")

    def begin(folder: Path) -> None:
        with run.start(folder, config, [str(runs / "text.txt")]):
            pass

    points = points_of(lambda: begin(tmp_path / "counted"))
    assert len(points) > 40
    for at in range(len(points)):
        folder = tmp_path / f"run-{at}"
        with faulty_disk(at), pytest.raises(Killed):
            begin(folder)
        if (folder / "train.json").exists():
            assert at >= len(points) - 2  # it comes last
            works(folder)
            resume(folder)
        else:
            train(folder, config, runs / "text.txt", force=True)
        same_run(folder, tmp_path / "whole")
        assert unfinished(folder) == [], (at, points[at])


ERRORS = (errno.ENOSPC, errno.EROFS, errno.EIO)


@pytest.mark.parametrize("error", ERRORS, ids=os.strerror)
def test_a_disk_that_fails_at_every_point(runs: Path, tmp_path: Path, error: int) -> None:
    """A disk that fails at any point is one clear message; what was good stays, and no half files are left."""
    points = points_of_going_on(runs, tmp_path)
    every_point = range(len(points))
    for at in every_point if SOAK else every_point[ERRORS.index(error) :: len(ERRORS)]:  # together they try all
        folder = copied(runs, tmp_path)
        message = None
        with faulty_disk(at, error):
            try:
                resume(folder)
            except TinyLMError as failure:
                message = str(failure)
        if message is None:  # nothing but removing was left to do
            assert set(points[at:]) <= {"rename", "unlink", "rmdir"}
        else:
            assert os.strerror(error) in message, (at, points[at])
            assert "\n" not in message
        assert unfinished(folder) == [], (at, points[at])
        works(folder)
        with contextlib.suppress(TinyLMError):
            resume(folder)
        same_run(folder, runs / "whole")
        shutil.rmtree(folder)


def test_a_full_disk_says_how_to_go_on(runs: Path, tmp_path: Path) -> None:
    """The message of a save that failed names the file, the reason, and the command that goes on afterwards."""
    folder = copied(runs, tmp_path)
    with run.resume(folder, {}) as running, faulty_disk(0, errno.ENOSPC), pytest.raises(TinyLMError) as caught:
        list(running.events())
    message = str(caught.value)
    assert message.startswith(f"{folder / 'metrics.jsonl'}: cannot be written (No space left on device)")
    assert message.endswith(f"then go on from the last checkpoint: mlx-tinylm train --resume {folder}")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_a_really_full_disk(tmp_path: Path) -> None:
    """A write that the operating system itself refuses is reported with its reason."""
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    with pytest.raises(TinyLMError, match=r"metrics\.jsonl: cannot be written \(No space left on device\)"):
        record(tmp_path, {"step": 1})
    with pytest.raises(TinyLMError, match=r"metrics\.jsonl: not a file"):
        truncate_metrics(tmp_path, 1)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit on the size of files")
def test_file_size_limit(runs: Path, tmp_path: Path) -> None:
    """Where files may not grow large enough to save, training ends with one message and the old state intact."""
    folder = copied(runs, tmp_path)
    limit = (folder / "checkpoints" / "00000002" / "optimizer.safetensors").stat().st_size - 1
    limited = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))"
    ended = subprocess.run(
        with_prelude(limited, "train", "--resume", folder),
        capture_output=True,
        text=True,
        env=environment(runs / "cache"),
        timeout=60,
    )
    assert ended.returncode == 1
    assert "File too large" in ended.stderr.splitlines()[-1]
    assert "Traceback" not in ended.stderr
    assert unfinished(folder) == []
    works(folder)
    resume(folder)
    same_run(folder, runs / "whole")


@pytest.mark.parametrize("kind", [run.Stepped, run.Evaluated, run.Saved])
def test_a_folder_that_vanishes(runs: Path, tmp_path: Path, kind: type) -> None:
    """A folder that is removed while it is trained in ends the run with a message, and is not made anew."""
    folder = tmp_path / "run"

    def train_and_remove() -> None:
        with run.start(folder, dataclasses.replace(PLAIN, eval_every=1), [str(runs / "text.txt")]) as running:
            for event in running.events():
                if isinstance(event, kind):
                    shutil.rmtree(folder, ignore_errors=True)

    with pytest.raises(TinyLMError, match=r"run.*: (cannot be written \(No such file or directory\)|is gone)"):
        train_and_remove()
    assert not folder.exists()


def test_a_vanished_folder_is_not_saved_into(runs: Path, tmp_path: Path) -> None:
    """A checkpoint is not written where its run's folder is gone."""
    with run.resume(copied(runs, tmp_path), {}) as running:
        shutil.rmtree(tmp_path / "run")
        with pytest.raises(TinyLMError, match=r"run: is gone"):
            checkpoint.save(tmp_path / "run", running.state, {})
    assert not (tmp_path / "run").exists()


# Processes of their own


class Process:
    """A `train` under way in a process of its own; its stderr is read line by line."""

    def __init__(self, runs: Path, *arguments: object) -> None:
        self.process = subprocess.Popen(
            [*EXECUTABLE, *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(runs / "cache"),
        )
        self.errors = ""

    def wait_for(self, text: str) -> None:
        """Read stderr up to a line with `text` in it."""
        assert self.process.stderr
        for line in self.process.stderr:
            self.errors += line
            if text in line:
                return
        raise AssertionError(f"it ended before it said {text!r}: {self.errors}")

    def send(self, number: int) -> None:
        self.process.send_signal(number)

    def end(self) -> tuple[int, str]:
        """Wait for the end; the exit code and stdout."""
        output, errors = self.process.communicate(timeout=120)
        self.errors += errors or ""
        assert "Traceback" not in self.errors
        return self.process.returncode, output


@pytest.fixture
def training(runs: Path) -> Iterator[Callable[..., Process]]:
    """Start commands; what still runs at the end of the test is killed."""
    started: list[Process] = []

    def start(*arguments: object) -> Process:
        started.append(Process(runs, *arguments))
        return started[-1]

    yield start
    for each in started:
        each.process.kill()
        each.process.communicate()


def new_run(runs: Path, folder: Path, config: Any = LONG) -> list[object]:
    return ["train", "--data", runs / "text.txt", "--out", folder, *options(config)]


def test_killed_at_random_moments(runs: Path, tmp_path: Path, training: Callable[..., Process]) -> None:
    """However often a run is killed with SIGKILL, it goes on, writes text in between, and ends as if never killed."""
    folder, chance = tmp_path / "run", random.Random(6)
    kills = survived = 0
    while kills < (100 if SOAK else 4):
        begun = (folder / "train.json").exists()
        if begun and checkpoint.saved(folder)[0].name == "00000090":  # it is done; begin again
            same_run(folder, runs / "long")
            shutil.rmtree(folder)
            continue
        more = ["train", "--resume", folder] if begun else [*new_run(runs, folder), "--force"]
        process = training(*more)
        if chance.random() < 0.8:
            process.wait_for("training  ")
            time.sleep(chance.random() * 0.4)
        else:
            time.sleep(chance.random() * 1.5)
        process.send(signal.SIGKILL)
        code, _ = process.end()
        if code == 0:
            continue
        assert code == -signal.SIGKILL
        kills += 1
        if (folder / "train.json").exists():
            works(folder)
            with contextlib.suppress(FileNotFoundError):
                steps = [line["step"] for line in metrics(folder)]
                assert steps == list(range(1, len(steps) + 1))
        survived += 1
    if not (folder / "train.json").exists():
        train(folder, LONG, runs / "text.txt", force=True)
    elif checkpoint.saved(folder)[0].name != "00000090":
        resume(folder)
    same_run(folder, runs / "long")
    assert survived == kills


def test_text_can_be_written_at_any_moment(runs: Path, tmp_path: Path, training: Callable[..., Process]) -> None:
    """While a run validates and saves at every step, its folder is a whole model whenever one looks."""
    folder = tmp_path / "run"
    config = dataclasses.replace(LONG, steps=30, eval_every=1, save_every=1)
    process = training(*new_run(runs, folder, config))
    while not (folder / "train.json").exists():
        assert process.process.poll() is None
        time.sleep(0.01)
    looks = 0
    while process.process.poll() is None:
        works(folder)
        looks += 1
    assert process.end()[0] == 0
    assert looks > 5


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves(
    runs: Path, tmp_path: Path, training: Callable[..., Process], number: signal.Signals, code: int
) -> None:
    """Ctrl-C or SIGTERM: the step under way is finished and saved, and the command that goes on is printed."""
    folder = tmp_path / "run"
    config = dataclasses.replace(LONG, steps=100_000, save_every=100_000, eval_every=100_000)
    process = training(*new_run(runs, folder, config))
    process.wait_for(STARTED)
    process.send(number)
    ended, output = process.end()
    assert ended == code
    assert "finishing this step and saving; once more leaves at once" in process.errors
    assert output.splitlines()[-1] == f"Go on:          mlx-tinylm train --resume {folder}"
    done = int(checkpoint.saved(folder)[0].name)
    assert 0 < done == metrics(folder)[-1]["step"]
    assert unfinished(folder) == []
    assert resume(folder, steps=done + 1).state.step == done + 1


@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_leaves_at_once(
    runs: Path, tmp_path: Path, training: Callable[..., Process], second: signal.Signals
) -> None:
    """A second signal of either kind ends the process in the middle of a long step; the folder can be resumed."""
    folder = tmp_path / "run"
    slow = dataclasses.replace(LONG, batch_size=6_000, context=16, width=32, eval_every=100)
    process = training(*new_run(runs, folder, slow))
    process.wait_for(STARTED)
    process.send(signal.SIGINT)
    process.wait_for("once more leaves at once")
    process.send(second)
    assert process.end()[0] == -second
    works(folder)
    with run.resume(folder, {}) as running:
        assert running.state.step == 0


def test_ctrl_c_at_a_terminal(runs: Path, tmp_path: Path) -> None:
    """Ctrl-C typed at a terminal, where the bar is drawn, saves and prints the command that goes on."""
    import fcntl
    import pty
    import struct
    import termios

    folder = tmp_path / "run"
    arguments = new_run(runs, folder, dataclasses.replace(LONG, steps=100_000, sample_every=200))
    keyboard, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 150, 0, 0))
    process = subprocess.Popen(
        with_prelude("import fcntl, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0)", *arguments),
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        env=environment(runs / "cache"),
        start_new_session=True,
    )
    os.close(terminal)
    shown, typed = b"", False
    with contextlib.suppress(OSError):  # to read from a terminal that nobody holds any more is an error
        while block := os.read(keyboard, 4096):
            shown += block
            if not typed and b"tokens/s" in shown:
                typed = bool(os.write(keyboard, b"\x03"))
            if shown.count(b"\r") > 5_000:
                process.kill()
    os.close(keyboard)
    text = shown.decode()
    assert process.wait(timeout=60) == 130, text
    assert f"mlx-tinylm train --resume {folder}" in text
    assert "Traceback" not in text
    assert "/100000" in text  # the bar
    assert checkpoint.saved(folder)


def test_a_closed_pipe_is_quiet(runs: Path, tmp_path: Path) -> None:
    """`generate | head -c 20` ends without a word of complaint."""
    folder = copied(runs, tmp_path, "whole")
    raw = json.loads((folder / "config.json").read_text())  # a model of four steps would end its text anywhere
    (folder / "config.json").write_text(json.dumps(raw | {"eos_token_id": None}))
    writer = subprocess.Popen(
        [*EXECUTABLE, "generate", "--weights", str(folder), "--prompt", "e", "--max-tokens", "100000"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(runs / "cache"),
    )
    assert writer.stdout
    assert writer.stderr
    with writer.stdout, writer.stderr:
        assert len(writer.stdout.read(20)) == 20
        writer.stdout.close()
        complaints = writer.stderr.read()
    assert writer.wait(timeout=60) in (0, 1, -signal.SIGPIPE)
    assert complaints == b""


def test_a_closed_pipe_saves_a_run(runs: Path, tmp_path: Path, training: Callable[..., Process]) -> None:
    """`train 2>&1 | head` ends the run as Ctrl-C does: its steps are saved."""
    folder = tmp_path / "run"
    process = training(*new_run(runs, folder, dataclasses.replace(LONG, steps=100_000, save_every=100_000)))
    process.wait_for(STARTED)
    assert process.process.stderr
    process.process.stderr.close()
    process.process.stderr = None
    process.end()
    assert int(checkpoint.saved(folder)[0].name) == metrics(folder)[-1]["step"] > 0


def test_nobody_listens(runs: Path, tmp_path: Path) -> None:
    """With stdout and stderr closed from the start, commands do their work all the same."""
    for arguments in (["train", "--resume", copied(runs, tmp_path)], ["generate", "--weights", runs / "whole"]):
        silent = ["sh", "-c", 'exec "$@" >&- 2>&-', "sh", *EXECUTABLE, *map(str, arguments)]
        assert subprocess.run(silent, env=environment(runs / "cache"), timeout=60).returncode == 0
    same_run(tmp_path / "run", runs / "whole")


def test_two_at_once(runs: Path, tmp_path: Path, training: Callable[..., Process]) -> None:
    """A second process is refused while the first lives, and gets in the moment the first is killed."""
    folder = tmp_path / "run"
    first = training(*new_run(runs, folder, dataclasses.replace(LONG, steps=100_000)))
    first.wait_for(STARTED)
    for arguments in (["train", "--resume", folder], [*new_run(runs, folder), "--force"]):
        second = command(runs / "cache", *arguments)
        assert second.returncode == 1
        assert f"Error: {folder}: another training run is writing here; wait for it" in second.stderr
    first.send(signal.SIGKILL)
    first.end()
    with run.resume(folder, {"steps": 200_000}):
        pass


# Bit rot


def truncate(path: Path, _: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path, _: Path) -> None:
    path.write_bytes(b"")


def zeros(path: Path, _: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def vanish(path: Path, _: Path) -> None:
    path.unlink()


def directory(path: Path, _: Path) -> None:
    path.unlink()
    path.mkdir()


def swap(path: Path, other: Path) -> None:
    shutil.copy(other / path.name, path)


HARM = {
    "truncate": truncate,
    "empty": empty,
    "zeros": zeros,
    "vanish": vanish,
    "directory": directory,
    "swap": swap,
}
NEEDED = ("config.json", "tokenizer.json", "model.safetensors")
WRITTEN = ("model.safetensors", "metrics.jsonl")


@pytest.fixture(scope="module")
def another(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of another shape on text with another alphabet."""
    folder = tmp_path_factory.mktemp("another")
    (folder / "text.txt").write_text("Stately, plump BUCK MULLIGAN came from the stairhead. " * 30)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mlx_tinylm.text.ids.cache_dir", lambda: folder / "ids")
        train(folder / "run", dataclasses.replace(PLAIN, width=24, steps=1), folder / "text.txt")
    return folder / "run"


@pytest.mark.parametrize("harm", HARM.values(), ids=HARM.keys())
@pytest.mark.parametrize("name", NEEDED)
@pytest.mark.parametrize("backend", ["mlx", "numpy"])
def test_rot_in_a_model_folder(
    runs: Path, another: Path, tmp_path: Path, backend: str, name: str, harm: Callable[[Path, Path], None]
) -> None:
    """A model folder with a damaged or foreign file is refused in one line that names a file."""
    folder = copied(runs, tmp_path, "whole")
    harm(folder / name, another)
    with pytest.raises(TinyLMError) as caught:
        load(folder, backend)
    assert str(folder) in str(caught.value)
    assert any(each in str(caught.value) for each in NEEDED)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("harm", HARM.values(), ids=HARM.keys())
@pytest.mark.parametrize("name", [*NEEDED, "train.json", "metrics.jsonl", "tokenizer_config.json"])
def test_rot_in_a_run(runs: Path, another: Path, tmp_path: Path, name: str, harm: Callable[[Path, Path], None]) -> None:
    """A run whose file was damaged says which, or goes on to the very end it would have had."""
    folder = copied(runs, tmp_path)
    harm(folder / name, another)
    if name in ("config.json", "tokenizer.json", "train.json") or (harm is directory and name in WRITTEN):
        # Settings of another run are whole, but do not vouch for the shape and tokenizer that are here.
        named = r"config\.json" if (name, harm) == ("train.json", swap) else name.replace(".", r"\.")
        with pytest.raises(TinyLMError, match=named):
            resume(folder)
        return
    resumed = resume(folder)
    if name == "model.safetensors":
        assert len(resumed.notes) == 1
        assert "those of step 2 are there now" in resumed.notes[0]
        works(folder)
    if name != "metrics.jsonl":
        same_run(folder, runs / "whole")


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "train.json"])
def test_each_flipped_bit_of_a_run_is_noticed(runs: Path, tmp_path: Path, name: str) -> None:
    """A run goes on only with the very settings, shape and tokenizer that it began with, to the last bit."""
    folder = copied(runs, tmp_path)
    content = (folder / name).read_bytes()
    places = range(len(content)) if SOAK else random.Random(1).sample(range(len(content)), 60)
    for place in places:
        bit = 1 << place % 8
        (folder / name).write_bytes(content[:place] + bytes([content[place] ^ bit]) + content[place + 1 :])
        try:
            run.read_settings(folder)
        except TinyLMError as error:
            message = str(error)
        else:
            message = f"bit {place % 8} of byte {place} was not noticed"
        assert name in message


@pytest.mark.parametrize("name", NEEDED)
def test_flipped_bits_of_a_model_folder(runs: Path, tmp_path: Path, name: str) -> None:
    """With any bit of its files flipped, a folder is a model that writes text or is refused: nothing else happens."""
    folder = copied(runs, tmp_path, "whole")
    whole = read_safetensors(folder / "model.safetensors")
    content = (folder / name).read_bytes()
    chance = random.Random(2)
    refused = 0
    places = range(len(content)) if SOAK else chance.sample(range(len(content)), 150)
    for place in places:
        flipped = content[place] ^ 1 << chance.randrange(8)
        (folder / name).write_bytes(content[:place] + bytes([flipped]) + content[place + 1 :])
        try:
            model, tokenizer = load(folder, "numpy")
            # "e" may have become another character; that one is refused by name.
            generate(model, tokenizer, "e", max_tokens=2)
            assert equal(read_safetensors(folder / "model.safetensors"), whole)  # damaged weights are never used
        except TinyLMError:
            refused += 1
    assert refused > (140 if name == "model.safetensors" else 10)


def test_rot_in_the_best_weights_is_found_on_resume(runs: Path, tmp_path: Path) -> None:
    """One changed byte among the numbers of the best weights, and those of the checkpoint take their place."""
    folder = copied(runs, tmp_path)
    weights = folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-5] ^= 1
    weights.write_bytes(content)
    resumed = resume(folder)
    assert resumed.notes == (
        f"{weights}: is damaged (its SHA-256 is not the one recorded); those of step 2 are there now",
    )
    same_run(folder, runs / "whole")


def test_resume_falls_back_and_says_so(runs: Path, tmp_path: Path) -> None:
    """With its newest checkpoint damaged, the command goes on from the one before, says so, and ends the same."""
    folder = copied(runs, tmp_path)
    damaged = folder / "checkpoints" / "00000002" / "optimizer.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"!")
    ended = command(runs / "cache", "train", "--resume", folder)
    assert ended.returncode == 0
    assert (
        f"{damaged}: is damaged (its SHA-256 is not the one recorded); going on from step 0"
        in ended.stderr.splitlines()
    )
    same_run(folder, runs / "whole")


# Long life


def resident() -> int:
    """Bytes of memory that this process holds; 0 where the system has no such file."""
    path = Path("/proc/self/statm")
    return int(path.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if path.exists() else 0


def flat(readings: list[int], allowed: int) -> bool:
    """Whether memory does not grow: the highest reading of the last third is hardly above that of the middle third."""
    third = len(readings) // 3
    return max(readings[-third:]) - max(readings[third : 2 * third]) <= allowed


def test_memory_stays_flat_in_training(runs: Path, tmp_path: Path) -> None:
    """Thousands of steps neither fill the memory nor leave files, and the metrics parse to the last line."""
    steps = 20_000 if SOAK else 210
    config = dataclasses.replace(RICH if SOAK else SHORT, steps=steps, eval_every=steps, save_every=steps // 30)
    active, memory = [], []
    with run.start(tmp_path / "run", config, [str(runs / "text.txt")]) as running:
        for event in running.events():
            if isinstance(event, run.Saved):
                active.append(mx.get_active_memory())
                memory.append(resident())
    assert len(active) >= 30
    assert flat(active, 1 << 16), active
    assert flat(memory, 8 << 20), memory
    assert [line["step"] for line in metrics(tmp_path / "run")] == list(range(1, steps + 1))
    assert len(checkpoint.saved(tmp_path / "run")) == 2
    assert unfinished(tmp_path / "run") == []


@pytest.mark.parametrize("backend", ["mlx", "numpy"])
def test_memory_stays_flat_in_generation(runs: Path, backend: str) -> None:
    """Text far longer than the context does not fill the memory."""
    characters = 200_000 if SOAK else 1_500
    model, tokenizer = load(runs / "whole", backend)
    model.config = dataclasses.replace(model.config, eos_ids=())  # an untrained model would end its text
    pieces = stream_generate(model, tokenizer, "e", max_tokens=characters, seed=1)
    active, memory = [], []
    for _ in itertools.islice(pieces, 0, None, characters // 60):
        active.append(mx.get_active_memory())
        memory.append(resident())
    assert len(active) >= 60
    assert flat(active, 1 << 16), active
    assert flat(memory, 8 << 20), memory
