"""`generate`: where the prompt comes from, and seeds."""

from __future__ import annotations

import re
from collections.abc import Callable

from click.testing import Result

Invoke = Callable[..., Result]
WRITE = ["generate", "--weights", "model", "--max-tokens", "30"]


def test_the_prompt_may_come_from_a_pipe(invoke: Invoke) -> None:
    """`--prompt -` reads all of standard input, and writes on as from the same prompt on the command line."""
    given = invoke(*WRITE, "--prompt", "The ", "--seed", "1")
    assert given.exit_code == 0
    assert invoke(*WRITE, "--prompt", "-", "--seed", "1", stdin="The ").stdout == given.stdout


def test_several_stops(invoke: Invoke) -> None:
    """Of stop texts that are repeated the first to come ends the text; one that cannot be written is refused."""
    whole = invoke(*WRITE, "--prompt", "The ", "--seed", "1").stdout.removeprefix("The ").removesuffix("\n")
    for stops in ([whole[9]], [whole[9:12], whole[4:6]], [whole[3:5], whole[20:]]):
        given = [option for stop in stops for option in ("--stop", stop)]
        found = invoke(*WRITE, "--prompt", "The ", "--seed", "1", *given)
        assert found.exit_code == 0
        assert found.stdout == f"The {whole[: min(whole.index(stop) for stop in stops)]}\n"
    refused = invoke(*WRITE, "--prompt", "The ", "--stop", "e", "--stop", "é")
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert refused.stderr.startswith("Error: the stop text 'é' never comes: the model does not know 'é'")


def test_the_note_names_the_back_end(invoke: Invoke) -> None:
    """The line after a text says what wrote it: on a CPU NumPy, unless told otherwise."""
    for options, backend in ((["--backend", "numpy"], "numpy"), (["--backend", "mlx"], "mlx"), ([], "numpy")):
        assert re.search(rf"\[\d+ characters, [\d,]+ a second, {backend}\]\n$", invoke(*WRITE, *options).stderr)


def test_large_seeds_are_not_rounded(invoke: Invoke) -> None:
    """Two seeds that a float could not tell apart write two texts."""
    texts = {invoke(*WRITE, "--prompt", "e", "--seed", seed).stdout for seed in (2**60, 2**60 + 1)}
    assert len(texts) == 2


def test_each_sample_has_a_seed_of_its_own(invoke: Invoke) -> None:
    """The second of several texts is what the next seed writes alone."""
    both = invoke(*WRITE, "--prompt", "e", "--seed", "1", "--num-samples", "2").stdout
    first, second = (invoke(*WRITE, "--prompt", "e", "--seed", seed).stdout for seed in (1, 2))
    assert both == f"--- 1 of 2 ---\n{first}\n--- 2 of 2 ---\n{second}"
