"""How commands answer on standard output: in words for people, and with ``--json`` in JSON for programs.

JSON has the shapes of ``agent.report.api`` and of the control socket, to which keys are only ever added.
Progress and errors go to standard error in words, with JSON or without; what went wrong is the exit code.
"""

from __future__ import annotations

import json
import math
import sys
from enum import Enum
from typing import Annotated, Any

import typer


def _check_seconds(value: float) -> float:
    """Return a time to wait; a time of which nothing can be said would never be up."""
    if math.isnan(value):
        raise typer.BadParameter(f"{value} is not a number of seconds.")
    return value


def make_timeout_option(words: str) -> Any:
    """Return the option ``--timeout``, in seconds; ``words`` tell what is given up, or waited for."""
    return typer.Option("--timeout", metavar="S", min=0, callback=_check_seconds, help=words)


JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


class Output(str, Enum):
    """How a list is told."""

    TABLE = "table"
    WIDE = "wide"
    JSON = "json"
    NAME = "name"


OutputOption = Annotated[
    Output,
    typer.Option(
        "--output", "-o", help="A table as wide as the terminal, or one of everything; JSON; only names."
    ),
]


def print_answer(answer: dict[str, Any], show: str, *, as_json: bool) -> None:
    """Print an answer as JSON, or with the function of ``agent.cli.show.render`` that is named."""
    if as_json:
        print_json(answer)
        return
    from agent.cli.show import render  # noqa: PLC0415 -- with rich, which JSON can do without

    render.print_view(getattr(render, show)(answer))


def print_volumes(answer: dict[str, Any], output: Output) -> None:
    """Print the status of all volumes."""
    if output is Output.JSON:
        print_json(answer)
        return
    from agent.cli.show import render, volume_table  # noqa: PLC0415
    from agent.cli.show.fitting_table import WIDE_COLUMNS  # noqa: PLC0415

    if output is Output.NAME:
        for name in volume_table.list_names(answer):
            typer.echo(name)
    elif output is Output.WIDE:
        render.print_view(volume_table.show_volumes_wide(answer), width=WIDE_COLUMNS)
    else:
        render.print_view(volume_table.show_volumes(answer))


def print_json(answer: dict[str, Any]) -> None:
    """Print one JSON object, for programs and for people who read it all the same."""
    typer.echo(json.dumps(answer, indent=2))


def print_line(line: dict[str, Any]) -> None:
    """Print one of several JSON objects that come one by one, on a line of its own and at once."""
    sys.stdout.write(f"{json.dumps(line)}\n")
    sys.stdout.flush()
