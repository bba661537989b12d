"""`inspect`: what it prints on a terminal, in a pipe, without colour, as JSON, and of what cannot be."""

from __future__ import annotations

import base64
import json
import math
import os
import re
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from conftest import random_folder
from tiny_models import BOTH
from tiny_runs import EXECUTABLE, environment

from mlx_tinylm.cli.columns import measure
from mlx_tinylm.cli.inspect_style import SCALE, Style, bits, percent
from mlx_tinylm.cli.inspect_view import inspection, mean_surprise
from mlx_tinylm.inside.subject import Subject
from mlx_tinylm.model_folder.config import ModelConfig
from mlx_tinylm.sampling import probabilities

Invoke = Callable[..., Result]
SECTIONS = ["Next character", "Surprise", "Layer by layer", "Attention"]
ESCAPE = re.compile(r"\x1b\[[0-9;]*m")


@pytest.fixture
def model(made: Path) -> Subject:
    return Subject.open(made / "model", "numpy")


def section(output: str, name: str) -> list[str]:
    """The lines between the title of a section and the next one's."""
    lines = output.splitlines()
    start = lines.index(name)
    ends = [lines.index(other) for other in SECTIONS if other in lines and lines.index(other) > start]
    return lines[start + 1 : min(ends, default=len(lines))]


