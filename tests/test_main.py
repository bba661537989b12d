"""The program's way in: Ctrl-C before and while anything is imported."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny_runs import environment

START = "from mlx_tinylm.__main__ import main; print('up', flush=True); main()"
INTERRUPTED_AT = """
import os, sys
sys.addaudithook(lambda event, its: event == "import" and its[0] == {module!r} and os.kill(os.getpid(), {number}))
from mlx_tinylm.__main__ import main
sys.argv[1:] = ["info"]
main()
"""


def heed_ctrl_c() -> None:
    """As in the foreground, wherever the tests run: a shell lets what it puts into the background ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def run(code: str, cache: Path) -> subprocess.CompletedProcess[bytes]:
    given = [sys.executable, "-c", code]
    return subprocess.run(given, env=environment(cache), preexec_fn=heed_ctrl_c, capture_output=True, timeout=60)


@pytest.mark.parametrize(
    "module", ["signal", "mlx_tinylm.cli", "click", "mlx_tinylm.checks", "mlx_tinylm.info", "numpy", "mlx.core"]
)
def test_ctrl_c_while_modules_are_imported(module: str, tmp_path: Path) -> None:
    """Wherever Ctrl-C meets an import, the program's own or one of a command, it leaves a newline and exit code 130."""
    code = INTERRUPTED_AT.format(module=module, number=int(signal.SIGINT))
    done = run(code, tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (130, b"", b"\n")


@pytest.mark.parametrize("delay", [0.005, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4])
def test_ctrl_c_at_any_time(delay: float, tmp_path: Path) -> None:
    """From the first moment to the last, Ctrl-C shows no traceback: the command is done, or ended with 130."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    given = [sys.executable, "-c", START, "info"]
    with subprocess.Popen(given, env=environment(tmp_path), preexec_fn=heed_ctrl_c, **pipes) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        time.sleep(delay)
        process.send_signal(signal.SIGINT)
        errors = process.communicate(timeout=60)[1]
    assert (process.returncode, errors) in [(130, b"\n"), (0, b"")]


def test_ctrl_c_that_is_ignored(tmp_path: Path) -> None:
    """A command that a shell put into the background, where Ctrl-C is not for it, goes on."""
    code = f"import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n{INTERRUPTED_AT}"
    code = code.format(module="click", number=int(signal.SIGINT))
    done = run(code, tmp_path)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("arguments", [["--version"], ["help"], ["trian"]])
def test_both_ways_in(arguments: list[str], tmp_path: Path) -> None:
    """`python -m mlx_tinylm` and the command that is installed are one program, under its own name."""
    here = {"env": environment(tmp_path), "capture_output": True, "text": True, "timeout": 60, "cwd": tmp_path}
    module = subprocess.run([sys.executable, "-m", "mlx_tinylm", *arguments], **here)  # type: ignore[call-overload]
    script = "import sys; from mlx_tinylm.__main__ import main; sys.argv[0] = 'mlx-tinylm'; sys.exit(main())"
    command = subprocess.run([sys.executable, "-c", script, *arguments], **here)  # type: ignore[call-overload]
    assert (module.returncode, module.stdout, module.stderr) == (command.returncode, command.stdout, command.stderr)
    assert "mlx-tinylm" in module.stdout + module.stderr
    assert os.fspath(tmp_path) not in module.stderr
