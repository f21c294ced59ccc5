"""Claims that are copies of a volume, made by the emulated AWS."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agent.cloud.aws.making_calls import CopyVolumes
from agent.cloud.errors.explain import CloudError
from agent.core.model import Reason, VolumeId
from tests.aws.cloud import OTHER_ZONE
from tests.aws.faults import Fault, Kind, deny
from tests.aws.files import FileVolumes
from tests.aws.world import NodeUnderTest, World

POLICY = """
classes: {{fast: {{type: gp3, {more}}}}}
volumes:
  - name: copy
    claim: {{class: fast, from: {source}{size}}}
    filesystem: {{type: ext4}}
    mount: {{path: /data/copy}}
"""


def use_copy(world: World, tmp_path: Path, source: str, size: str = "", more: str = "") -> NodeUnderTest:
    words = {"source": source, "size": f", size: {size}" if size else "", "more": more}
    world.use_policy(tmp_path, POLICY.format(**words))
    return world.add_node(1)


def find_copies(world: World) -> list[Any]:
    return [world.cloud.volumes[one] for one in world.cloud.made]


async def test_claim_is_made_as_a_copy(world: World, tmp_path: Path) -> None:
    """It is one copy, as large as its source, here, known as a copy, and nothing the agent may format."""
    source = world.cloud.make_volume(7)
    node = use_copy(world, tmp_path, source)
    findings = await node.settle()
    (copy,) = find_copies(world)
    assert (copy.size, copy.source_volume_id) == (7, source)
    assert world.aws.calls["CreateVolume"] == 0
    origin = findings.origins[VolumeId(copy.id)]
    assert origin.made_from == source
    assert origin.keeps_hands_off
    assert node.hands.freezes == 0, "the source is not here"


async def test_own_mark_tells_a_copy_where_aws_does_not(world: World, tmp_path: Path) -> None:
    """Should AWS leave out what a volume is a copy of, the agent's own tag says it."""
    node = use_copy(world, tmp_path, source := world.cloud.make_volume(7))
    await node.settle()
    (copy,) = find_copies(world)
    copy.source_volume_id = None
    node.restart()
    findings = await node.settle()
    assert findings.origins[VolumeId(copy.id)].made_from == source


async def test_source_that_is_here_is_frozen_for_the_call_alone(world: World, tmp_path: Path) -> None:
    """Writes are held for the one call that makes the copy, once AWS has said that it would make it."""
    node = use_copy(world, tmp_path, source := world.cloud.make_volume(1))
    world.devices.here.setdefault(str(node.identity.instance_id), set()).add(source)
    await node.settle()
    asked = [call for call in node.made if isinstance(call, CopyVolumes)]
    assert [call.is_dry_run for call in asked] == [True, False]
    assert node.hands.asked_while_frozen == asked[1:]
    assert not node.hands.is_frozen


async def test_refused_copy_freezes_nothing(world: World, tmp_path: Path) -> None:
    """Where AWS would not make the copy, the source goes on being written to, and the action is named."""
    node = use_copy(world, tmp_path, source := world.cloud.make_volume(1))
    world.devices.here.setdefault(str(node.identity.instance_id), set()).add(source)
    world.aws.faults.add(deny("CopyVolumes", "ec2:CopyVolumes"))
    findings = await node.look()
    assert node.hands.freezes == 0
    assert findings.endings["copy"].reason is Reason.PERMISSION_DENIED
    assert "ec2:CopyVolumes" in findings.endings["copy"].message


async def test_lost_answer_makes_no_second_copy(world: World, tmp_path: Path) -> None:
    """The token has AWS answer with the copy it made, whether the answer came or not."""
    node = use_copy(world, tmp_path, world.cloud.make_volume(1))
    world.aws.faults.add(Fault("CopyVolumes", Kind.LOST_ANSWER))
    await node.settle(30)
    assert len(find_copies(world)) == 1
    assert node.hands.freezes == 0


