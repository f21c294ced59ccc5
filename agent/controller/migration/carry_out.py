"""Moves a claim: looks, does what comes next, and looks again, until nothing is left to do."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import anyio

from agent.controller.cluster.api import ClusterError
from agent.controller.migration.cluster import Cluster, Ec2Snapshots, Readable, guard
from agent.controller.migration.decide import Deed, Wait, decide
from agent.controller.migration.describe import ask_ec2_snapshot, explain, name_snapshot
from agent.controller.migration.journal import ANNOTATION
from agent.controller.migration.objects import (
    PersistentVolume,
    PersistentVolumeClaim,
    Pod,
    StatefulSet,
    VolumeAttachment,
    VolumeSnapshot,
)
from agent.controller.migration.rewrite import RETAIN, make_volume
from agent.controller.migration.seen import Aim, Seen, Subject
from agent.core.errors import AgentError, ExitCode

LOOK_S = 1.0
"""Between two looks while others have something to do."""
POLICY = "/spec/persistentVolumeReclaimPolicy"


@dataclass(frozen=True)
class Pace:
    """How long to wait for others, and how often to look."""

    timeout_s: float
    look_s: float = LOOK_S
    clock: Callable[[], float] = time.monotonic


async def look(cluster: Readable, subject: Subject, aim: Aim, ec2: Ec2Snapshots | None = None) -> Seen:
    """Return a claim's objects as they are now. Raises ClusterError, and what EC2 says.

    ``ec2``: None where it is not asked; a snapshot of its own is then not seen.
    """
    claim = await cluster.find_in(PersistentVolumeClaim, subject.claim, subject.namespace)
    old = await cluster.find(PersistentVolume, subject.old) if subject.old else None
    new = await cluster.find(PersistentVolume, subject.new) if subject.new else None
    pods = await cluster.list_in(Pod, subject.namespace)
    sets = await cluster.list_in(StatefulSet, subject.namespace)
    _, attachments = await cluster.list_all(VolumeAttachment)
    seen = Seen(subject, claim, old, new, tuple(pods), tuple(sets), tuple(attachments))
    if claim is None or new is not None or not aim.takes_snapshot:
        return seen
    if aim.takes_ec2_snapshot:
        return seen if ec2 is None else replace(seen, ec2_snapshot=await ec2.find(ask_ec2_snapshot(seen)))
    snapshot = await cluster.find_in(VolumeSnapshot, name_snapshot(seen), subject.namespace)
    return replace(seen, snapshot=snapshot)


async def begin(
    cluster: Cluster,
    subject: Subject,
    aim: Aim,
    tell: Callable[[str], None],
    ec2: Ec2Snapshots | None = None,
) -> None:
    """Have a claim's snapshot taken where that comes next, and do not wait for it. As ``move`` otherwise."""
    seen = await look(cluster, subject, aim, ec2)
    if decide(seen, aim) is Deed.TAKE_SNAPSHOT:
        tell(explain(Deed.TAKE_SNAPSHOT, seen, aim))
        await _try_to_do(cluster, Deed.TAKE_SNAPSHOT, seen, aim, ec2)


async def move(
    cluster: Cluster,
    subject: Subject,
    aim: Aim,
    pace: Pace,
    tell: Callable[[str], None],
    ec2: Ec2Snapshots | None = None,
) -> bool:
    """Move a claim to the other driver; False: it was there already.

    ``ec2``: who is asked for a snapshot where ``aim`` has EC2 take it. ``tell`` is told what is done before
    it is, and what is waited for. Raises RefusedError where a person has to do something first, AgentError
    where others do not do their part in time, ClusterError, and what EC2 says. Whatever it ends with, asked
    again it goes on.
    """
    last, since, has_done = "", pace.clock(), False
    while True:
        seen = await look(cluster, subject, aim, ec2)
        following = decide(seen, aim)
        if following is None:
            return has_done
        said = following.what if isinstance(following, Wait) else explain(following, seen, aim)
        if said != last:
            tell(f"waits until {said}" if isinstance(following, Wait) else said)
            last, since = said, pace.clock()
        elif pace.clock() - since > pace.timeout_s:
            raise AgentError(
                f"Claim {subject.name}: after {pace.timeout_s:.0f} s this is not so yet: {said}.",
                hint="Its volume is kept. The same command goes on from here.",
                exit_code=ExitCode.NOT_READY,
            )
        if isinstance(following, Deed):
            has_done = True
            if await _try_to_do(cluster, following, seen, aim, ec2):
                continue
        await anyio.sleep(pace.look_s)


