"""The command line: names, options and help of every command. Each imports what it needs when it is called.

Nothing heavy is imported here, since completion and lifecycle scripts start this program often.
"""

# ruff: noqa: PLC0415  # each command imports what it alone needs

from __future__ import annotations

import os
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Annotated

import typer
from msgspec import Struct

import agent
from agent.base.paths import Paths
from agent.cli.client import Client
from agent.cli.cloud import register as register_cloud
from agent.cli.csi.commands import csi
from agent.cli.fleet.commands import fleet
from agent.cli.init import init
from agent.cli.orphans import orphans
from agent.cli.release import release
from agent.cli.show.output import (
    JsonOption,
    Output,
    OutputOption,
    make_timeout_option,
    print_answer,
    print_json,
    print_volumes,
)
from agent.cli.volumes import OptionalVolume, VolumeArgument, complete_volume

app = typer.Typer(
    name="ebs-agent",
    help="Makes the EBS volumes attached to this instance what its policy says they are.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done, 1 failed, 2 wrong usage or invalid policy, 3 not ready in time, "
    "4 the agent does not answer, 5 refused for safety.",
)


class Session(Struct, frozen=True):
    """What the global options say."""

    paths: Paths
    client: Client


def print_version(is_asked: bool) -> None:
    """Print the version and end, if asked to."""
    if is_asked:
        typer.echo(agent.__version__)
        raise typer.Exit


