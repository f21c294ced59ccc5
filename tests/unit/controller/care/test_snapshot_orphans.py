from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from agent.cloud.aws.call import Call
from agent.cloud.aws.calls import DescribeSnapshots
from agent.cloud.aws.models import CloudSnapshot
from agent.controller.care.orphans import Orphans
from agent.controller.care.settings import CareSettings
from agent.controller.care.snapshot_orphans import list_unknown_snapshots
from agent.controller.cluster.api import FORBIDDEN, NOT_FOUND, ClusterError
from agent.controller.cluster.objects import (
    Metadata,
    SnapshotContentSpec,
    SnapshotContentStatus,
    SnapshotSource,
    VolumeSnapshotContent,
)
from agent.core.replace import replace

UID = "0b5c1a52-1c0e-4a39-8d63-7f6b6f0e7f11"
NAME = ("CSIVolumeSnapshotName", f"snapshot-{UID}")
MINE, OTHERS = ("kubernetes.io/cluster/mine", "owned"), ("kubernetes.io/cluster/other", "owned")
FIRST = CloudSnapshot("snap-1", "vol-1", "completed", "2026-01-01", tags=(NAME,))
SECOND = replace(FIRST, snapshot_id="snap-2")


def make_content(handle: str | None, *, name: str = UID, is_static: bool = False) -> VolumeSnapshotContent:
    source = SnapshotSource(snapshot_handle=handle if is_static else None)
    status = None if handle is None or is_static else SnapshotContentStatus(snapshot_handle=handle)
    return VolumeSnapshotContent(
        metadata=Metadata(name=f"snapcontent-{name}"),
        spec=SnapshotContentSpec(source=source),
        status=status,
    )


@pytest.mark.parametrize(
    ("snapshots", "contents", "cluster_id", "expected"),
    [
        pytest.param([FIRST, SECOND], [make_content("snap-1")], None, {"snap-2"}, id="a second of a name"),
        pytest.param([FIRST, SECOND], [make_content(None)], "mine", set(), id="one that is being taken"),
        pytest.param([FIRST], [make_content("snap-1", is_static=True)], "mine", set(), id="a static one"),
        pytest.param([FIRST], [], None, set(), id="of nobody knows which cluster"),
        pytest.param([FIRST], [], "mine", set(), id="without the cluster's mark"),
        pytest.param([replace(FIRST, tags=(NAME, MINE))], [], "mine", {"snap-1"}, id="with its mark"),
        pytest.param(
            [FIRST, replace(SECOND, tags=(NAME, OTHERS))],
            [make_content("snap-1")],
            "mine",
            set(),
            id="another cluster's",
        ),
        pytest.param(
            [FIRST, replace(SECOND, volume_id="vol-2")],
            [make_content("snap-1")],
            None,
            set(),
            id="other volume",
        ),
        pytest.param([replace(FIRST, tags=(MINE,))], [], "mine", set(), id="not taken for Kubernetes"),
    ],
)
def test_a_snapshot_is_left_where_it_is_the_cluster_s_and_not_known(
    snapshots: list[CloudSnapshot],
    contents: list[VolumeSnapshotContent],
    cluster_id: str | None,
    expected: set[str],
) -> None:
    found = list_unknown_snapshots(snapshots, contents, cluster_id)
    assert {one.snapshot_id for one in found} == expected


@dataclass
class Seen:
    """What Kubernetes and AWS say, and what was told of it: the API, the teller and the watches."""

    contents: list[VolumeSnapshotContent] | ClusterError
    told: list[str] = field(default_factory=list)
    counted: list[Mapping[str, int] | None] = field(default_factory=list)
    known: dict[str, Any] = field(default_factory=dict)

    async def list_all(self, kind: type) -> tuple[str, list[Any]]:
        if kind is not VolumeSnapshotContent:
            return "1", []
        if isinstance(self.contents, ClusterError):
            raise self.contents
        return "1", self.contents

    async def make(self, call: Call[Any], **_: Any) -> tuple[CloudSnapshot, ...]:
        return (FIRST, SECOND) if isinstance(call, DescribeSnapshots) else ()

    async def warn(self, _about: object, _reason: str, message: str) -> bool:
        self.told.append(message)
        return True

    async def look_twice(self) -> list[int]:
        one = cast("Any", self)
        settings = CareSettings("ebs.csi.aws.com", "us-west-2")
        orphans = Orphans(one, one.make, one, settings, one, one, self.counted.append)
        await orphans.look()
        await orphans.look()
        return [counts["snapshot"] for counts in self.counted if counts is not None]


async def test_two_looks_tell_of_it() -> None:
    seen = Seen([make_content("snap-1")])
    assert await seen.look_twice() == [0, 1]
    (told,) = seen.told
    assert told.startswith(f"snapshot snap-2 was taken as snapshot-{UID}, and no VolumeSnapshotContent")


@pytest.mark.parametrize("status", [NOT_FOUND, FORBIDDEN])
async def test_where_kubernetes_shows_no_contents_nothing_is_told_of_snapshots(status: int) -> None:
    """And volumes are listed all the same."""
    seen = Seen(ClusterError("no", status=status))
    assert await seen.look_twice() == [0, 0]


async def test_where_kubernetes_does_not_answer_nothing_is_told() -> None:
    with pytest.raises(ClusterError):
        await Seen(ClusterError("no", status=0)).look_twice()
