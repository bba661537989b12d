"""Broken on purpose: killed anywhere, disks that fail, signals, rot, two at once. Nothing is lost, nothing gets in."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import itertools
import json
import os
import random
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from conftest import use_cache
from faulty_disk import FaultyDisk, Killed, lost_by_a_power_cut
from tiny_runs import (
    EXECUTABLE,
    PLAIN,
    RICH,
    SOAK,
    environment,
    losses,
    metrics,
    on_streams,
    options,
    resume,
    same_run,
    train,
    train_until,
    write_text,
)

from mlx_tinylm.backend.choose import load
from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.files import cache_dir
from mlx_tinylm.generation import generate, stream_generate
from mlx_tinylm.integrity import read_sealed
from mlx_tinylm.run_folder.events import Evaluated, Sampled, Saved, Stepped
from mlx_tinylm.training import checkpoint, resumption, run

pytestmark = pytest.mark.usefixtures("own_cache")
SHORT = dataclasses.replace(PLAIN, steps=4, eval_every=2, dropout=0.2, ema=0.9)
ONE = dataclasses.replace(PLAIN, steps=1)
LONG = dataclasses.replace(PLAIN, steps=90, eval_every=5, save_every=3)
ENDLESS = dataclasses.replace(LONG, steps=100_000, save_every=100_000, eval_every=100_000)
STARTED = "step 1/"  # what `train` writes to stderr once it is under way


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """`one`: a step; `whole`: four; `half`: the same, stopped after two; `long`: 90; and text.txt.

    And `another`: of another shape, on text with another alphabet.
    """
    folder = tmp_path_factory.mktemp("runs")
    text = write_text(folder / "text.txt")
    (folder / "other.txt").write_text("Stately, plump BUCK MULLIGAN came from the stairhead. " * 30)
    with pytest.MonkeyPatch.context() as patch:
        use_cache(patch, folder / "home")
        train(folder / "one", ONE, text)
        train(folder / "whole", SHORT, text)
        train(folder / "long", LONG, text)
        train_until(folder / "half", SHORT, text, 2)
        train(folder / "another", dataclasses.replace(PLAIN, width=24, steps=1), folder / "other.txt")
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


def after(prelude: str, *arguments: object) -> list[str]:
    """The command with a line of Python before it: what must be set up in that very process."""
    python, option, program = EXECUTABLE
    return [python, option, f"{prelude}; {program}", *map(str, arguments)]


def ended(runs: Path, command: list[str], code: int = 0) -> str:
    """Run a command to its end; what it wrote to stderr."""
    done = subprocess.run(command, capture_output=True, text=True, env=environment(runs / "cache"), timeout=60)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


# Every point of a save

# Whatever a run writes; the name of a file that is not finished may have more to it.
PLACES = {
    "settings": r"/\.?run[^/]*/\.?train\.json",
    "metrics": r"/\.?run[^/]*/\.?metrics\.jsonl",
    "small files": r"/\.?run[^/]*/\.?(config|tokenizer|tokenizer_config|generation_config)\.json",
    "best weights": r"/\.?run[^/]*/\.?model\.safetensors",
    "checkpoint": r"/\.?run[^/]*/checkpoints/[^/]+/\.?(model|optimizer|average)\.safetensors",
    "snapshot": r"/\.?run[^/]*/history/\.?\d+\.safetensors",
    "state of a checkpoint": r"/\.?run[^/]*/checkpoints/[^/]+/\.?state\.json",
    "encoded text": r"/ids/\.?[^/]+",
}


@contextlib.contextmanager
def faulty_disk(root: Path, at: int | None = None, error: int | None = None) -> Iterator[FaultyDisk]:
    with pytest.MonkeyPatch.context() as patch:
        yield FaultyDisk(patch, root, at, error)


def written(disk: FaultyDisk, first: int = 0) -> set[str]:
    """The places that are written to from a call on."""
    paths = [call.path for call in disk.calls[first:] if call.name == "write"]
    return {place for place, pattern in PLACES.items() if any(re.search(pattern, path) for path in paths)}


def half_written(folder: Path, contents: dict[str, set[bytes]]) -> list[str]:
    """Files under their final names that hold neither what was there before nor what was to come."""
    wrong = [str(path) for path in checkpoint.saved(folder) if len(list(path.glob("[!.]*"))) != 4]
    for path in folder.rglob("*"):
        if path.is_dir() or any(part.startswith(".") for part in path.relative_to(folder).parts):
            continue
        if path.name == "metrics.jsonl":  # lines are appended; the last may be cut short
            steps = [json.loads(line)["step"] for line in path.read_text().splitlines(keepends=True)[:-1]]
            assert steps == list(range(len(steps)))
        elif path.name == "state.json":  # it holds times
            read_sealed(path)
        elif path.read_bytes() not in contents[str(path)]:
            wrong.append(str(path))
    return wrong


def begin(folder: Path, runs: Path) -> None:
    with run.start(on_streams(), folder, ONE, [str(runs / "text.txt")]):
        pass


def go_on(folder: Path, runs: Path) -> None:
    resume(folder, patience=99)


@pytest.mark.parametrize("error", [None, errno.ENOSPC, errno.EROFS, errno.EIO])
@pytest.mark.parametrize(
    ("act", "end", "spared"), [(begin, "one", {"metrics", "snapshot"}), (go_on, "whole", {"small files"})]
)
def test_every_point_of_a_save(
    act: Callable[[Path, Path], None], end: str, spared: set[str], error: int | None, runs: Path, tmp_path: Path
) -> None:
    """Killed at any point, or on a disk that fails there, each file is the old or the new one, and the run goes on.

    A failing disk is one clear message and leaves no half files. A power cut takes nothing that has its name.
    """
    folder = tmp_path / "run" if act is go_on else tmp_path / "above" / "run"

    def attempt(at: int | None = None) -> tuple[FaultyDisk, str]:
        for each in (folder, tmp_path / "above", cache_dir()):
            shutil.rmtree(each, ignore_errors=True)
        if act is go_on:
            copied(runs, tmp_path)
        with faulty_disk(tmp_path, at, error) as disk:
            try:
                act(folder, runs)
            except TinyLMError as failure:
                return disk, str(failure)
            except Killed:
                return disk, "killed"
        return disk, ""

    whole, message = attempt()
    assert not message
    assert lost_by_a_power_cut(whole.calls, tmp_path) == []
    assert act is go_on or [call.target for call in whole.calls if call.target][-1] == str(folder)
    for path in (runs / "half").rglob("*.*"):
        if path.is_file():
            whole.contents[str(folder / path.relative_to(runs / "half"))].add(path.read_bytes())
    points = range(len(whole.calls))
    if error and not SOAK:
        points = points[error % 3 :: 3]  # together they try all
    struck = set()
    for at in points:
        disk, message = attempt(at)
        struck |= written(disk, at)
        point = at, whole.calls[at]
        if error and message:
            assert os.strerror(error) in message, point
            assert "\n" not in message
        else:  # where nothing but removing was left to do, an error is no failure
            assert message or {call.name for call in whole.calls[at:]} <= {"rename", "unlink", "rmdir"}, point
        assert half_written(folder, whole.contents) == [], point
        assert not error or unfinished(folder) == [], point
        if (folder / "train.json").exists():
            works(folder)
            with contextlib.suppress(TinyLMError):  # everything was done already
                resume(folder)
        else:
            train(folder, ONE, runs / "text.txt", force=True)
        same_run(folder, runs / end)
        works(folder)
        assert unfinished(folder) == [], point
    assert error or struck == PLACES.keys() - spared


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_a_full_disk_says_how_to_go_on(runs: Path, tmp_path: Path) -> None:
    """A save that the system refuses names the file, the reason, and what goes on later; a device is no metrics."""
    folder = copied(runs, tmp_path)
    with resumption.resume(on_streams(), folder, {}) as running:
        (folder / "metrics.jsonl").unlink()
        (folder / "metrics.jsonl").symlink_to("/dev/full")
        with pytest.raises(TinyLMError) as caught:
            list(running.events())
    message = str(caught.value)
    assert message.startswith(f"{folder / 'metrics.jsonl'}: cannot be written (No space left on device)")
    assert message.endswith(f"Then go on from the last checkpoint: mlx-tinylm train --resume {folder}")
    with pytest.raises(TinyLMError, match=r"metrics\.jsonl: not a file"):
        resume(folder)


@pytest.mark.parametrize("kind", [Stepped, Evaluated, Sampled, Saved])
def test_a_folder_that_vanishes(runs: Path, tmp_path: Path, kind: type) -> None:
    """A folder that is removed while it is trained in ends the run with a message, and is not made anew."""
    folder = tmp_path / "run"
    config = dataclasses.replace(PLAIN, eval_every=1, sample_every=2)
    reason = r"cannot be written \(No such file or directory\); its folder is gone"

    def train_and_remove() -> None:
        with run.start(on_streams(), folder, config, [str(runs / "text.txt")]) as running:
            for event in running.events():
                if isinstance(event, kind):
                    shutil.rmtree(folder, ignore_errors=True)

    with pytest.raises(TinyLMError, match=f"run.*: {reason}"):
        train_and_remove()
    assert not folder.exists()


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system does not bind a process to a core")
def test_another_number_of_cores(runs: Path, tmp_path: Path) -> None:
    """A run that goes on with a single core computes the same, dropout included; sums may be rounded otherwise."""
    folder = copied(runs, tmp_path)
    one_core = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})"
    ended(runs, after(one_core, "train", "--resume", folder))
    ours, theirs = ([[x or 0.0 for x in line] for line in losses(each)] for each in (folder, runs / "whole"))
    assert ours == [pytest.approx(line, rel=1e-4) for line in theirs]


# Processes of their own


class Process:
    """A `train` under way in a process of its own; its stderr is read line by line."""

    def __init__(self, command: list[str], cache: Path) -> None:
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        self.process = subprocess.Popen(command, text=True, env=environment(cache), **pipes)
        self.send = self.process.send_signal
        self.errors = ""

    def wait_for(self, text: str) -> None:
        """Read stderr up to a line with `text` in it."""
        assert self.process.stderr
        for line in self.process.stderr:
            self.errors += line
            if text in line:
                return
        raise AssertionError(f"it ended before it said {text!r}: {self.errors}")

    def end(self) -> tuple[int, str]:
        """Wait for the end; the exit code and stdout."""
        output, errors = self.process.communicate(timeout=120)
        self.errors += errors or ""
        assert "Traceback" not in self.errors
        return self.process.returncode, output


Start = Callable[..., Process]


@pytest.fixture
def training(runs: Path) -> Iterator[Start]:
    """Start commands; what still runs at the end of the test is killed."""
    started: list[Process] = []

    def start(*arguments: object) -> Process:
        started.append(Process([*EXECUTABLE, *map(str, arguments)], runs / "cache"))
        return started[-1]

    yield start
    for each in started:
        each.process.kill()
        each.process.communicate()


def new_run(runs: Path, folder: Path, config: Any = LONG) -> list[object]:
    return ["train", "--data", runs / "text.txt", "--out", folder, *options(config)]


def test_killed_at_random_moments(runs: Path, tmp_path: Path, training: Start) -> None:
    """However often a run is killed with SIGKILL, it goes on, writes text in between, and ends as if never killed."""
    folder, chance = tmp_path / "run", random.Random(6)
    begun, kills = folder / "train.json", 0
    while kills < (100 if SOAK else 4):
        if begun.exists() and checkpoint.saved(folder)[0].name == "00000090":  # it is done; begin again
            same_run(folder, runs / "long")
            shutil.rmtree(folder)
        process = training(*(["train", "--resume", folder] if begun.exists() else [*new_run(runs, folder), "--force"]))
        if chance.random() < 0.8:
            process.wait_for("training  ")
            time.sleep(chance.random() * 0.4)
        else:
            time.sleep(chance.random() * 1.5)
        process.send(signal.SIGKILL)
        code, _ = process.end()
        assert code in (0, -signal.SIGKILL)
        kills += code != 0
        if begun.exists():
            works(folder)
            with contextlib.suppress(FileNotFoundError):
                steps = [line["step"] for line in metrics(folder)]
                assert steps == list(range(len(steps)))
    if not begun.exists():
        train(folder, LONG, runs / "text.txt", force=True)
    elif checkpoint.saved(folder)[0].name != "00000090":
        resume(folder)
    same_run(folder, runs / "long")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_saves(runs: Path, tmp_path: Path, training: Start, number: signal.Signals, code: int) -> None:
    """Ctrl-C, SIGTERM or SIGHUP: the step under way is finished and saved, and the command that goes on is printed."""
    folder = tmp_path / "run"
    process = training(*new_run(runs, folder, ENDLESS))
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
def test_a_second_signal_leaves_at_once(runs: Path, tmp_path: Path, training: Start, second: signal.Signals) -> None:
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
    with resumption.resume(on_streams(), folder, {}) as running:
        assert running.state.step == 0


def at_a_terminal(runs: Path, *arguments: object) -> tuple[subprocess.Popen[bytes], int]:
    """A command at a terminal of its own, 150 columns wide, and the handle of its keyboard and screen."""
    import fcntl
    import pty
    import struct
    import termios

    keyboard, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 150, 0, 0))
    process = subprocess.Popen(
        after("import fcntl, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0)", *arguments),
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        env=environment(runs / "cache"),
        start_new_session=True,
    )
    os.close(terminal)
    return process, keyboard


def test_ctrl_c_at_a_terminal(runs: Path, tmp_path: Path) -> None:
    """Ctrl-C typed at a terminal, where the bar is drawn, saves and prints the command that goes on."""
    folder = tmp_path / "run"
    process, keyboard = at_a_terminal(runs, *new_run(runs, folder, dataclasses.replace(ENDLESS, sample_every=200)))
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


def test_a_terminal_that_closes_saves_a_run(runs: Path, tmp_path: Path) -> None:
    """Where the window or the connection that a run was started from closes, its steps are saved."""
    folder = tmp_path / "run"
    process, keyboard = at_a_terminal(runs, *new_run(runs, folder, ENDLESS))
    shown = b""
    while b" tokens/s" not in shown:
        shown += os.read(keyboard, 4096)
    os.close(keyboard)  # the system sends SIGHUP, and writing is an error from now on
    assert process.wait(timeout=60) == 129
    assert int(checkpoint.saved(folder)[0].name) == metrics(folder)[-1]["step"] > 0
    assert unfinished(folder) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_before_the_first_step_leaves_nothing_or_a_run(
    runs: Path, tmp_path: Path, training: Start, number: signal.Signals
) -> None:
    """Whenever a run is ended, its folder is not there at all or can be resumed, and nothing lies beside it."""
    for n in range(6):
        folder = tmp_path / str(n) / "run"
        process = training(*new_run(runs, folder, ENDLESS))
        time.sleep(0.25 + 0.15 * n)
        process.send(number)
        code, _ = process.end()
        assert code in (128 + number, -number)
        if folder.exists():
            works(folder)
            with resumption.resume(on_streams(), folder, {}):
                pass
            assert unfinished(folder) == []
        if code != -number and folder.parent.exists():  # it was up, so it has tidied up
            assert [path.name for path in folder.parent.iterdir()] in ([], ["run"])


def test_ctrl_c_in_a_long_validation(tmp_path: Path, runs: Path, training: Start) -> None:
    """A validation of minutes is broken off at once, after the step that it belongs to has been saved."""
    text = write_text(tmp_path / "long.txt", 600_000)
    folder = tmp_path / "run"
    config = dataclasses.replace(LONG, eval_every=3, save_every=3, batch_size=1)
    process = training("train", "--data", text, "--out", folder, *options(config))
    process.wait_for("step 0: validation")
    process.wait_for(STARTED)
    while not (folder / "checkpoints" / "00000003").exists():
        time.sleep(0.005)
    process.send(signal.SIGINT)
    code, output = process.end()
    assert code == 130
    if "breaking off the validation and saving" in process.errors:  # it may have been quicker than this test
        assert checkpoint.saved(folder)[0].name == "00000003"
        assert "step 3: validation" not in process.errors
    assert output.splitlines()[-1] == f"Go on:          mlx-tinylm train --resume {folder}"


def test_runs_that_start_together_get_numbers_of_their_own(
    runs: Path, tmp_path: Path, training: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several runs without --out, started at once, take one number each."""
    monkeypatch.chdir(tmp_path)
    short = options(dataclasses.replace(PLAIN, steps=1))
    processes = [training("train", "--data", runs / "text.txt", *short) for _ in range(4)]
    assert [process.end()[0] for process in processes] == [0] * 4
    assert sorted(path.name for path in (tmp_path / "weights").iterdir()) == [f"run-{n}" for n in (1, 2, 3, 4)]
    for folder in (tmp_path / "weights").iterdir():
        works(folder)


