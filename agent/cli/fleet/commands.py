"""The command ``fleet``: its options, and where they say the fleet is asked for."""

# ruff: noqa: PLC0415  # it imports what it needs when it is called, as all commands do

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agent.cli.show.output import JsonOption, Output, OutputOption
from agent.core.errors import InvalidValueError

if TYPE_CHECKING:
    from agent.cli.fleet.look import Source

DEFAULT_WORST = 20


def fleet(  # noqa: PLR0913, PLR0917 -- options
    broker: Annotated[
        str | None,
        typer.Option(
            envvar="EBS_AGENT_BROKER",
            metavar="URL",
            help="mqtts://HOST[:PORT][/TOPIC], or mqtt:// without TLS.",
        ),
    ] = None,
    prometheus: Annotated[
        str | None,
        typer.Option(envvar="EBS_AGENT_PROMETHEUS", metavar="URL", help="https://HOST[:PORT][/PREFIX]."),
    ] = None,
    cluster: Annotated[str | None, typer.Option(help="Only this cluster's.")] = None,
    node: Annotated[str | None, typer.Option(help="Only this node's.")] = None,
    reason: Annotated[
        str | None,
        typer.Option(help="Only those in this condition or with this reason, as Degraded or Stalled."),
    ] = None,
    worst: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="Only the worst N; a table shows 20, and 0 is all.")
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Stay, and show every change.")] = False,
    output: OutputOption = Output.TABLE,
    username: Annotated[
        str | None, typer.Option(envvar="EBS_AGENT_FLEET_USERNAME", help="Name to log in with.")
    ] = None,
    password_file: Annotated[
        Path | None,
        typer.Option(envvar="EBS_AGENT_FLEET_PASSWORD_FILE", help="File whose first line is the password."),
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(
            envvar="EBS_AGENT_FLEET_TOKEN_FILE", help="File whose first line is Prometheus' bearer token."
        ),
    ] = None,
    ca: Annotated[
        Path | None, typer.Option(envvar="EBS_AGENT_FLEET_CA", help="Authorities to believe, in PEM.")
    ] = None,
    cert: Annotated[
        Path | None, typer.Option(envvar="EBS_AGENT_FLEET_CERT", help="Certificate to show, in PEM.")
    ] = None,
    key: Annotated[Path | None, typer.Option(envvar="EBS_AGENT_FLEET_KEY", help="Its key, in PEM.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Show how the volumes of many nodes are, the worst first, from a broker or Prometheus."""
    from agent.cli.fleet.look import Files, choose_source, show_once, show_watching
    from agent.cli.fleet.rows import Choice, find_reason, list_words
    from agent.core.suggestions import find_meant

    wanted = None if reason is None else find_reason(reason)
    if reason is not None and wanted is None:
        meant = find_meant(reason, list_words())
        hint = "docs/troubleshoot.md lists all reasons."
        raise InvalidValueError(
            f"{reason!r} is neither a condition nor a reason.",
            hint=hint if meant is None else f"Did you mean {meant}? {hint}",
        )
    output = Output.JSON if as_json else output
    if worst is None:
        worst = DEFAULT_WORST if output in {Output.TABLE, Output.WIDE} else 0
    files = Files(username, password_file, token_file, ca, cert, key)
    source: Source = choose_source(broker, prometheus, files)
    choice = Choice(cluster, node, wanted, worst)
    if watch:
        with suppress(KeyboardInterrupt):  # which is how one ends it
            show_watching(source, choice, output)
    else:
        show_once(source, choice, output)
