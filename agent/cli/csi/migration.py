"""Shows what a migration would do, and has it done, claim by claim."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from pathlib import Path
from typing import Any

import typer
from msgspec import Struct

from agent.cli.csi.words import show_failure, show_left, show_needs, show_plan
from agent.cli.show.estimate import WHOLE
from agent.cli.show.output import print_json
from agent.cli.show.progress import Pace as LinePace
from agent.cli.show.progress import Telling, telling
from agent.cloud.aws_worker.client import CloudClient
from agent.cloud.aws_worker.process import WorkerSettings
from agent.controller.cluster.api import connect
from agent.controller.describing.describing import Describing
from agent.controller.migration.carry_out import Pace, Tell, begin, look, move
from agent.controller.migration.cluster import AWS_ACTIONS, YOU, Cluster, Ec2Snapshots, list_rights
from agent.controller.migration.describe import Plan, plan
from agent.controller.migration.find_claims import check_driver, choose_snapshot_class, find_subjects
from agent.controller.migration.glance import Glance
from agent.controller.migration.seen import Aim, Subject
from agent.controller.options import find_cloud_endpoint, parse_region
from agent.controller.snapshots.cluster_snapshots import ClusterSnapshots
from agent.controller.turns import Turns
from agent.controller.worker_user import choose_worker_user
from agent.core.errors import AgentError, ExitCode
from agent.core.quoting import make_printable
from agent.core.replace import replace

_SNAPSHOT_SHARE = 0.9
"""Of the way of a claim."""
OpenEc2 = Callable[[str], AbstractAsyncContextManager[Ec2Snapshots]]
"""Gives who takes EC2's snapshots in a region."""


class Wishes(Struct, frozen=True):
    """What the command's options say."""

    names: tuple[str, ...] | None
    """None: all claims of the driver."""
    namespace: str | None
    origin: str
    target: str
    snapshot_class: str | None
    takes_snapshot: bool
    takes_ec2_snapshot: bool
    """Also where the cluster has VolumeSnapshots."""
    region: str | None
    """AWS's, which has to be said where EC2 is asked."""
    timeout_s: float
    is_meant: bool
    """It is done, and not only shown."""
    as_json: bool


async def migrate_claims(kubeconfig: Path | None, wishes: Wishes) -> int:
    """Show the plan, and carry it out where that is meant; return the exit code. Raises AgentError."""
    if not wishes.as_json:
        for line in show_needs(list_rights(), YOU.rights, AWS_ACTIONS):
            typer.echo(line)
    async with connect(kubeconfig, YOU) as api:
        namespace = wishes.namespace
        if namespace is None and wishes.names is not None:
            namespace = api.namespace
        return await migrate_in(api, wishes, namespace, open_ec2)


@asynccontextmanager
async def open_ec2(region: str) -> AsyncIterator[Ec2Snapshots]:
    """Give EC2's snapshots, by the credentials that AWS's programs find here."""
    endpoint = find_cloud_endpoint(os.environ)
    user = choose_worker_user(os.environ, endpoint)
    async with CloudClient(WorkerSettings(region=region, endpoint=endpoint, user=user)) as client:
        yield ClusterSnapshots(client.make, Describing(client.make), Turns().take)


async def migrate_in(cluster: Cluster, wishes: Wishes, namespace: str | None, open_ec2: OpenEc2) -> int:
    """Do it in a cluster; ``namespace`` is None for all of them."""
    glance = Glance(cluster)
    await check_driver(glance, wishes.target)
    found = await find_subjects(glance, wishes.origin, wishes.target, namespace, wishes.names)
    aim = await _choose_aim(glance, wishes) if found else Aim(wishes.origin, wishes.target, None)
    plans = [plan(await look(glance, subject, aim), aim) for subject in found]
    if not wishes.as_json:
        for one in plans:
            for line in show_plan(one, aim):
                typer.echo(line)
    failures: dict[Subject, AgentError] = {
        one.subject: one.refusal for one in plans if one.refusal is not None
    }
    moved: list[Subject] = []
    if wishes.is_meant:
        opened = open_ec2(parse_region(wishes.region)) if aim.takes_ec2_snapshot else nullcontext()
        async with opened as ec2:
            await _move_all(cluster, ec2, plans, aim, wishes, moved, failures)
    if wishes.as_json:
        print_json(_write_answer(plans, aim, moved, failures))
    else:
        for line in show_left(plans, moved, is_meant=wishes.is_meant):
            typer.echo(line)
    codes = {failure.exit_code for failure in failures.values()}
    return max(codes, default=ExitCode.DONE)