def test_a_closed_pipe_is_quiet(runs: Path, tmp_path: Path) -> None:
    """`generate | head -c 20` ends without a word of complaint."""
    folder = copied(runs, tmp_path, "whole")
    raw = json.loads((folder / "config.json").read_text())  # a model of four steps would end its text anywhere
    (folder / "config.json").write_text(json.dumps(raw | {"eos_token_id": None}))
    write = [*EXECUTABLE, "generate", "--weights", str(folder), "--prompt", "e", "--max-tokens", "100000"]
    piped = ["sh", "-c", '"$@" | head -c 20', "sh", *write]
    done = subprocess.run(piped, capture_output=True, env=environment(runs / "cache"), timeout=60)
    assert (len(done.stdout), done.stderr) == (20, b"")


def test_a_closed_pipe_saves_a_run(runs: Path, tmp_path: Path, training: Start) -> None:
    """`train 2>&1 | head` ends the run as Ctrl-C does: its steps are saved."""
    folder = tmp_path / "run"
    process = training(*new_run(runs, folder, dataclasses.replace(ENDLESS, eval_every=5)))
    process.wait_for(STARTED)
    assert process.process.stderr
    process.process.stderr.close()
    process.process.stderr = None
    process.end()
    assert int(checkpoint.saved(folder)[0].name) == metrics(folder)[-1]["step"] > 0


