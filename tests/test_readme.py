"""What the README shows is what the program does."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from mlx_tinylm.cli.main import main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = sorted(
    {
        command.strip()
        for block in re.findall(r"```sh\n(.*?)```", README, re.S)
        for line in block.splitlines()
        for command in line.split("  #")[0].split("&&")
        if command.strip().startswith("mlx-tinylm")
    }
)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_one_the_program_takes(command: str) -> None:
    """Each `mlx-tinylm` command in the README has a command and options that exist, with values they accept."""
    name, *arguments = shlex.split(command)[1:]
    context = main.make_context("mlx-tinylm", [name])
    found = main.get_command(context, name)
    assert found is not None, f"the README shows {name!r}, which is no command"
    found.make_context(name, arguments, parent=context)


def test_the_files_it_lists_exist() -> None:
    """Each file and folder in the README's tables of the source is there."""
    listed = re.findall(r"`(mlx_tinylm/[\w/.]+)`", README)
    assert len(listed) > 10
    assert [name for name in listed if not (ROOT / name).exists()] == []


def test_its_links_lead_somewhere() -> None:
    """Each relative link in the README is a file of the project."""
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if "://" not in link]
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_two_commands_are_marked_for_ci() -> None:
    """There are exactly two set-up commands, each in one line behind its mark."""
    marked = re.findall(r"<!-- (\w+) -->\n```sh\n(.+)\n```\n", README)
    assert [name for name, _ in marked] == ["run", "test"]
    assert all("venv" in command and "pip install" in command for _, command in marked)


def test_the_library_example_runs(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The Python example streams text from the weights that ship."""
    monkeypatch.chdir(ROOT)
    (example,) = re.findall(r"```python\n(.*?)```", README, re.S)
    assert len(example.splitlines()) <= 6
    exec(compile(example, "README.md", "exec"), {})
    assert len(capsys.readouterr().out) == 200