@app.callback()
def read_global_options(
    context: typer.Context,
    root: Annotated[
        Path,
        typer.Option("--root", envvar="EBS_AGENT_ROOT", help="Keep and find the agent's files below this."),
    ] = Path("/"),
    socket: Annotated[
        Path | None,
        typer.Option("--socket", envvar="EBS_AGENT_SOCKET", help="Control socket of the agent to talk to."),
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Log more, and show tracebacks.")] = False,
    _version: Annotated[
        bool,
        typer.Option("--version", callback=print_version, is_eager=True, help="Print the version and end."),
    ] = False,
) -> None:
    """Make the EBS volumes attached to this instance what its policy says they are."""
    if debug:
        os.environ["EBS_AGENT_DEBUG"] = "1"
    paths = Paths(root.absolute())
    context.obj = Session(paths, Client(socket or paths.socket))


@app.command(epilog="Example: ebs-agent --root /tmp/try run --devices /tmp/try/volumes")
def run(
    context: typer.Context,
    devices: Annotated[
        Path | None, typer.Option(help="A directory of vol-….img files that stand in for volumes.")
    ] = None,
    policy: Annotated[Path | None, typer.Option(help="The policy file, in place of the usual one.")] = None,
) -> None:
    """Be the daemon: watch, and make every volume what the policy says."""
    from agent.cli.run import run_daemon

    run_daemon(_session(context).paths, devices, policy)


@app.command(epilog="Example: ebs-agent status -o name | xargs -n 1 ebs-agent explain")
def status(
    context: typer.Context,
    volume: OptionalVolume = None,
    output: OutputOption = Output.TABLE,
    as_json: JsonOption = False,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Stay, and show every change.")] = False,
) -> None:
    """Show how every volume is, the worst first: condition, path, size and use, last step."""
    client = _session(context).client
    as_json = as_json or output is Output.JSON
    if watch:
        from agent.cli.show.watch import watch_status

        watch_status(client, volume, as_json=as_json)
    elif volume is not None:
        print_answer(client.volume_status(volume), "show_volume", as_json=as_json)
    else:
        print_volumes(client.status(), Output.JSON if as_json else output)


@app.command()
def plan(context: typer.Context, as_json: JsonOption = False) -> None:
    """Show what would be done now, and why. Changes nothing."""
    print_answer(_session(context).client.plan(), "show_plan", as_json=as_json)


@app.command()
def explain(context: typer.Context, volume: VolumeArgument, as_json: JsonOption = False) -> None:
    """Show which policy entry matched a volume, every fact observed of it, and every refusal."""
    print_answer(_session(context).client.explain(volume), "show_explanation", as_json=as_json)


@app.command(epilog="Example: ebs-agent check policy.yaml && sudo install policy.yaml /etc/ebs-agent/")
def check(
    context: typer.Context,
    policy: Annotated[
        Path | None, typer.Argument(help="The policy file; the one in use when not given.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show all problems of a policy file, with line numbers. Needs no running agent."""
    from agent.cli.check import check_file

    raise typer.Exit(check_file(policy or _session(context).paths.policy, as_json=as_json))


@app.command(epilog="Example: ebs-agent schema > policy.schema.json")
def schema(_as_json: JsonOption = True) -> None:
    """Print the JSON Schema of the policy file, for editors."""
    from agent.policy.reading import policy_schema

    print_json(policy_schema())


@app.command(epilog="Example: ebs-agent wait checkpoints datasets --timeout 600 || exit")
def wait(
    context: typer.Context,
    names: Annotated[
        list[str] | None,
        typer.Argument(
            help="Names or IDs; every required volume when not given.", autocompletion=complete_volume
        ),
    ] = None,
    timeout_s: Annotated[float, make_timeout_option("Give up after S seconds.")] = 300,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing until the end.")] = False,
    leave_creation: Annotated[
        bool,
        typer.Option(
            "--leave-creation",
            help="End well where all that is missing waits for the cluster's InService.",
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Wait until volumes are ready: for lifecycle scripts, Slurm prologs and units."""
    from agent.cli.wait import wait_for

    client = _session(context).client
    wait_for(client, names or [], timeout_s, is_quiet=quiet, as_json=as_json, leaves_creation=leave_creation)


@app.command(epilog="Example: ebs-agent events checkpoints --since 2h")
def events(
    context: typer.Context,
    volume: OptionalVolume = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Stay, and show what happens.")] = False,
    since: Annotated[
        str | None,
        typer.Option(metavar="WHEN", help="How long ago at most (90s, 2h, 1d), or since when (UTC)."),
    ] = None,
    last: Annotated[int | None, typer.Option("--last", "-n", min=0, help="Only the latest N.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Show what happened, oldest first."""
    from agent.cli.show.events import print_events

    # Ctrl-C is how one stops following, and no failure.
    with suppress(KeyboardInterrupt) if follow else nullcontext():
        print_events(_session(context).client, volume, since, last, follows=follow, as_json=as_json)


@app.command()
def reconcile(context: typer.Context, volume: OptionalVolume = None, as_json: JsonOption = False) -> None:
    """Have the agent look at one volume, or at all, now rather than at the next occasion."""
    answer = _session(context).client.reconcile(volume)
    if as_json:
        print_json(answer)
    else:
        typer.echo(
            f"The agent looks at {volume or 'every volume'} now. What comes of it: ebs-agent events -n 10."
        )


@app.command()
def reload(context: typer.Context, as_json: JsonOption = False) -> None:
    """Have the agent read its policy again. A policy with problems is refused and the old one stays."""
    answer = _session(context).client.reload()
    if as_json:
        print_json(answer)
        return
    typer.echo("The policy was read again and is in force.")
    for departure in answer.get("departures", []):
        typer.echo(departure["text"])


@app.command()
def forget(context: typer.Context, volume: VolumeArgument, as_json: JsonOption = False) -> None:
    """Forget that the agent formatted a volume that is not mounted, so that it may do so again."""
    from agent.cli.forget import forget_format

    session = _session(context)
    volume_id, noted = forget_format(session.paths, session.client, volume)
    if as_json:
        print_json({"volume_id": volume_id, "message": noted})
    else:
        typer.echo(noted)


@app.command(epilog="Example: systemctl disable --now ebs-agent && ebs-agent withdraw")
def withdraw(
    context: typer.Context,
    check: Annotated[
        bool, typer.Option("--check", help="Only tell whether pods have volumes; the agent may run.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Even while pods have volumes.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Take the agent's driver off kubelet for good, unless pods have volumes. The agent is stopped first."""
    from agent.cli.withdraw import withdraw_driver

    session = _session(context)
    removed, left = withdraw_driver(session.paths, session.client, is_check=check, is_forced=force)
    if as_json:
        print_json({"removed": removed, "left": left})
        return
    for line in (*(f"removed {path}" for path in removed), *left):
        typer.echo(line)


@app.command(epilog="Example: ebs-agent doctor --bundle report.tar.gz")
def doctor(
    context: typer.Context,
    bundle: Annotated[
        Path | None, typer.Option(help="Collect what a bug report needs, no secrets.", metavar="FILE")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Tell whether this node is ready for the agent, and how to mend what is not."""
    from agent.cli.doctor import examine

    session = _session(context)
    raise typer.Exit(examine(session.paths, session.client, bundle, as_json=as_json))


@app.command()
def demo(
    picture: Annotated[
        Path | None, typer.Option(help="Save the last view as an SVG picture.", metavar="FILE")
    ] = None,
) -> None:
    """See the agent at work on files that stand in for volumes. Needs root and loop devices, nothing else."""
    from agent.cli.demo import run_demo

    raise typer.Exit(run_demo(picture))


register_cloud(app)
app.add_typer(csi)
app.command(epilog="Example: ebs-agent fleet --broker mqtts://broker.example --reason Stalled")(fleet)
app.command(epilog="Example: ebs-agent init --claim scratch:100GiB:/data/scratch --yes")(init)
app.command(epilog="Example: ebs-agent release --all && ebs-agent status")(release)
app.command(epilog="Example: ebs-agent orphans --delete vol-0123456789abcdef0")(orphans)


def _session(context: typer.Context) -> Session:
    session = context.obj
    assert isinstance(session, Session)  # noqa: S101  # set by the callback before any command runs
    return session
