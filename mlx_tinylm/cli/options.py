"""Options that are numbers, and one option for each setting of a run."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

import click

from mlx_tinylm.run_folder.presets import DEFAULT_PRESET, PRESETS
from mlx_tinylm.run_folder.settings import TrainConfig, is_optional

Command = TypeVar("Command", bound=Callable[..., Any])
LARGEST = 1e38  # what a float32 holds


class Limited:
    """A finite number within limits, or, where `optional`, the word off."""

    name: str
    kind: str
    read: Callable[[Any], float]

    def __init__(self, *limits: Any, optional: bool = False, **more: Any) -> None:
        super().__init__(*limits, **more)
        self.optional = optional

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if self.optional and value == "off":
            return "off"
        try:
            number = self.read(value)
        except ValueError:
            self.refuse(value, f"is not {self.kind}{' or off' if self.optional else ''}", param, ctx)
        if not -LARGEST < number < LARGEST:
            self.refuse(value, "is not finite, or too large", param, ctx)
        return super().convert(number, param, ctx)  # type: ignore[misc]

    def refuse(self, value: Any, why: str, param: click.Parameter | None, ctx: click.Context | None) -> NoReturn:
        raise click.BadParameter(f"{str(value)[:40]!r} {why}.", ctx, param)

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        return self.name.upper() + ("|off" if self.optional else "")


class Number(Limited, click.FloatRange):
    name, kind, read = "number", "a number", float


class WholeNumber(Limited, click.IntRange):
    name, kind, read = "integer", "a whole number", int


def setting_options(command: Command) -> Command:
    """One option for each field of TrainConfig; its help, type and limits are the field's."""
    for item in reversed(dataclasses.fields(TrainConfig)):
        limits = item.metadata
        kind: click.ParamType[Any]
        if "choices" in limits:
            kind = click.Choice(limits["choices"])
        else:
            number = WholeNumber if "int" in str(item.type) else Number
            kind = number(
                limits.get("low"), limits.get("high"), min_open=limits.get("above", False), optional=is_optional(item)
            )
        default = getattr(PRESETS[DEFAULT_PRESET], item.name)
        option = click.option(
            f"--{item.name.replace('_', '-')}",
            type=kind,
            help=limits["help"],
            show_default=f"{DEFAULT_PRESET}'s {'off' if default is None else default}",
        )
        command = option(command)
    return command
