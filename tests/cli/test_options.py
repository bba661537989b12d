"""Options: their help, their defaults, their limits, and that each setting has one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import click
import pytest
from click.testing import CliRunner

from mlx_tinylm.checks import Setting, settings_of
from mlx_tinylm.cli.main import main
from mlx_tinylm.run_folder.presets import settings_that_differ
from mlx_tinylm.run_folder.settings import TrainConfig
from mlx_tinylm.sample_config import SampleConfig

COMMANDS = sorted(main.commands.items())
SCRIPTED = {  # what scripts may rely on
    "train": "--data --preset --out --steps --batch-size --context --family --layers --heads --width --dropout "
    "--learning-rate --lr --seed --eval-every --save-every --sample-every --patience --resume --init-from "
    "--device --force --minutes --tokenizer --vocab-size --history --val-data --encoding --raw --extend-alphabet "
    "--mask-prompt --allow-sleep",
    "generate": "--weights --prompt --max-tokens --temperature --temp --top-k --top-p --min-p --repetition-penalty "
    "--seed --num-samples --stop --backend",
    "eval": "--weights --data --backend --json --baselines --memorised",
    "export": "--out --dtype --quantize --force",
    "inspect": "--prompt --json --html --head-off --backend",
    "play": "--port --no-open --save --backend",
    "info": "--tensors --json",
    "runs": "--json",
    "data": "",
    "help": "",
    "bench": "--json",
}
SETTINGS = [("train", *item) for item in settings_of(TrainConfig).items()]
SETTINGS += [("generate", *item) for item in settings_of(SampleConfig).items()]


def refusal(command: str, name: str, value: object) -> str:
    """What an option with a value that cannot be is answered with; its exit code is that of wrong use."""
    result = CliRunner().invoke(main, [command, f"--{name.replace('_', '-')}", str(value)])
    assert (result.exit_code, result.stdout) == (2, ""), value
    assert isinstance(result.exception, SystemExit), result.exception
    error = result.stderr.splitlines()[-1]
    assert error.startswith(("Error: Invalid value for '--" + name.replace("_", "-"), f"Error: {name} must be ")), error
    return error


@pytest.mark.parametrize(("name", "found"), COMMANDS)
def test_every_option_has_its_words(name: str, found: click.Command) -> None:
    """Each option has a help text and shows its default, unless it is a flag, required, or in the presets' table."""
    context = click.Context(found)
    for option in found.params:
        if isinstance(option, click.Option):
            record = option.get_help_record(context)
            assert record
            assert len(record[1]) > 10, option.name
            preset = name == "train" and option.name in settings_that_differ()
            assert option.is_flag or preset or "[default: " in record[1] or "[required]" in record[1], option.name


def test_options_that_scripts_rely_on() -> None:
    """The commands and options that were promised are there under their names, and no command was forgotten."""
    assert SCRIPTED.keys() == main.commands.keys()
    for name, found in COMMANDS:
        assert set(SCRIPTED[name].split()) <= {option for parameter in found.params for option in parameter.opts}


def impossible(setting: Setting) -> Iterator[Any]:
    """Values that a setting cannot have."""
    if setting.choices:
        yield from ("", "nonsense", setting.choices[0].upper())
    elif setting.type in (int, float):
        yield from ("", "ten", "nan", "inf", "1e300" if setting.type is float else "9" * 400)
        yield setting.low if setting.above else setting.low - 1
        if setting.type is int:
            yield 1.5
        if setting.high is not None:
            yield setting.high + 1


@pytest.mark.parametrize(("command", "name", "setting"), SETTINGS, ids=lambda value: str(value)[:30])
def test_every_setting_has_an_option_with_its_limits(command: str, name: str, setting: Setting) -> None:
    """Each setting can be given on the command line, is explained there, and refuses what it cannot be."""
    (option,) = (option for option in main.commands[command].params if option.name == name)
    assert f"--{name.replace('_', '-')}" in option.opts
    assert setting.help in (getattr(option, "help", None) or "")
    for value in impossible(setting):
        refusal(command, name, value)


@pytest.mark.parametrize(
    ("command", "name", "value", "why"),
    [
        ("train", "steps", "0", "0 is not in the range 1<=x<=1000000000"),
        ("train", "steps", "1.5", "'1.5' is not a whole number"),
        ("train", "steps", "off", "'off' is not a whole number"),
        ("train", "steps", "9" * 400, "'" + "9" * 40 + "' is not finite, or too large"),
        ("train", "batch_size", "0", "0 is not in the range x>=1"),
        ("train", "layers", "1001", "1001 is not in the range 1<=x<=1000"),
        ("train", "dropout", "0.96", "0.96 is not in the range 0.0<=x<=0.95"),
        ("train", "learning_rate", "0", "0.0 is not in the range x>0.0"),
        ("train", "learning_rate", "1e300", "'1e300' is not finite, or too large"),
        ("train", "grad_clip", "none", "'none' is not a number or off"),
        ("train", "sample_every", "never", "'never' is not a whole number or off"),
        ("train", "seed", "2147483648", "2147483648 is not in the range 0<=x<=2147483647"),
        ("train", "family", "llama", "'llama' is not one of 'gpt2', 'qwen3'"),
        ("generate", "top_k", "off", "'off' is not a whole number"),
        ("generate", "top_p", "0", "0.0 is not in the range 0<x<=1"),
        ("generate", "min_p", "1.1", "1.1 is not in the range 0<=x<=1"),
        ("generate", "seed", "-1", "-1 is not in the range x>=0"),
        ("generate", "num_samples", "0", "0 is not in the range x>=1"),
    ],
)
def test_refused_values(command: str, name: str, value: str, why: str) -> None:
    """What is wrong with a value is said in words that name the value and its limits."""
    names = f"'--{name.replace('_', '-')}'" + (" / '--lr'" if name == "learning_rate" else "")
    assert refusal(command, name, value) == f"Error: Invalid value for {names}: {why}."


@pytest.mark.parametrize(
    ("command", "line"),
    [
        ("train", "--layers INTEGER Transformer blocks. [1<=x<=1000]"),
        ("train", "--grad-clip NUMBER|off Largest norm a gradient may have. [x>0.0]"),
        ("train", "--sample-every INTEGER|off Steps between two sample texts. [x>=1]"),
        ("train", "--learning-rate, --lr NUMBER Peak learning rate of AdamW. [x>0.0]"),
        ("train", "--patience INTEGER|off Stop after this many validations without a new best. [default: (off); x>=1]"),
        ("generate", "--max-tokens INTEGER Characters to write. [default: 500; x>=1]"),
        ("generate", "--top-k INTEGER Draw from the k likeliest only. [default: (all); x>=1]"),
        ("generate", "--seed INTEGER The same seed writes the same text. [default: (random); x>=0]"),
        ("generate", "--stop TEXT End before this text; may be repeated. [default: (only at"),
    ],
)
def test_help_pages(command: str, line: str) -> None:
    """A help page says of a setting what it takes, its default, and its limits."""
    assert line in re.sub(r"\s+", " ", CliRunner().invoke(main, [command, "--help"]).stdout)