def test_all_of_it_in_a_pipe(invoke: Invoke) -> None:
    """A pipe gets the sections in the order of the page, plain, and no line wider than 80."""
    result = invoke("inspect", "model", "--prompt", "the tim")
    assert (result.exit_code, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert [line for line in lines if line in SECTIONS] == SECTIONS
    assert lines[0] == "model"
    about = " ".join(lines[1:3])
    assert re.match(r"gpt2, 1 layer x width 16, 2 heads each, [\d,]+ parameters, loss \d\.\d{4}, \w+ $", about)
    assert "\x1b" not in result.stdout
    assert max(map(measure, lines)) <= 80
    assert not [line for line in lines if line != line.rstrip()]


def test_the_bars_are_the_probabilities(invoke: Invoke, model: Subject) -> None:
    """Twelve rows, the likeliest first, with what the counter says on the same row, and the rest in one line."""
    shown = section(invoke("inspect", "model", "--prompt", "the tim", "--backend", "numpy").stdout, "Next character")
    payload = model.look(model.encode("the tim"))
    p, counter = probabilities(payload.tensors["logits"][-1]), payload.tensors["counter"][-1]
    order = np.argsort(-p, kind="stable")
    rows = [line for line in shown if "%" in line]
    assert len(rows) == 13
    style = Style()
    for row, id in zip(rows, order[:12], strict=False):
        glyph, first, *_ = row.split()
        assert (glyph, first) == (style.glyph(model.vocabulary[id]), percent(float(p[id])))
        assert percent(float(counter[id])) in row[10:]
    rest = order[12:]
    assert rows[12].split() == [
        str(len(rest)),
        "more",
        percent(float(p[rest].sum())),
        percent(float(counter[rest].sum())),
    ]
    assert "what followed “im”" in " ".join(shown)


def test_a_digit_under_each_character(invoke: Invoke, model: Subject) -> None:
    """Without colour the surprise in whole bits stands under each character; white space can be seen."""
    prompt = "the\n\ntime is "
    shown = section(invoke("inspect", "model", "--prompt", prompt[-8:], "--backend", "numpy").stdout, "Surprise")
    payload = model.look(model.encode(prompt[-8:]))
    digits = [
        "" if math.isnan(value) else str(min(round(bits(float(value))), 9)) for value in payload.tensors["surprise"]
    ]
    place = shown.index("time·is·")
    assert shown[place + 1] == " " + "".join(digits)
    mean = mean_surprise(payload)
    assert mean is not None
    assert f"{bits(mean):.2f} bits a character, a loss of {mean:.4f} nats" in " ".join(shown)


def test_lines_of_a_prompt_are_lines(invoke: Invoke) -> None:
    """A newline is an arrow, and ends the row."""
    shown = section(invoke("inspect", "model", "--prompt", "a\n\nb c").stdout, "Surprise")
    place = shown.index("a⏎")
    assert shown[place + 2] == "⏎"
    assert shown[place + 4] == "b·c"


def test_the_mean_is_what_eval_measures(invoke: Invoke, made: Path, tmp_path: Path) -> None:
    """`eval` of the same text gives the very loss."""
    text = tmp_path / "some.txt"
    text.write_text("of the t")
    loss = json.loads(invoke("eval", "--weights", "model", "--data", text, "--json").stdout)["loss"]
    shown = " ".join(section(invoke("inspect", "model", "--prompt", "of the t").stdout, "Surprise"))
    assert f"a loss of {loss:.4f} nats" in shown


def test_a_row_for_each_stage(invoke: Invoke, tmp_path: Path) -> None:
    """The lens has the embedding and two stages a layer, each with its rank; the last row is what the model says."""
    model = Subject.open(random_folder(tmp_path / "m", BOTH[0]), "numpy")
    shown = section(invoke("inspect", tmp_path / "m", "--prompt", "# ''+").stdout, "Layer by layer")
    stages = [line for line in shown if re.match(r"(embedding|\d \+ \w+) +\d+  ", line)]
    assert [line.split("  ")[0] for line in stages] == [
        "embedding",
        *("1 + attention", "1 + MLP", "2 + attention", "2 + MLP"),
    ]
    payload = model.look(model.encode("# ''+"))
    p = probabilities(payload.tensors["logits"][-1])
    best = int(p.argmax())
    ranks = [int(rank) + 1 for rank in payload.tensors["lens_ranks"][:, -1, best]]
    assert [int(line[len("1 + attention") :].split()[0]) for line in stages] == ranks
    assert ranks[0] > 1
    assert re.match(
        rf"2 \+ MLP +1  {re.escape(Style().glyph(model.vocabulary[best]))} +{percent(float(p[best]))}", stages[-1]
    )
    assert len(re.findall(r"\d%", stages[-1])) == 5


def test_heads_with_a_name() -> None:
    """The heads of the model that ships that look just before and at the start of the line are named, with a bar."""
    from mlx_tinylm.model_folder.folder import shipped_weights

    subject = Subject.open(shipped_weights(), "numpy")
    prompt = "ROMEO:\nIt is the east, and Juliet is the sun.\nArise, fair sun, and kill the envious moon"
    payload = subject.look(subject.encode(prompt), counter=False)
    shown = inspection(payload, Style())
    assert re.search(r"^layer 2 head 4  the character just before +\d\d\.\d\d% █+", shown, re.M)
    assert re.search(r"^layer 5 head 2  where this line begins +\d\d\.\d\d% █+", shown, re.M)
    assert re.search(
        r"^layer \d head \d  what followed it earlier +\d+\.\d\d% \(\d+\.\d\d%\)$", shown, re.M
    )  # none does
    named = payload.meta["heads"]
    assert shown.count(" █") >= len(named) >= 2
    assert "Weight is not importance" in shown


def test_a_head_off(invoke: Invoke, model: Subject) -> None:
    """A head is counted from 1 as it is shown, and its absence said with both losses."""
    result = invoke("inspect", "model", "--prompt", "of the t", "--head-off", "1.2", "--backend", "numpy")
    ids = model.encode("of the t")
    with_it, without = (mean_surprise(model.look(ids, off)) for off in ([], [(0, 1)]))
    assert with_it is not None
    assert without is not None
    assert with_it != without
    said = " ".join(result.stdout.split())
    verb = "rises" if without > with_it else "falls"
    assert "Switched off: layer 1 head 2" in said
    assert f"{verb} from {bits(with_it):.2f} to {bits(without):.2f} bits a character" in said
    assert f"a loss of {without:.4f} nats" in said


def test_json(invoke: Invoke, model: Subject) -> None:
    """JSON is the payload, number for number, with nothing around it."""
    result = invoke("inspect", "model", "--prompt", "of the t", "--json", "--head-off", "1.1", "--backend", "numpy")
    assert (result.exit_code, result.stderr) == (0, "")
    assert json.loads(result.stdout) == model.look(model.encode("of the t"), [(0, 0)]).to_json()


def test_html(invoke: Invoke, model: Subject, tmp_path: Path) -> None:
    """--html writes one file with the numbers of the payload in it, and says so; nothing else is printed."""
    page = tmp_path / "page.html"
    result = invoke("inspect", "model", "--prompt", "of the t", "--html", page, "--backend", "numpy")
    assert (result.exit_code, result.stdout) == (0, "")
    assert re.fullmatch(rf"{page}: \d+\.\d MB. It opens from disk, .*without this program\.\n", result.stderr)
    payload = model.look(model.encode("of the t"))
    assert base64.b64encode(payload.to_bytes()).decode() in page.read_text("utf-8")
    again = invoke("inspect", "model", "--prompt", "of the t", "--html", page, "--json", "--backend", "numpy")
    assert json.loads(again.stdout) == payload.to_json()
    page.write_text("a letter")
    refused = invoke("inspect", "model", "--html", page)
    assert (refused.exit_code, len(refused.stderr.splitlines())) == (1, 1)
    assert page.read_text() == "a letter"


@pytest.mark.parametrize("config", BOTH, ids=lambda config: config.family)
def test_both_back_ends_print_the_same(invoke: Invoke, config: ModelConfig, tmp_path: Path) -> None:
    """MLX and NumPy agree on all that is shown but their name."""
    folder = random_folder(tmp_path / "m", config)
    mlx, numpy = (invoke("inspect", folder, "--prompt", "# ''+", "--backend", name).stdout for name in ("mlx", "numpy"))
    assert mlx.replace(", mlx\n", ", numpy\n") == numpy
    assert mlx != numpy


def test_without_a_prompt(invoke: Invoke, made: Path) -> None:
    """Without a prompt it reads what was held out; `-` reads stdin."""
    shown = invoke("inspect", "model", "--json")
    assert json.loads(shown.stdout)["prompt"] in (made / "text.txt").read_text()[1800:]
    assert json.loads(invoke("inspect", "model", "--prompt", "-", "--json", stdin="of\n").stdout)["prompt"] == "of\n"


def test_a_longer_prompt_is_cut_and_said(invoke: Invoke) -> None:
    """Of what is longer than the context the end is read, and a note says so."""
    result = invoke("inspect", "model", "--prompt", "of the time", "--json")
    assert json.loads(result.stdout)["prompt"] == "the time"
    assert result.stderr == "note: the prompt has 11 characters, and 8 can be read at once: these are its last 8\n"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["model", "--prompt", ""], 1, "the prompt is empty; give the model something to go on, such as a newline"),
        (["model", "--prompt", "aé"], 1, "the model does not know 'é' (character 2 of the text); it knows '"),
        (["model", "--head-off", "2.1"], 1, "no head 2.1 here: the last one is 1.2"),
        (["model", "--head-off", "1.3"], 1, "no head 1.3 here: the last one is 1.2"),
        (["model", "--head-off", "0.1"], 2, "'0.1' is no head; the second head of layer 3 is 3.2."),
        (["model", "--head-off", "one"], 2, "'one' is no head;"),
        (
            ["ROMEO:"],
            1,
            "ROMEO:: no such folder; a prompt stands behind its option: mlx-tinylm inspect --prompt ROMEO:",
        ),
        (["a b"], 1, "a b: no such folder; a prompt stands behind its option: mlx-tinylm inspect --prompt 'a b'"),
        (["no-weights"], 1, "no-weights: no model.safetensors here."),
        (["full"], 1, "full: no config.json here."),
    ],
)
def test_what_cannot_be(invoke: Invoke, arguments: list[str], code: int, message: str) -> None:
    """Each mistake ends in one line that says what to do."""
    result = invoke("inspect", *arguments)
    assert (result.exit_code, result.stdout) == (code, "")
    last = result.stderr.splitlines()[-1]
    assert message in last
    assert code == 2 or len(result.stderr.splitlines()) == 1