def test_nobody_listens(runs: Path, tmp_path: Path) -> None:
    """With stdout and stderr closed from the start, commands do their work all the same."""
    for arguments in (["train", "--resume", copied(runs, tmp_path)], ["generate", "--weights", runs / "whole"]):
        ended(runs, ["sh", "-c", 'exec "$@" >&- 2>&-', "sh", *EXECUTABLE, *map(str, arguments)])
    same_run(tmp_path / "run", runs / "whole")


def test_two_at_once(runs: Path, tmp_path: Path, training: Start) -> None:
    """A second process is refused while the first lives, and gets in the moment the first is killed."""
    folder = tmp_path / "run"
    first = training(*new_run(runs, folder, ENDLESS))
    first.wait_for(STARTED)
    for arguments in (["train", "--resume", folder], [*new_run(runs, folder), "--force"]):
        errors = ended(runs, [*EXECUTABLE, *map(str, arguments)], code=1)
        assert f"Error: {folder}: another training run is writing here; wait for it" in errors
    first.send(signal.SIGKILL)
    first.end()
    with resumption.resume(on_streams(), folder, {"steps": 200_000}):
        pass


# Bit rot


def folder_instead(path: Path, _: Path) -> None:
    path.unlink()
    path.mkdir()


def one_bit(path: Path, _: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:-2] + bytes([content[-2] ^ 1]) + content[-1:])


