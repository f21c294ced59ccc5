"""Moves a claim: looks, does what comes next, and looks again, until nothing is left to do."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol

import anyio
from msgspec import Struct

from agent.controller.cluster.api import BAD_REQUEST, CONFLICT, ClusterError
from agent.controller.migration.cluster import Cluster, Ec2Snapshots, Readable, guard
from agent.controller.migration.decide import Deed, Wait, decide
from agent.controller.migration.describe import ask_ec2_snapshot, explain, name_snapshot
from agent.controller.migration.journal import ANNOTATION
from agent.controller.migration.judge import refuse
from agent.controller.migration.objects import (
    PersistentVolume,
    PersistentVolumeClaim,
    Pod,
    StatefulSet,
    VolumeAttachment,
    VolumeSnapshot,
)
from agent.controller.migration.rewrite import RETAIN, make_claim, make_volume
from agent.controller.migration.seen import Aim, Seen, Subject
from agent.core.errors import AgentError, ExitCode
from agent.core.replace import replace

LOOK_S = 1.0
"""Between two looks while others have something to do."""
POLICY = "/spec/persistentVolumeReclaimPolicy"


class Tell(Protocol):
    """Is told what is done, and what is waited for."""

    def __call__(self, said: str, percent: float | None = None, /) -> None:
        """Tell it; ``percent``: how far what is waited for is, where that is known."""


class Pace(Struct, frozen=True):
    """How long to wait for others, and how often to look."""

    timeout_s: float
    look_s: float = LOOK_S
    clock: Callable[[], float] = time.monotonic


class _Patience:
    """What a claim's move waits for, how long it does, and what was told of it."""

    def __init__(self, subject: Subject, pace: Pace, tell: Tell) -> None:
        self._subject, self._pace, self._tell = subject, pace, tell
        self._said = "the cluster says how things are"
        self._since = pace.clock()
        self._failure: ClusterError | None = None

    @property
    def is_over(self) -> bool:
        return self._pace.clock() - self._since > self._pace.timeout_s

    def note(self, following: Deed | Wait, seen: Seen, aim: Aim) -> None:
        """Tell what comes next where that is new. Raises AgentError once it was for long."""
        said = following.what if isinstance(following, Wait) else explain(following, seen, aim)
        if said != self._said:
            self._said, self._since, self._failure = said, self._pace.clock(), None
            if isinstance(following, Wait):
                self._tell(f"waits until {said}", following.percent)
            else:
                self._tell(said)
        elif self.is_over:
            raise self._give_up()

    def note_failure(self, error: ClusterError, deed: Deed | None) -> float:
        """Return how long to wait after a failure of a look, or of a deed. Raises AgentError.

        While the claim is gone it is hoped, whatever is said, that it can be made later: a quota
        counts the old one for a while after its end.
        """
        is_overtaken = deed is not None and error.is_overtaken
        if not error.is_passing and not is_overtaken and deed is not Deed.MAKE_CLAIM:
            raise error
        if self._failure is None or self._failure.message != error.message:
            self._tell(error.message)
        self._failure = error
        if self.is_over and not is_overtaken:
            raise self._give_up() from error
        return max(self._pace.look_s, error.retry_after_s)

    def _give_up(self) -> AgentError:
        why = f": {self._failure.message}" if self._failure else "."
        return AgentError(
            f"Claim {self._subject.name}: after {self._pace.timeout_s:.0f} s this is not so yet: "
            f"{self._said}{why}",
            hint="Its volume is kept. The same command goes on from here.",
            exit_code=ExitCode.NOT_READY,
        )


