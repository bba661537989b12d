"""Options that several commands share, options that are numbers, and one option for each setting."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click

from mlx_tinylm.backend import BACKENDS
from mlx_tinylm.checks import Setting, settings_of
from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.run_folder.presets import settings_that_differ
from mlx_tinylm.run_folder.settings import TrainConfig
from mlx_tinylm.sample_config import SampleConfig
from mlx_tinylm.text.reading import UTF_8, Reading

Command = TypeVar("Command", bound=Callable[..., Any])
LARGEST = 1e38  # what a float32 holds
FAR = 2**53  # a limit beyond says nothing in a help page; the setting itself refuses what exceeds it


@contextlib.contextmanager
def usage() -> Iterator[None]:
    """What is wrong with the options themselves is a usage error (exit code 2)."""
    try:
        yield
    except TinyLMError as error:
        raise click.UsageError(str(error)) from None


# Shared


class FolderPath(click.Path):
    """The path of a folder that need not exist."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "":  # as from a variable that is not set; a path of it would be the folder that one is in
            self.fail("is empty; give the path of a folder.", param, ctx)
        return Path(os.fsdecode(super().convert(value, param, ctx)))


class ModelPath(FolderPath):
    """A model folder; where only weights/ holds one of that name, the error says so."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        path: Path = super().convert(value, param, ctx)
        near = Path("weights") / path
        if not path.exists() and near.is_dir():
            raise TinyLMError(f"{path}: no such folder; did you mean {near.as_posix()}?")
        return path


def or_shipped(context: click.Context, option: click.Parameter, weights: Path | None) -> Path:
    from mlx_tinylm.model_folder.folder import shipped_weights

    return weights or shipped_weights()


weights_option = click.option(
    "--weights",
    type=ModelPath(),
    callback=or_shipped,
    show_default="the Shakespeare model that ships",
    help="A model folder.",
)
backend_option = click.option(
    "--backend",
    type=click.Choice(BACKENDS),
    default="auto",
    show_default=True,
    help="What computes: auto takes MLX or NumPy, whichever is faster here.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")


def reading_options(command: Command) -> Command:
    """How a text is read: what `reading_of` is told."""
    encoding = click.option(
        "--encoding", metavar="NAME", show_default="utf-8", help="What the text files are: latin-1, cp1252, utf-16 ..."
    )
    raw = click.option(
        "--raw", is_flag=True, help="Keep every byte: CRLF at the ends of lines, a byte-order mark at the start."
    )
    return encoding(raw(command))


def reading_of(encoding: str | None, raw: bool) -> Reading:
    """How a text is read by these options; an unknown encoding is a usage error."""
    with usage():
        return Reading(encoding or UTF_8.encoding, raw)


# Numbers


class Limited:
    """A finite number within limits, or, where `off` is set, the word off."""

    name: str
    kind: str
    read: Callable[[Any], float]

    def __init__(self, *limits: Any, off: bool = False, **more: Any) -> None:
        super().__init__(*limits, **more)
        self.off = off

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if self.off and value == "off":
            return "off"
        try:
            number = self.read(value)
        except ValueError:
            self.refuse(value, f"is not {self.kind}{' or off' if self.off else ''}", param, ctx)
        if not -LARGEST < number < LARGEST:
            self.refuse(value, "is not finite, or too large", param, ctx)
        return super().convert(number, param, ctx)  # type: ignore[misc]

    def refuse(self, value: Any, why: str, param: click.Parameter | None, ctx: click.Context | None) -> NoReturn:
        raise click.BadParameter(f"{str(value)[:40]!r} {why}.", ctx, param)

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        return self.name.upper() + ("|off" if self.off else "")


class Number(Limited, click.FloatRange):
    name, kind, read = "number", "a number", float


class WholeNumber(Limited, click.IntRange):
    name, kind, read = "integer", "a whole number", int


# Settings


def train_settings(command: Command) -> Command:
    """One option for each field of TrainConfig; not given means what the preset says, `off` that it is None."""
    differing = settings_that_differ()
    for name, each in reversed(settings_of(TrainConfig).items()):
        names = [flag(name), "--lr"] if name == "learning_rate" else [flag(name)]
        if each.type is bool:
            names = [f"{flag(name)}/--no-{flag(name)[2:]}"]
        kind = value_type(each, off=each.optional)
        # What differs from preset to preset stands in their table.
        default = each.unset if each.default is None else each.default
        shown = False if name in differing else flag(name)[2:] if default is True else str(default)
        command = click.option(*names, type=kind, default=None, help=each.help, show_default=shown)(command)
    return command


def sample_settings(command: Command) -> Command:
    """One option for each field of SampleConfig, with its default."""
    for name, each in reversed(settings_of(SampleConfig).items()):
        names = [flag(name), "--temp"] if name == "temperature" else [flag(name)]  # mlx-lm calls it temp
        shown = each.unset if each.default is None else True
        described: dict[str, Any] = {"default": each.default, "show_default": shown, "help": each.help}
        command = click.option(*names, type=value_type(each), multiple=each.several, **described)(command)
    return command


def flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def value_type(setting: Setting, off: bool = False) -> click.ParamType[Any]:
    """What an option takes as the value of a setting; `off`, too, if that is set."""
    if setting.choices:
        return click.Choice(setting.choices)
    if setting.type not in (int, float):
        return click.types.convert_type(setting.type)
    number = WholeNumber if setting.type is int else Number
    high = setting.high if setting.high is not None and setting.high < FAR else None
    return number(setting.low, high, min_open=setting.above, off=off)
