"""What the README shows is what the program does: its commands are run, in its order, in a folder of the test's own."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny_runs import environment, write_text

from mlx_tinylm.model_folder.folder import open_folder

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAIRS = ROOT / "tests" / "benchmarks" / "make_pairs.py"  # what makes the files of pairs that the README's reader has
TEXTS = ("book.txt", "letters.txt", "own.txt")  # what the README's reader has lying about, and a stand-in for a corpus
# By how they begin: what is not run here, and why.
NOT_RUN = {
    "python3 -m venv": "a set-up command: .ci/run runs both, word for word",
    ". .venv": "a set-up command",
    "pip install": "a set-up command",
    "pytest": "a set-up command",
    "git clone": "needs the network",
    "cd ": "the folder that git clone makes",
    "MLX_TINYLM_TEST_SOAK=1": "the tests themselves, for many minutes",
    "python tests/": "the tests' own tools: they need packages that these tests do without",
    "mlx-tinylm bench": "measures for a minute; test_benchmark runs it in small",
    "mlx-tinylm data tinyshakespeare": "needs the network",
    "mlx_lm.": "another program",
}
SMALL = "--layers 1 --heads 2 --width 32 --context 16 --batch-size 2 --eval-every 2 --save-every 2 --sample-every off"


def commands() -> Iterator[str]:
    """Each command of each block of shell, in order; `a && b` are two, `a | b` is one."""
    for block in re.findall(r"^```sh\n(.*?)^```", README, re.S | re.M):
        for line in block.splitlines():
            parts = re.split(r"\s&&\s", re.sub(r"(^|\s)#.*", "", line))
            yield from (part.strip() for part in parts if part.strip())


def reason_not_to(command: str) -> str | None:
    """Why a command is not run here."""
    if "--gguf" in command and importlib.util.find_spec("gguf") is None:
        return "needs the extra `gguf`"
    if command.startswith("mlx-tinylm play") and "--save" not in command:
        return "serves a page until somebody ends it; tests/cli/test_play.py does"
    return next((reason for start, reason in NOT_RUN.items() if command.startswith(start)), None)


def small(command: str, number: int) -> str:
    """The same with less to do, and with a text in the place of a corpus that would have to be fetched."""
    given = shlex.split(command)
    if "train" in given:
        command += f" --steps {2 * number}"  # more than any run before it, so that one can be resumed
        if "--resume" not in given:
            command += " --data own.txt" if "--data" not in given else ""
            few = "--batch-size 2 --eval-every 10 --save-every 10 --sample-every off"
            command += f" {few}" if "--init-from" in given else f" {SMALL}"
    elif "generate" in given:
        command += " --max-tokens 40"
    elif "eval" in given and not {"--weights", "--data"} & set(given):
        # The n-gram models and what is known by heart need the very text that the model was trained on.
        command += " --weights weights/run-1" if {"--baselines", "--memorised"} & set(given) else " --data own.txt"
    return command


COMMANDS = list(dict.fromkeys(commands()))
RUN = [command for command in COMMANDS if not reason_not_to(command)]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> dict[str, subprocess.CompletedProcess[str]]:
    """What became of each command, run in the shell one after the other, as a reader would type them."""
    folder = tmp_path_factory.mktemp("readme")
    shutil.copytree(ROOT / "weights" / "shakespeare", folder / "weights" / "shakespeare")
    alphabet = open_folder(folder / "weights" / "shakespeare").tokenizer.alphabet or ""
    text = 4 * "".join(c for c in (ROOT / "LICENSE").read_text(encoding="utf-8") if c in alphabet)
    for number, name in enumerate(TEXTS):  # none has a character that the first has not
        (folder / name).write_text(text[: 4_000 - 1_000 * number])
    for kind in ("sums", "reversed"):
        made = subprocess.run([sys.executable, PAIRS, kind, "40"], capture_output=True, check=True)
        (folder / f"{kind}.jsonl").write_bytes(made.stdout)
    program = folder / "bin" / "mlx-tinylm"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m mlx_tinylm "$@"\n')
    program.chmod(0o755)
    path = os.pathsep.join([str(program.parent), os.environ["PATH"]])
    around = environment(folder / "cache", PATH=path, MLX_TINYLM_DATA=str(folder / "data"))
    return {
        command: subprocess.run(
            ["sh", "-ec", small(command, number)], cwd=folder, env=around, capture_output=True, text=True, timeout=120
        )
        for number, command in enumerate(RUN, start=1)
    }


@pytest.mark.parametrize("command", RUN)
def test_its_commands_run(done: dict[str, subprocess.CompletedProcess[str]], command: str) -> None:
    """Each command in the README does what it is there for, in the order of the README."""
    ended = done[command]
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout or ">" in command
    assert "Traceback" not in ended.stderr


def test_what_is_not_run_is_little() -> None:
    """Whatever is no command of this program is listed here by name, and most of this program's are run."""
    ours = [command for command in COMMANDS if re.search(r"(^|\| *)mlx-tinylm ", command)]
    assert [command for command in RUN if command not in ours] == []
    assert len([command for command in ours if command in RUN]) >= len(ours) - 3 > 8


def test_the_files_it_lists_exist() -> None:
    """Each file and folder of the source that the README names is there."""
    listed = re.findall(r"`((?:mlx_tinylm|tests|weights/shakespeare|data)/[\w/.]*)`", README)
    assert len(listed) > 5
    assert [name for name in listed if not (ROOT / name).exists()] == []


def test_its_links_lead_somewhere() -> None:
    """Each relative link in the README is a file of the project, or a heading of the README."""
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if "://" not in link]
    titles = re.findall(r"^#+ (.+)$", README, re.M)
    headings = {"#" + re.sub(r"[^\w -]", "", title).strip().lower().replace(" ", "-") for title in titles}
    assert links
    assert [link for link in links if link not in headings and not (ROOT / link.partition("#")[0]).is_file()] == []


def test_the_two_commands_are_marked_for_ci() -> None:
    """There are exactly two set-up commands, each in one line behind its mark."""
    marked = re.findall(r"<!-- (\w+) -->\n```sh\n(.+)\n```\n", README)
    assert [name for name, _ in marked] == ["run", "test"]
    assert all("venv" in command and "pip install" in command for _, command in marked)


def test_the_library_examples_run(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, own_cache: Path, tmp_path: Path
) -> None:
    """One Python example writes with the weights that ship; the other trains, here on a text of the test."""
    monkeypatch.chdir(ROOT)
    writing, training = re.findall(r"```python\n(.*?)```", README, re.S)
    assert max(len(writing.splitlines()), len(training.splitlines())) <= 6
    exec(compile(writing, "README.md", "exec"), {})
    assert len(capsys.readouterr().out) == 200
    monkeypatch.chdir(tmp_path)
    corpus = str(write_text(tmp_path / "text.txt"))
    assert training.count('"tinyshakespeare"') == 1
    found: dict[str, object] = {}
    exec(compile(training.replace('"tinyshakespeare"', repr(corpus)), "README.md", "exec"), found)
    printed = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("Stepped(") for line in printed) == 20
    assert found["model"]