async def look(cluster: Readable, subject: Subject, aim: Aim, ec2: Ec2Snapshots | None = None) -> Seen:
    """Return a claim's objects as they are now. Raises ClusterError, and what EC2 says.

    ``ec2``: None where it is not asked; a snapshot of its own is then not seen. The claim is read
    last: two who move it at once would else see it gone, and its successor's volume taken.
    """
    new = await cluster.find(PersistentVolume, subject.new) if subject.new else None
    old = await cluster.find(PersistentVolume, subject.old) if subject.old else None
    pods = await cluster.list_in(Pod, subject.namespace)
    sets = await cluster.list_in(StatefulSet, subject.namespace)
    _, attachments = await cluster.list_all(VolumeAttachment)
    claim = await cluster.find_in(PersistentVolumeClaim, subject.claim, subject.namespace)
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
    tell: Tell,
    ec2: Ec2Snapshots | None = None,
) -> None:
    """Have a claim's snapshot taken where that comes next, and do not wait for it. As ``move`` otherwise."""
    seen = await look(cluster, subject, aim, ec2)
    if decide(seen, aim) is Deed.TAKE_SNAPSHOT:
        tell(explain(Deed.TAKE_SNAPSHOT, seen, aim))
        try:
            await _do(cluster, Deed.TAKE_SNAPSHOT, seen, aim, ec2)
        except ClusterError as error:
            if not error.is_overtaken:
                raise


async def move(
    cluster: Cluster,
    subject: Subject,
    aim: Aim,
    pace: Pace,
    tell: Tell,
    ec2: Ec2Snapshots | None = None,
) -> bool:
    """Move a claim to the other driver; False: it was there already.

    ``ec2``: who is asked for a snapshot where ``aim`` has EC2 take it. ``tell`` is told what is done before
    it is, and what is waited for. Raises RefusedError where a person has to do something first, AgentError
    where others do not do their part in time, ClusterError, and what EC2 says. Whatever it ends with, asked
    again it goes on.
    """
    patience, has_done = _Patience(subject, pace, tell), False
    while True:
        deed: Deed | None = None
        try:
            seen = await look(cluster, subject, aim, ec2)
            following = decide(seen, aim)
            if following is None:
                return has_done
            patience.note(following, seen, aim)
            if isinstance(following, Deed):
                deed, has_done = following, True
                await _do(cluster, deed, seen, aim, ec2)
                if deed is Deed.FINISH:
                    return True
                continue
            wait_s = pace.look_s
        except ClusterError as error:
            wait_s = patience.note_failure(error, deed)
        await anyio.sleep(wait_s)


async def _do(cluster: Cluster, deed: Deed, seen: Seen, aim: Aim, ec2: Ec2Snapshots | None) -> None:
    """Do it to the objects as they were seen, and to no others."""
    subject, claim, old = seen.subject, seen.claim, seen.old
    if deed is Deed.TAKE_SNAPSHOT:
        await _take_snapshot(cluster, seen, aim, ec2)
    elif deed is Deed.RECORD:
        assert claim is not None  # noqa: S101 -- decided by it
        assert old is not None  # noqa: S101
        await _try_claim(cluster, subject, make_claim(claim, old, aim.target))
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


async def _try_claim(cluster: Cluster, subject: Subject, manifest: dict[str, Any]) -> None:
    """Raise RefusedError where the cluster would not have the claim made anew, while the old is there."""
    try:
        await cluster.try_to_create(PersistentVolumeClaim.from_dict(manifest), subject.claim)
    except ClusterError as error:
        # That the name is taken is said last. The claim counts in a quota until it is gone.
        is_untold = error.status == BAD_REQUEST and "dry run" in error.message
        if error.status == CONFLICT or is_untold or "exceeded quota" in error.message:
            return
        if error.is_passing:
            raise
        raise refuse(
            f"Claim {subject.name} could not be made anew: {error.message}",
            "Nothing was deleted. What checks new claims in this cluster has to allow it first.",
        ) from error


async def _take_snapshot(cluster: Cluster, seen: Seen, aim: Aim, ec2: Ec2Snapshots | None) -> None:
    subject = seen.subject
    if aim.takes_ec2_snapshot:
        assert ec2 is not None  # noqa: S101 -- it was to be asked
        await ec2.take(ask_ec2_snapshot(seen))
        return
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
