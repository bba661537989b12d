"""A Mac that does not fall asleep in the middle of a run."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
from collections.abc import Iterator

from mlx_tinylm.cli.terminal import note


@contextlib.contextmanager
def kept_awake(allow_sleep: bool = False) -> Iterator[None]:
    """Hold macOS's `caffeinate` meanwhile, and say so; nothing on other systems, or where sleep is allowed.

    The display may sleep. `-w` ends it with this process, however that ends; Ctrl-C is not for it.
    """
    if allow_sleep or platform.system() != "Darwin":
        yield
        return
    command = ["caffeinate", "-i", "-w", str(os.getpid())]
    nowhere = subprocess.DEVNULL
    with contextlib.ExitStack() as held:
        with contextlib.suppress(OSError):  # where it is missing, the run goes on without
            process = held.enter_context(
                subprocess.Popen(command, stdin=nowhere, stdout=nowhere, stderr=nowhere, start_new_session=True)
            )
            held.callback(process.terminate)
            note("this Mac stays awake until the run ends, its display may sleep; --allow-sleep lets it sleep")
        yield
