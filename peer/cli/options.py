"""How options are declared: each has a `PEERLESS_*` variable, and `--help` shows them in sections."""

import math
from collections.abc import Callable
from typing import Any, TypeVar

import click

Declared = TypeVar("Declared", bound=Callable[..., Any])

_GENERAL = "Options"


class Count(click.IntRange):
    """A whole number."""

    name = "whole number"


class Number(click.FloatRange):
    """A number that is neither infinite nor NaN."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the number, or refuse it by name."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number", param, ctx)
        return number


class SectionedOption(click.Option):
    """An option that knows under which heading `--help` shows it."""

    def __init__(self, *arguments: Any, section: str = _GENERAL, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.section = section

    def get_help_extra(self, ctx: click.Context) -> Any:
        """Return what stands in brackets after the help: the default, not the range, which errors tell."""
        extra = super().get_help_extra(ctx)
        extra.pop("range", None)
        return extra


class Command(click.Command):
    """A command whose `--help` has a heading for each section of options; general ones come last."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, section by section, in the order in which the sections were declared."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                sections.setdefault(getattr(parameter, "section", _GENERAL), []).append(record)
        general = sections.pop(_GENERAL, [])
        for title, records in [*sections.items(), (_GENERAL, general)]:
            with formatter.section(title):
                formatter.write_dl(records)


def option(*names: str, section: str = _GENERAL, **settings: Any) -> Callable[[Declared], Declared]:
    """Return a decorator that adds an option; `--some-name` may also be set by `PEERLESS_SOME_NAME`.

    Args:
        names: as for `click.option`; the first long one gives the variable its name.
        section: the heading in `--help`.
        settings: as for `click.option`; a default is shown.
    """
    (long, *_) = (name for name in names if name.startswith("--"))
    kind = settings.get("type")
    settings.setdefault("envvar", "PEERLESS_" + long.removeprefix("--").replace("-", "_").upper())
    settings.setdefault("show_default", True)
    if isinstance(kind, click.IntRange | click.FloatRange):
        settings.setdefault("metavar", "N" if isinstance(kind, click.IntRange) else "X")
    return click.option(*names, cls=SectionedOption, section=section, **settings)


def declare(command: Declared, *options: Callable[[Any], Any]) -> Declared:
    """Return the command with all these options, shown in this order."""
    for add in reversed(options):
        command = add(command)
    return command