@pytest.mark.parametrize(
    ("made", "size", "more", "reason", "why"),
    [
        ({"zone": OTHER_ZONE}, "", "", Reason.WRONG_ZONE, "from: SNAPSHOT"),
        ({}, "5GiB", "", Reason.CLOUD_ERROR, "leave size out"),
        ({"encrypted": True}, "", "encrypted: false", Reason.CLOUD_ERROR, "Leave encrypted out"),
    ],
    ids=["other zone", "smaller", "in the clear"],
)
async def test_copy_that_cannot_be_is_not_asked_for(
    world: World, tmp_path: Path, made: dict[str, Any], size: str, more: str, reason: Reason, why: str
) -> None:
    """What AWS would refuse, or make otherwise than the class says, is told with the way out."""
    node = use_copy(world, tmp_path, world.cloud.make_volume(7, **made), size, more)
    ending = (await node.look(3)).endings["copy"]
    assert ending.reason is reason
    assert why in str(ending.hint)
    assert world.aws.calls["CopyVolumes"] == 0


async def test_copy_of_nothing_waits(world: World, tmp_path: Path) -> None:
    """A source that AWS does not know is told by its ID; nothing empty is made in its place."""
    node = use_copy(world, tmp_path, "vol-00000000000000000")
    ending = (await node.look(3)).endings["copy"]
    assert ending.reason is Reason.NOT_ATTACHED
    assert "vol-00000000000000000" in ending.message
    assert not world.cloud.made


async def test_copy_larger_and_encrypted(world: World, tmp_path: Path) -> None:
    """Size, numbers and encryption are the class's; the source keeps its own."""
    source = world.cloud.make_volume(2)
    node = use_copy(world, tmp_path, source, "9GiB", "iops: 4000, throughput: 250, encrypted: true")
    await node.settle()
    (copy,) = find_copies(world)
    assert (copy.size, copy.iops, copy.throughput, copy.encrypted) == (9, 4000, 250, True)
    assert not node.loop.findings.notices
    assert not world.cloud.volumes[source].encrypted


async def test_copies_beyond_what_aws_makes_at_once_wait(world: World, tmp_path: Path) -> None:
    """Of more nodes than AWS makes copies for at once each gets its own in the end, and no more than that."""
    world.cloud.pace.create_s = 300.0
    world.cloud.pace.clock = lambda: world.time_s
    source = world.cloud.make_volume(1)
    world.time_s += 1000
    nodes = [use_copy(world, tmp_path, source)] + [world.add_node(number) for number in range(2, 8)]
    for _ in range(30):
        for node in nodes:
            await node.loop.look()
        world.time_s += 60
    assert all(node.loop.is_settled for node in nodes)
    assert len(find_copies(world)) == len(nodes)


async def test_emulated_copies_are_refused_as_aws_refuses(world: World) -> None:
    """The test's AWS makes no smaller copy, none of what is not there, and none of a token used otherwise."""
    node = world.add_node(1)
    source = VolumeId(world.cloud.make_volume(5))
    call = CopyVolumes(source, "token", 5, "gp3", ())
    made = await node.make(call)
    assert (await node.make(call)).volume_id == made.volume_id
    for wrong in (
        CopyVolumes(source, "token", 6, "gp3", ()),
        CopyVolumes(source, "other", 4, "gp3", ()),
        CopyVolumes(VolumeId("vol-00000000000000000"), "third", None, "gp3", ()),
        CopyVolumes(source, "fourth", None, "io2", ()),
    ):
        with pytest.raises(CloudError):
            await node.make(wrong)
    assert world.cloud.made == [made.volume_id]


async def test_emulated_copy_begins_with_the_bytes_of_its_source(world: World, tmp_path: Path) -> None:
    """What CopyVolumes makes is what the source held at that moment, and larger where more is asked for."""
    world.cloud.hooks = files = FileVolumes(tmp_path / "store")
    source = world.cloud.make_volume(1)
    with files.find(source).open("r+b") as written:
        written.write(b"precious")
    copy = world.cloud.make_volume(2, source_volume_id=source)
    assert files.find(copy).stat().st_size == 2 << 30
    with files.find(copy).open("rb") as read:
        assert read.read(9) == b"precious\0"
