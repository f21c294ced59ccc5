"""The commands that ask something of AWS: by the running agent, whose worker speaks to it, or alone."""

# ruff: noqa: PLC0415  # each command imports what it alone needs

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typing_extensions import override

from agent.cli.client import Client, NoAnswerError, read_error
from agent.cli.show.output import JsonOption, print_answer, print_json
from agent.cli.show.progress import follow_lines
from agent.cli.volumes import VolumeArgument, complete_volume
from agent.core.errors import ExitCode

SnapshotArgument = Annotated[str, typer.Argument(help="A snapshot's ID.")]
NewSize = Annotated[str, typer.Argument(help="As in 500GiB.")]
SizeOption = Annotated[str | None, typer.Option("--size", help="Size with its unit: 500GiB.")]
TypeOption = Annotated[str | None, typer.Option("--type", help="gp2, gp3, io1, io2, st1, sc1 or standard.")]
IopsOption = Annotated[int | None, typer.Option("--iops", help="Provisioned IOPS.")]
ThroughputOption = Annotated[int | None, typer.Option("--throughput", help="Provisioned MiB/s.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    for command in (attach, detach, restore):
        app.command()(command)
    app.command(epilog="Example: ebs-agent create --size 500GiB --type gp3 --name scratch")(create)
    app.command(epilog="Example: ebs-agent expand checkpoints 2TiB")(expand)
    app.command(epilog="Example: ebs-agent modify checkpoints --iops 6000 --throughput 500")(modify)
    app.command("snapshots")(list_snapshots)
    app.add_typer(_make_snapshot_commands(), name="snapshot")
    app.command("csi-controller", epilog="Example: ebs-agent csi-controller --endpoint unix:///csi/csi.sock")(
        csi_controller
    )
    app.command("iam-policy", epilog="Example: ebs-agent iam-policy > policy.json")(iam_policy)


class _TakeByDefault(TyperGroup):
    """``snapshot VOLUME`` is ``snapshot take VOLUME``; a volume named like a command has to be said so."""

    @override
    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        is_volume = bool(args) and args[0] not in {*self.commands, *ctx.help_option_names}
        return super().parse_args(ctx, ["take", *args] if is_volume else args)


def _make_snapshot_commands() -> typer.Typer:
    commands = typer.Typer(
        cls=_TakeByDefault,
        help="Take a snapshot of a volume (snapshot VOLUME), list snapshots, or delete one.",
        no_args_is_help=True,
    )
    commands.command("take")(take_snapshot)
    commands.command("list")(list_snapshots)
    commands.command("delete")(delete_snapshot)
    return commands


def attach(context: typer.Context, volume: VolumeArgument, as_json: JsonOption = False) -> None:
    """Attach a volume to this node; the policy says what becomes of it."""
    _order(context, "attach", as_json, volume=volume)


def detach(
    context: typer.Context,
    volume: VolumeArgument,
    force: Annotated[
        bool, typer.Option("--force", help="Also while it is in use: data may be lost.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Unmount, flush and detach a volume, and leave it so. Names the processes in the way."""
    _order(context, "detach", as_json, volume=volume, force=force)


def create(  # noqa: PLR0913, PLR0917 - its options
    context: typer.Context,
    size: SizeOption = None,
    from_snapshot: Annotated[str | None, typer.Option("--from", help="Snapshot to make it from.")] = None,
    kind: TypeOption = None,
    iops: IopsOption = None,
    throughput: ThroughputOption = None,
    encrypted: Annotated[bool | None, typer.Option(help="Encrypt it; else the account's default.")] = None,
    kms_key_id: Annotated[str | None, typer.Option(help="KMS key to encrypt with.")] = None,
    name: Annotated[
        str | None, typer.Option(help="Its name; asking again for a name goes on with its volume.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Make a volume in this node's zone, empty or from a snapshot."""
    words = {"size": size, "from": from_snapshot, "type": kind, "iops": iops, "throughput": throughput}
    _order(context, "create", as_json, **words, encrypted=encrypted, kms_key_id=kms_key_id, name=name)


def expand(
    context: typer.Context, volume: VolumeArgument, size: NewSize, as_json: JsonOption = False
) -> None:
    """Make a volume larger while it is in use. Volumes never shrink."""
    _order(context, "expand", as_json, volume=volume, size=size)


def modify(
    context: typer.Context,
    volume: VolumeArgument,
    kind: TypeOption = None,
    iops: IopsOption = None,
    throughput: ThroughputOption = None,
    as_json: JsonOption = False,
) -> None:
    """Change a volume's type, IOPS or throughput while it is in use."""
    _order(context, "modify", as_json, volume=volume, type=kind, iops=iops, throughput=throughput)


def restore(  # noqa: PLR0913, PLR0917 - its options
    context: typer.Context,
    snapshot: SnapshotArgument,
    name: Annotated[
        str | None,
        typer.Option("--as", help="Its name; asking again for a name goes on with its volume."),
    ] = None,
    size: SizeOption = None,
    kind: TypeOption = None,
    iops: IopsOption = None,
    throughput: ThroughputOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a new volume from a snapshot, and attach it to this node."""
    words = {"size": size, "type": kind, "iops": iops, "throughput": throughput}
    _order(context, "restore", as_json, snapshot=snapshot, name=name, **words)


def take_snapshot(
    context: typer.Context,
    volume: VolumeArgument,
    freeze: Annotated[bool, typer.Option(help="Hold writes for the instant it begins.")] = True,
    wait: Annotated[bool, typer.Option("--wait", help="Stay until it is completed.")] = False,
    list_all: Annotated[bool, typer.Option("--list", hidden=True)] = False,
    delete: Annotated[bool, typer.Option("--delete", hidden=True)] = False,
    as_json: JsonOption = False,
) -> None:
    """Take a snapshot of a volume."""
    if delete:
        delete_snapshot(context, volume, as_json)
    elif list_all:
        list_snapshots(context, volume, as_json)
    else:
        _order(context, "snapshot", as_json, volume=volume, freeze=freeze, wait=wait)


def list_snapshots(
    context: typer.Context,
    volume: Annotated[
        str | None,
        typer.Argument(
            help="A volume's name or ID; all the agent made when not given.", autocompletion=complete_volume
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List snapshots, oldest first, and how far those being written are."""
    answer = carry_out(context, "snapshots", as_json, volume=volume)
    print_answer(answer, "show_snapshots", as_json=as_json)


def delete_snapshot(context: typer.Context, snapshot: SnapshotArgument, as_json: JsonOption = False) -> None:
    """Delete a snapshot the agent made."""
    _order(context, "delete-snapshot", as_json, snapshot=snapshot)


def iam_policy(
    context: typer.Context,
    policy: Annotated[Path | None, typer.Argument(help="The policy file, in place of the usual one.")] = None,
    kms: Annotated[bool, typer.Option("--kms", help="Print the KMS key policy instead.")] = False,
    role: Annotated[str, typer.Option(help="ARN of the role that --kms is for.")] = "ROLE_ARN",
    csi: Annotated[
        bool, typer.Option("--csi", help="Print what the controller's role needs for the volumes of pods.")
    ] = False,
    managed: Annotated[
        bool,
        typer.Option(
            "--managed", help="With --csi: what AmazonEBSCSIDriverPolicyV2 leaves out, and no more."
        ),
    ] = False,
    _as_json: JsonOption = True,
) -> None:
    """Print the least IAM policy this policy file needs. Needs no running agent."""
    import anyio

    from agent.cloud.identity.identity_sources import identify_node, look_around
    from agent.cloud.permissions.iam_policy import make_iam_policy, make_kms_policy, makes_encrypted
    from agent.cloud.plan.decisions import AttachApi, choose_attach_api
    from agent.policy.reading import load_policy

    if csi:
        from agent.cloud.permissions.csi_policy import make_controller_policy

        found = anyio.run(identify_node, look_around())
        print_json(make_controller_policy(found, is_beside_managed=managed))
        return
    path = policy or context.obj.paths.policy
    loaded = load_policy(path, trust_owner=True)
    identity = anyio.run(identify_node, look_around())
    if kms:
        print_json(make_kms_policy(identity, role, creates_encrypted=makes_encrypted(loaded)))
        return
    apis = [choose_attach_api(loaded.agent.cloud.attach_api, identity)]
    if apis == [AttachApi.NONE] and loaded.agent.cloud.attach_api == "auto" and not identity.is_hyperpod:
        apis = [AttachApi.HYPERPOD, AttachApi.EC2]
        typer.echo("No node: here is what HyperPod's and EC2's need; attach_api chooses one.", err=True)
    print_json(make_iam_policy(loaded, identity, *apis))


def csi_controller(  # noqa: PLR0913, PLR0917 -- each is an option
    endpoint: Annotated[str, typer.Option(help="The socket that the sidecars call: unix:///csi/csi.sock.")],
    driver: Annotated[
        str, typer.Option(help="The driver's name, as StorageClasses have it.")
    ] = "ebs.csi.hyperpod-agent",
    region: Annotated[
        str | None, typer.Option(envvar=["AWS_REGION", "AWS_DEFAULT_REGION"], help="AWS's region.")
    ] = None,
    cluster_id: Annotated[
        str | None, typer.Option(help="Mark what is made as this cluster's: kubernetes.io/cluster/ID=owned.")
    ] = None,
    extra_tags: Annotated[
        str, typer.Option(metavar="K=V,…", help="Tags of all that is made; a class's own win.")
    ] = "",
    metrics_port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Serve Prometheus' metrics at this port.")
    ] = None,
    kubeconfig: Annotated[Path | None, typer.Option(help="The cluster, where this is no pod of it.")] = None,
    release_dead_nodes: Annotated[
        bool, typer.Option("--release-dead-nodes", help="Release volumes of instances that are proven gone.")
    ] = False,
) -> None:
    """Be the controller of a cluster: make claims into volumes, and attach them to nodes."""
    import anyio

    from agent.controller.compose import compose_parts
    from agent.controller.options import read_care, read_settings
    from agent.controller.program import run_controller
    from agent.report.logs import configure_logs

    settings = read_settings(
        endpoint=endpoint,
        driver=driver,
        region=region,
        cluster_id=cluster_id,
        extra_tags=extra_tags,
        metrics_port=metrics_port,
        environment=os.environ,
    )
    settings = read_care(settings, kubeconfig, os.environ, releases_dead_nodes=release_dead_nodes)
    configure_logs(is_verbose="EBS_AGENT_DEBUG" in os.environ)
    anyio.run(run_controller, settings, compose_parts)


def _order(context: typer.Context, order: str, as_json: bool, **words: Any) -> None:
    """Have the agent carry an order out; its sentences tell what came of it, or in JSON its answer."""
    answer = carry_out(context, order, as_json, **words)
    if as_json:
        print_json(answer)


def carry_out(context: typer.Context, order: str, as_json: bool, **words: Any) -> dict[str, Any]:
    """Have the agent carry an order out and return its answer, telling its progress meanwhile.

    Raises the error the order ends with. With JSON progress goes to standard error.
    """
    client: Client = context.obj.client
    lines = client.order(order, {name: value for name, value in words.items() if value is not None})
    subject = words.get("volume") or words.get("snapshot") or words.get("name")
    answer = follow(lines, f"{order} {subject}" if subject else order, as_json=as_json)
    if "error" in answer:
        raise read_error(answer)
    return answer


def follow(lines: Iterable[dict[str, Any]], what: str, *, as_json: bool) -> dict[str, Any]:
    """Tell an order's progress, and return its last line. Raises NoAnswerError where there is none."""
    answer = follow_lines(lines, what, as_json=as_json)
    if not answer:
        raise NoAnswerError(
            "The agent broke off before it said what came of the order.",
            hint="See how volumes are with: ebs-agent status. Asking again takes up what was interrupted.",
            exit_code=ExitCode.NO_ANSWER,
        )
    return answer