def test_without_the_training_text(invoke: Invoke, tmp_path: Path) -> None:
    """A model that says nothing of its text is shown without a counter, and that is said."""
    shown = section(invoke("inspect", random_folder(tmp_path / "m", BOTH[0]), "--prompt", "#").stdout, "Next character")
    assert "No 3-gram counter beside it" in " ".join(shown)
    assert " ".join(shown).count("counter") == 1


def test_a_single_character(invoke: Invoke) -> None:
    """Nothing stands before a single character: that is said, and the rest is shown."""
    shown = invoke("inspect", "model", "--prompt", "t").stdout
    assert "nothing stands before it, so nothing was expected" in " ".join(shown.split())
    assert "nan" not in shown


# The style


def test_eighths() -> None:
    """A bar has the length that it should to an eighth of a column."""
    style = Style()
    assert [style.bar(share, 2) for share in (0, 1 / 16, 0.5, 9 / 16, 1)] == ["", "▏", "█", "█▏", "██"]
    assert Style(blocks=False).bar(0.5, 10) == "#####"


def test_white_space_and_what_does_not_print() -> None:
    """A space is a raised dot, a newline an arrow, and no control character reaches a terminal."""
    assert Style().glyph(" a\n\t\x1b[31m") == "·a⏎→\\x1b[31m"
    assert Style().spoken(" ") == "space"
    assert Style(blocks=False).glyph(" \n") == "_\\n"
    assert Style(blocks=False).spoken("a") == '"a"'
    assert Style().glyph("") == "∅"
    assert Style().glyph("\u0301") == "◌\u0301"  # an accent by itself has a column for its digit