HARM: dict[str, Callable[[Path, Path], Any]] = {
    "cut short": lambda path, _: os.truncate(path, path.stat().st_size // 2),
    "empty": lambda path, _: path.write_bytes(b""),
    "zeros": lambda path, _: path.write_bytes(bytes(path.stat().st_size)),
    "gone": lambda path, _: path.unlink(),
    "a folder": folder_instead,
    "one bit": one_bit,
    "another's": lambda path, another: shutil.copy(another / path.name, path),
}
NEEDED = ("config.json", "tokenizer.json", "model.safetensors")
every_harm = pytest.mark.parametrize("harm", HARM)


@every_harm
@pytest.mark.parametrize("name", [*NEEDED, "train.json", "metrics.jsonl", "tokenizer_config.json"])
def test_rot_in_a_run(runs: Path, tmp_path: Path, name: str, harm: str) -> None:
    """A run whose file was damaged says which, or goes on to the very end it would have had."""
    folder = copied(runs, tmp_path)
    HARM[harm](folder / name, runs / "another")
    written = name in ("model.safetensors", "metrics.jsonl")
    if name in ("config.json", "tokenizer.json", "train.json") or (harm == "a folder" and written):
        # Settings of another run are whole, but do not vouch for the shape and tokenizer that are here.
        named = "config.json" if (name, harm) == ("train.json", "another's") else name
        with pytest.raises(TinyLMError, match=re.escape(named)):
            resume(folder)
        return
    resumed = resume(folder)
    if name == "model.safetensors":
        (note,) = resumed.notes
        assert note.endswith("; those of step 2 are there now")
        assert harm != "one bit" or note.startswith(
            f"{folder / name}: is damaged (its SHA-256 is not the one recorded)"
        )
    if name != "metrics.jsonl":
        same_run(folder, runs / "whole")
    works(folder)


def flipped_bits(path: Path, tries: int) -> Iterator[str]:
    """Flip one bit of a file after the other, and say which; where there is time, one of every byte."""
    content, chance = path.read_bytes(), random.Random(1)
    for place in range(len(content)) if SOAK else chance.sample(range(len(content)), tries):
        bit = chance.randrange(8)
        path.write_bytes(content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :])
        yield f"bit {bit} of byte {place}"


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "train.json"])
def test_each_flipped_bit_of_a_run_is_noticed(runs: Path, tmp_path: Path, name: str) -> None:
    """A run goes on only with the very settings, shape and tokenizer that it began with, to the last bit."""
    folder = copied(runs, tmp_path)
    for flipped in flipped_bits(folder / name, 60):
        with pytest.raises(TinyLMError, match=re.escape(name)), resumption.resume(on_streams(), folder, {}):
            pytest.fail(f"{flipped} was not noticed")


