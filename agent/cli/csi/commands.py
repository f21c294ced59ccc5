"""``ebs-agent csi migrate``: claims move from one driver to another and back, with their volumes."""

# ruff: noqa: PLC0415  # each command imports what it alone needs

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from agent.cli.show.output import JsonOption, make_timeout_option
from agent.core.errors import InvalidValueError

HOME_CONFIG = Path("~/.kube/config")

csi = typer.Typer(
    name="csi",
    help="What is done about the volumes of pods in Kubernetes itself.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@csi.callback()
def _be_a_group() -> None:
    """Do what is about the volumes of pods in Kubernetes itself."""


@csi.command(epilog="Example: ebs-agent csi migrate data -n training --yes")
def migrate(  # noqa: PLR0913, PLR0917 -- each is an option
    claims: Annotated[list[str] | None, typer.Argument(help="PersistentVolumeClaims, by name.")] = None,
    all_of_them: Annotated[bool, typer.Option("--all", help="All that the driver has.")] = False,
    namespace: Annotated[
        str | None,
        typer.Option(
            "--namespace", "-n", help="Where the claims are; with --all everywhere, when not given."
        ),
    ] = None,
    origin: Annotated[str, typer.Option("--from", help="The driver that has them.")] = "ebs.csi.aws.com",
    target: Annotated[str, typer.Option("--to", help="The driver to have them.")] = "ebs.csi.hyperpod-agent",
    back: Annotated[bool, typer.Option("--back", help="The other way: from --to, to --from.")] = False,
    snapshot_class: Annotated[
        str | None, typer.Option(help="The VolumeSnapshotClass, where the driver has several.")
    ] = None,
    ec2_snapshot: Annotated[
        bool,
        typer.Option(
            "--ec2-snapshot", help="Have EC2 take the snapshot, as where the cluster has no VolumeSnapshots."
        ),
    ] = False,
    region: Annotated[
        str | None,
        typer.Option(envvar=["AWS_REGION", "AWS_DEFAULT_REGION"], help="AWS's region, where EC2 is asked."),
    ] = None,
    no_snapshot: Annotated[bool, typer.Option("--no-snapshot", help="Take none before.")] = False,
    kubeconfig: Annotated[
        Path | None, typer.Option(envvar="KUBECONFIG", help="The cluster; ~/.kube/config when not given.")
    ] = None,
    timeout_s: Annotated[float, make_timeout_option("Wait so long for each step.")] = 600,
    yes: Annotated[
        bool, typer.Option("--yes/--dry-run", help="Do it, or only say what would be done.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Move claims to another driver: same name, same volume. Only says what it would do without --yes.

    Cut off anywhere, the same command goes on. A claim that a pod uses is refused.
    """
    import anyio

    from agent.cli.csi.migration import Wishes, migrate_claims

    named = claims or []
    if bool(named) == all_of_them:
        raise InvalidValueError(
            "Which claims are to be moved is not said, or said twice.",
            hint="Name claims, or say --all. Example: ebs-agent csi migrate data -n training",
        )
    if origin == target:
        raise InvalidValueError(f"--from and --to are the same driver, {origin}.")
    if no_snapshot + ec2_snapshot + (snapshot_class is not None) > 1:
        raise InvalidValueError("--no-snapshot, --ec2-snapshot and --snapshot-class exclude each other.")
    if kubeconfig is None and HOME_CONFIG.expanduser().exists():
        kubeconfig = HOME_CONFIG.expanduser()
    if back:
        origin, target = target, origin
    wishes = Wishes(
        names=None if all_of_them else tuple(named),
        namespace=namespace,
        origin=origin,
        target=target,
        snapshot_class=snapshot_class,
        takes_snapshot=not no_snapshot,
        takes_ec2_snapshot=ec2_snapshot,
        region=region,
        timeout_s=timeout_s,
        is_meant=yes,
        as_json=as_json,
    )
    raise typer.Exit(anyio.run(migrate_claims, kubeconfig, wishes))