async def _try_to_do(cluster: Cluster, deed: Deed, seen: Seen, aim: Aim, ec2: Ec2Snapshots | None) -> bool:
    """Return whether it was done; False: something changed meanwhile."""
    try:
        if deed is Deed.TAKE_SNAPSHOT and aim.takes_ec2_snapshot:
            assert ec2 is not None  # noqa: S101 -- it was to be asked
            await ec2.take(ask_ec2_snapshot(seen))
        else:
            await _do(cluster, deed, seen, aim)
    except ClusterError as error:
        if not error.is_overtaken:
            raise
        return False
    return True


async def _do(cluster: Cluster, deed: Deed, seen: Seen, aim: Aim) -> None:
    """Do it to the objects as they were seen, and to no others."""
    subject, claim, old = seen.subject, seen.claim, seen.old
    if deed is Deed.TAKE_SNAPSHOT:
        await _take_snapshot(cluster, seen, aim)
    elif deed is Deed.RECORD:
        assert claim is not None  # noqa: S101 -- decided by it
        assert old is not None  # noqa: S101
        await cluster.create_global(
            PersistentVolume.from_dict(make_volume(claim, old, aim.target)), subject.new
        )
    elif deed is Deed.RETAIN:
        assert old is not None  # noqa: S101
        change = {"op": "replace", "path": POLICY, "value": RETAIN}
        await cluster.change(PersistentVolume, subject.old, [*guard(old), change])
    elif deed is Deed.DELETE_CLAIM:
        assert claim is not None  # noqa: S101
        metadata = claim["metadata"]
        named = (subject.claim, metadata["uid"], metadata["resourceVersion"], subject.namespace)
        await cluster.delete(PersistentVolumeClaim, *named)
    elif deed is Deed.MAKE_CLAIM:
        assert seen.journal is not None  # noqa: S101
        await cluster.create(PersistentVolumeClaim.from_dict(seen.journal.claim), subject.claim)
    elif deed is Deed.DELETE_OLD:
        assert old is not None  # noqa: S101
        metadata = old["metadata"]
        await cluster.delete(PersistentVolume, subject.old, metadata["uid"], metadata["resourceVersion"])
    else:
        await _finish(cluster, seen)


async def _take_snapshot(cluster: Cluster, seen: Seen, aim: Aim) -> None:
    subject = seen.subject
    manifest = {
        "apiVersion": "snapshot.storage.k8s.io/v1",
        "kind": "VolumeSnapshot",
        "metadata": {"name": name_snapshot(seen), "namespace": subject.namespace},
        "spec": {
            "volumeSnapshotClassName": aim.snapshot_class,
            "source": {"persistentVolumeClaimName": subject.claim},
        },
    }
    await cluster.create(VolumeSnapshot.from_dict(manifest), name_snapshot(seen))


async def _finish(cluster: Cluster, seen: Seen) -> None:
    journal, new = seen.journal, seen.new
    assert journal is not None  # noqa: S101 -- decided by it
    assert new is not None  # noqa: S101
    operations = [
        *guard(new),
        {"op": "replace", "path": POLICY, "value": journal.reclaim_policy},
        {"op": "remove", "path": f"/metadata/annotations/{ANNOTATION.replace('/', '~1')}"},
    ]
    await cluster.change(PersistentVolume, seen.subject.new, operations)