async def _choose_aim(glance: Glance, wishes: Wishes) -> Aim:
    aim = Aim(wishes.origin, wishes.target, None)
    if not wishes.takes_snapshot:
        return aim
    if not wishes.takes_ec2_snapshot:
        named = await choose_snapshot_class(glance, wishes.origin, wishes.snapshot_class)
        if named is not None:
            return replace(aim, snapshot_class=named)
    parse_region(wishes.region)  # said before anything is begun
    return replace(aim, takes_ec2_snapshot=True)


async def _move_all(
    cluster: Cluster,
    ec2: Ec2Snapshots | None,
    plans: Sequence[Plan],
    aim: Aim,
    wishes: Wishes,
    moved: list[Subject],
    failures: dict[Subject, AgentError],
) -> None:
    """Move all that can be, once all snapshots are begun; one that fails leaves the others to be moved."""
    meant = [one.subject for one in plans if one.steps]

    async def begin_one(subject: Subject) -> None:
        await begin(cluster, subject, aim, progress.make_tell(subject), ec2)

    async def move_one(subject: Subject) -> None:
        await move(cluster, subject, aim, Pace(wishes.timeout_s), progress.make_tell(subject), ec2)
        moved.append(subject)

    async def attempt(act: Callable[[Subject], Awaitable[None]], subject: Subject) -> None:
        try:
            await act(subject)
        except AgentError as error:
            failures[subject] = error
            for line in show_failure(error):
                typer.echo(line, err=True)

    with telling(f"move {len(meant)} claims", to_stderr=wishes.as_json) as shown:
        progress = _Progress(shown, len(meant), lambda: len(moved) + len(failures.keys() & {*meant}))
        for act in (begin_one, move_one):
            for subject in meant:
                if subject not in failures:
                    await attempt(act, subject)
                    progress.show_far()


class _Progress(Struct, frozen=True):
    """Tells what becomes of each claim, and how far all are."""

    shown: Telling
    count: int
    count_done: Callable[[], int]

    def show_far(self, percent: float = 0.0) -> None:
        """Show how far all is, where ``percent`` of a claim's snapshot is there."""
        self.shown.tell(None, (WHOLE * self.count_done() + _SNAPSHOT_SHARE * percent) / self.count)

    def make_tell(self, subject: Subject) -> Tell:
        """Return what tells of a claim."""
        pace = LinePace()

        def tell(said: str, percent: float | None = None) -> None:
            if percent is not None:
                self.show_far(percent)
            if percent is None or pace.is_due(percent):
                self.shown.tell(f"{subject.name}: {make_printable(said)}")

        return tell


def _write_answer(
    plans: Sequence[Plan], aim: Aim, moved: Sequence[Subject], failures: dict[Subject, AgentError]
) -> dict[str, Any]:
    rights = [
        {"group": group, "resource": resource, "verbs": verbs} for group, resource, verbs in list_rights()
    ]
    return {
        "from": aim.origin,
        "to": aim.target,
        "rights": rights,
        "aws_actions": [*AWS_ACTIONS] if aim.takes_ec2_snapshot else [],
        "claims": [
            {
                "namespace": one.subject.namespace,
                "claim": one.subject.claim,
                "volume_id": one.volume_id,
                "size": one.size,
                "steps": list(one.steps),
                "losses": list(one.losses),
                "moved": one.subject in moved,
                "error": _write_error(failures.get(one.subject)),
            }
            for one in plans
        ],
    }


def _write_error(error: AgentError | None) -> dict[str, Any] | None:
    return None if error is None else {"message": error.message, "hint": error.hint}