@pytest.mark.parametrize(
    ("p", "text"), [(0, "0.00%"), (1e-9, "<0.01%"), (0.0003, "0.03%"), (0.12345, "12.35%"), (1, "100.00%")]
)
def test_percentages_have_two_digits(p: float, text: str) -> None:
    """A probability is a percentage with two digits; what is smaller but there says so."""
    assert percent(p) == text


@pytest.mark.parametrize("width", [40, 60, 80, 100])
def test_every_width(model: Subject, width: int) -> None:
    """No line is wider than the terminal, in colour or without."""
    payload = model.look(model.encode("of the t"), [(0, 1)])
    plain = inspection(payload, Style(width), whole=payload)
    coloured = inspection(payload, Style(width, colour=True), whole=payload)
    assert max(map(measure, plain.splitlines())) <= width
    assert max(measure(ESCAPE.sub("", line)) for line in coloured.splitlines()) <= width


def test_colour_is_by_surprise(model: Subject) -> None:
    """Each character but the first has the colour of its bits, which a scale beside it explains; no digits then."""
    payload = model.look(model.encode("of the t"))
    shown = inspection(payload, Style(colour=True))
    row = next(line for line in shown.splitlines() if ESCAPE.sub("", line) == "of·the·t")
    colours = [int(code) for code in re.findall(r"\x1b\[48;5;(\d+);", row)]
    steps = [min(round(bits(float(value))), len(SCALE) - 1) for value in payload.tensors["surprise"][1:]]
    assert colours == [SCALE[step] for step in steps]
    assert row.startswith("o\x1b[")
    assert ESCAPE.sub("", shown).count("bits  0  1  2  3  4  5+ ") == 1
    assert shown.count("\x1b[0m") == len(re.findall(r"\x1b\[(?!0m)", shown))  # whatever is switched on goes off


def on_a_terminal(made: Path, own_cache: Path, columns: int, **more: str) -> str:
    """What `inspect` writes on a terminal of so many columns."""
    import fcntl
    import pty
    import termios

    main, child = pty.openpty()
    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("4H", 24, columns, 0, 0))
    given = environment(own_cache, TERM="xterm-256color", PYTHONIOENCODING="utf-8") | more
    given = {name: value for name, value in given.items() if name != "NO_COLOR" or name in more}
    with subprocess.Popen(
        [*EXECUTABLE, "inspect", "model", "--prompt", "of the t", "--backend", "numpy"],
        stdin=subprocess.DEVNULL,
        stdout=child,
        stderr=child,
        cwd=made,
        env=given,
    ) as program:
        os.close(child)
        shown = b""
        try:
            while piece := os.read(main, 1 << 12):
                shown += piece
        except OSError:  # Linux's way of saying that the other end is closed
            pass
        assert program.wait(timeout=120) == 0, shown
    os.close(main)
    return shown.decode().replace("\r\n", "\n")


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals")
def test_a_terminal(made: Path, own_cache: Path) -> None:
    """A terminal gets colour and lines of its width; NO_COLOR and a dumb one get the digits of a pipe."""
    coloured = on_a_terminal(made, own_cache, 72)
    assert "\x1b[48;5;" in coloured
    assert 60 < max(measure(ESCAPE.sub("", line)) for line in coloured.splitlines()) <= 72
    for plain in (on_a_terminal(made, own_cache, 80, NO_COLOR="1"), on_a_terminal(made, own_cache, 80, TERM="dumb")):
        assert "\x1b" not in plain
        assert "The digit under a character" in plain