def test_resume_falls_back_and_says_so(runs: Path, tmp_path: Path) -> None:
    """With its newest checkpoint damaged, the command goes on from the one before, says so, and ends the same."""
    folder = copied(runs, tmp_path)
    damaged = folder / "checkpoints" / "00000002" / "optimizer.safetensors"
    one_bit(damaged, folder)
    said = f"{damaged}: is damaged (its SHA-256 is not the one recorded); going on from step 0"
    assert said in ended(runs, [*EXECUTABLE, "train", "--resume", str(folder)]).splitlines()
    same_run(folder, runs / "whole")


# Long life


def memory() -> tuple[int, int]:
    """Bytes that MLX holds, and that this process holds (0 where the system does not say)."""
    path = Path("/proc/self/statm")
    resident = int(path.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if path.exists() else 0
    return mx.get_active_memory(), resident


def check_flat(readings: list[tuple[int, int]]) -> None:
    """The highest readings of the last third are hardly above those of the middle third."""
    third = len(readings) // 3
    for values, allowed in zip(zip(*readings, strict=True), (1 << 16, 8 << 20), strict=True):
        assert max(values[-third:]) - max(values[third : 2 * third]) <= allowed, values


def test_memory_stays_flat_in_training(runs: Path, tmp_path: Path) -> None:
    """Thousands of steps neither fill the memory nor leave files, and the metrics parse to the last line."""
    steps = 20_000 if SOAK else 210
    config = dataclasses.replace(RICH if SOAK else SHORT, steps=steps, eval_every=steps, save_every=steps // 30)
    with run.start(on_streams(), tmp_path / "run", config, [str(runs / "text.txt")]) as running:
        readings = [memory() for event in running.events() if isinstance(event, Saved)]
    assert len(readings) >= 30
    check_flat(readings)
    assert [line["step"] for line in metrics(tmp_path / "run")] == list(range(steps + 1))
    assert len(checkpoint.saved(tmp_path / "run")) == 2
    assert unfinished(tmp_path / "run") == []


@pytest.mark.parametrize("backend", ["mlx", "numpy"])
def test_memory_stays_flat_in_generation(runs: Path, backend: str) -> None:
    """Text far longer than the context does not fill the memory."""
    characters = 200_000 if SOAK else 1_500
    model, tokenizer = load(runs / "whole", backend)
    model.config = dataclasses.replace(model.config, eos_ids=())  # an untrained model would end its text
    pieces = stream_generate(model, tokenizer, "e", max_tokens=characters, seed=1)
    readings = [memory() for _ in itertools.islice(pieces, 0, None, characters // 60)]
    assert len(readings) >= 60
    check_flat(readings)
