"""The agent dies around every call it makes, one after the other: what it was about is done once.

Each story is played once undisturbed, which tells every call there is to die at; then once more for each of
them. A call that is added is died at without anybody having to think of it.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from agent.cloud.aws.all_calls import ALL_CALLS
from agent.cloud.aws.call import Change
from agent.cloud.aws.making_calls import CopyVolumes, CreateVolume
from agent.cloud.aws_worker.main import Caller
from agent.cloud.view.change_events import EVENTS
from agent.report.board.events import HAPPENS_ONCE, EventName
from tests.aws.cloud import Cloud
from tests.aws.server import AwsServer
from tests.aws.world import Crash, NodeUnderTest, World, is_crash

IS_NIGHTLY = os.environ.get("EBS_AGENT_NIGHTLY") == "1"
IS_CI = bool(os.environ.get("CI")) or IS_NIGHTLY
CHANGES = frozenset(call.operation for call in ALL_CALLS if issubclass(call, Change))
LAG_S = 12.0
"""Longer than several looks: what was done before a crash is not described when the next agent looks."""
STEP_S = 5.0
MOST_LOOKS = 120

CLASS = "classes: {{fast: {{type: {type}, iops: {iops}, tags: {{tier: {tier}}}}}}}\n"
TWO_CLAIMS = """volumes:
  - {name: own, claim: {class: fast, size: 5GiB}, block: {}}
  - {name: shared, claim: {class: fast, size: 5GiB, per: cluster}, block: {}}
"""
ONE_CLAIM = "volumes: [{{name: own, claim: {{class: fast, size: {size}, {more}}}, block: {{}}}}]\n"
SCHEDULED = """volumes:
  - name: own
    claim: {class: fast, size: 5GiB}
    block: {}
    snapshots: {schedule: "0 * * * *", keep: 2, fast_restore_zones: [us-west-2a]}
"""


class Stage:
    """One cloud, the node on which the story happens, and what a chapter may do to them."""

    def __init__(
        self, aws: AwsServer, caller: Caller, directory: Path, lag_s: float, *, is_renamed: bool = False
    ) -> None:
        aws.renew(Cloud())
        self.world = World(aws, caller)
        self.world.cloud.pace.lag_s = lag_s
        self.world.cloud.pace.clock = lambda: self.world.time_s
        self.directory = directory
        self.instances = 0
        self.nodes: list[NodeUnderTest] = []
        self.is_renamed = is_renamed
        self.has_crashed = False
        self.node = self.add_instance()

    def add_instance(self) -> NodeUnderTest:
        """Start an instance of the story's only name, or one whose name holds its ID."""
        self.instances += 1
        name = f"hyperpod-i-{self.instances:017x}" if self.is_renamed else "compute-1"
        self.nodes.append(self.world.add_node(self.instances, name))
        return self.nodes[-1]

    def write(self, volumes: str, kind: str = "gp3", iops: int = 3000, tier: str = "a") -> None:
        self.world.use_policy(self.directory, CLASS.format(type=kind, iops=iops, tier=tier) + volumes)
        self.node.policy = self.world.policy

    def replace_node(self) -> None:
        """Take the instance away, which AWS shows attached to its volumes still, and start another."""
        self.world.cloud.remove_node(str(self.node.identity.instance_id), keeps_attachments=True)
        self.node = self.add_instance()

    async def settle(self, *, is_replaced: bool) -> None:
        """Look until nothing is done any more, in a new process or on a new instance after a crash."""
        quiet = 0
        for _ in range(MOST_LOOKS):
            made = count_changes(self.node)
            try:
                await self.node.loop.look()
            except BaseException as error:
                if not is_crash(error):
                    raise
                if is_replaced:
                    self.replace_node()
                else:
                    self.node.restart()
                quiet = 0
            else:
                loop = self.node.loop
                is_quiet = count_changes(self.node) == made and loop.is_settled and not loop.findings.notices
                quiet = quiet + 1 if is_quiet else 0
            # Quiet for longer than descriptions lag: nothing is left that only shows later.
            if quiet * STEP_S > self.world.cloud.pace.lag_s + STEP_S:
                return
            self.world.time_s += STEP_S
        raise AssertionError(f"not settled: {self.node.loop.findings}")

    def list_claimed(self) -> list[str]:
        """Return the claims of all volumes there are, each as often as it has one."""
        return sorted(read_tags(volume)["ebs-agent:claim"] for volume in self.world.cloud.volumes.values())

    def list_holders(self) -> set[str]:
        return {one.holder for volume in self.world.cloud.volumes.values() for one in volume.emulated}


def count_changes(node: NodeUnderTest) -> int:
    return sum(isinstance(call, Change) for call in node.made)


def read_tags(resource: Any) -> dict[str, str]:
    return {tag["key"]: tag["value"] for tag in resource.get_tags()}


@dataclass(frozen=True)
class Story:
    """Chapters, after each of which everything settles, and what has to be so at the end."""

    name: str
    chapters: tuple[Callable[[Stage], None], ...]
    check: Callable[[Stage], None]
    can_be_replaced: bool = True
    """The same is true when a new instance goes on where the agent died."""
    is_renamed: bool = False
    """Every instance has a name of its own, which ends with it."""


def check_events(stage: Stage) -> None:
    """Every change whose answer an agent lived to see is an event of its kind, and none is two of them.

    A volume that is asked for again, under its token, was made once, and each node that heard of it says
    so. To end a fast restore that has ended is no change, as AWS's answer says.
    """
    answered = [call for node in stage.nodes for call in node.answered]
    again = [
        call
        for n, call in enumerate(answered)
        if isinstance(call, (CreateVolume, CopyVolumes)) and call in answered[:n]
    ]
    calls = Counter(
        EVENTS[type(call)][0] for call in answered if isinstance(call, Change) and type(call) in EVENTS
    )
    calls["volume.created"] -= len(again)
    told = Counter(name for node in stage.nodes for name, _ in node.events if name in calls)
    made = [about for node in stage.nodes for about in node.events if about[0] == "volume.created"]
    told["volume.created"] -= len(made) - len(set(made))
    ended = {"snapshot.fast_restore_disabled": calls["snapshot.fast_restore_disabled"]}
    assert told | Counter(ended) == calls
    assert told <= calls
    once = [
        (id(node), name, volume, fields.get("snapshot_id"))
        for node in stage.nodes
        for (name, volume), fields in zip(node.events, node.told, strict=True)
        if EventName(name) in HAPPENS_ONCE
    ]
    assert len(once) == len(set(once)), once


def check_claims(stage: Stage) -> None:
    """One volume for each claim, ever, and each of them here."""
    assert stage.list_claimed() == ["own", "shared"]
    assert len(stage.world.cloud.made) == 2
    assert stage.list_holders() == {stage.node.identity.instance_id}


def check_pool(stage: Stage) -> None:
    """The node that lives has one volume, which bears its name; none was lost to the pool.

    One that was made right before the node went, and is not described when the next one looks, is left to
    the node after that.
    """
    node = stage.node.identity
    held = {one.id: [held.holder for held in one.emulated] for one in stage.world.cloud.volumes.values()}
    (own,) = (one for one in stage.world.cloud.volumes.values() if node.instance_id in held[one.id])
    assert held[own.id] == [node.instance_id]
    assert read_tags(own)["ebs-agent:node"] == node.instance_name
    assert {read_tags(one)["ebs-agent:group"] for one in stage.world.cloud.volumes.values()} == {"compute"}
    assert len(stage.world.cloud.made) <= max(1, stage.instances - 1)
    assert not stage.world.aws.calls["DeleteVolume"]


def make_modifications_last(stage: Stage) -> None:
    """A modification takes longer than descriptions lag, as EC2's do; meanwhile it takes no other."""
    stage.world.cloud.pace.modify_s = stage.world.cloud.pace.optimize_s = LAG_S


def check_change(stage: Stage) -> None:
    (volume,) = stage.world.cloud.volumes.values()
    assert (volume.size, volume.volume_type, volume.iops) == (8, "io2", 5000)
    assert read_tags(volume)["tier"] == "b"
    assert len(volume.modifications) == 1
    assert len(stage.world.cloud.made) == 1


def check_schedule(stage: Stage) -> None:
    """The two newest ticks have a snapshot each, proven frozen, and the newest is fast to restore."""
    assert stage.list_claimed() == ["own"]
    tags = [read_tags(one) for one in stage.world.cloud.ec2.snapshots.values()]
    ticks = [stage.world.now - timedelta(hours=1), stage.world.now]
    assert sorted(one["ebs-agent:tick"] for one in tags) == [f"{tick:%Y-%m-%dT%H:%MZ}" for tick in ticks]
    assert {one["ebs-agent:frozen"] for one in tags} == {"yes"}
    newest = max(stage.world.cloud.ec2.snapshots.values(), key=lambda one: one.start_time)
    assert stage.world.cloud.keeping.fast == {(newest.id, "us-west-2a")}
    assert not stage.node.hands.is_frozen


def check_dropped(stage: Stage) -> None:
    """The volume is gone, and not before a snapshot of it was there."""
    assert not stage.world.cloud.volumes
    assert len(stage.world.cloud.made) == 1
    # EC2's CreateSnapshot knows no token: one whose answer was lost and that is not described yet is taken
    # again, and so is one that an agent before this one began. Better twice than never.
    may_be_twice = stage.has_crashed or stage.world.cloud.pace.lag_s > 0
    assert 1 <= len(stage.world.cloud.ec2.snapshots) <= (2 if may_be_twice else 1)


def take_a_snapshot(stage: Stage) -> None:
    source = stage.world.cloud.make_volume(3)
    snapshot = stage.world.cloud.ec2.create_snapshot(source, "somebody's own")
    stage.world.cloud.ec2.delete_volume(source)
    stage.world.cloud.note_change()
    stage.world.time_s += LAG_S
    stage.write(ONE_CLAIM.format(size="8GiB", more=f"from: {snapshot.id}"))


def take_a_volume(stage: Stage) -> None:
    """Somebody's volume is to be copied, which is attached to this node."""
    source = stage.world.cloud.make_volume(3)
    stage.world.devices.here.setdefault(str(stage.node.identity.instance_id), set()).add(source)
    stage.world.time_s += LAG_S
    stage.write(ONE_CLAIM.format(size="8GiB", more=f"from: {source}"))


def check_copied(stage: Stage) -> None:
    """There is one copy, of its source, and nothing is frozen any more."""
    (copy,) = stage.world.cloud.made
    made = stage.world.cloud.volumes[copy]
    assert made.size == 8
    assert made.source_volume_id in stage.world.cloud.volumes
    assert not stage.node.hands.is_frozen


def check_restored(stage: Stage) -> None:
    (volume,) = stage.world.cloud.volumes.values()
    (snapshot,) = stage.world.cloud.ec2.snapshots
    assert (volume.snapshot_id, volume.size) == (snapshot, 8)
    assert len(stage.world.cloud.made) == 1


def pass_an_hour(stage: Stage) -> None:
    stage.world.now += timedelta(hours=1)
    stage.world.time_s += 3600


def pass_a_day(stage: Stage) -> None:
    """The grace period of what was taken out of the policy ends."""
    assert len(stage.world.cloud.volumes) == 1
    stage.world.now += timedelta(days=1)


STORIES = (
    Story("claims", (lambda stage: stage.write(TWO_CLAIMS),), check_claims),
    Story("taken over", (lambda stage: stage.write(TWO_CLAIMS), Stage.replace_node), check_claims),
    Story(
        "pool",
        (
            lambda stage: stage.write(ONE_CLAIM.format(size="5GiB", more="")),
            Stage.replace_node,
        ),
        check_pool,
        is_renamed=True,
    ),
    Story(
        "changed",
        (
            make_modifications_last,
            lambda stage: stage.write(ONE_CLAIM.format(size="5GiB", more="")),
            lambda stage: stage.write(ONE_CLAIM.format(size="8GiB", more=""), "io2", 5000, "b"),
        ),
        check_change,
    ),
    Story("restored", (take_a_snapshot,), check_restored),
    Story("copied", (take_a_volume,), check_copied),
    Story(
        "snapshots",
        (lambda stage: stage.write(SCHEDULED), pass_an_hour, pass_an_hour, pass_an_hour),
        check_schedule,
    ),
    Story(
        "dropped",
        (
            lambda stage: stage.write(ONE_CLAIM.format(size="5GiB", more="on_delete: snapshot")),
            lambda stage: stage.write("volumes: []\n"),
            pass_a_day,
        ),
        check_dropped,
        can_be_replaced=False,
    ),
)


async def play(
    story: Story, stage: Stage, crash: Crash | None = None, *, is_replaced: bool = False
) -> Counter[str]:
    """Play a story; return how often each operation was called."""
    made: Counter[str] = Counter()
    stage.node.crash = crash
    for chapter in story.chapters:
        node = stage.node
        chapter(stage)
        if stage.node is not node:
            stage.node.crash = crash if crash and not crash.has_happened else None
            made += Counter(call.operation for call in node.made)
        await stage.settle(is_replaced=is_replaced)
    stage.has_crashed = crash is not None and crash.has_happened
    story.check(stage)
    check_events(stage)
    return made + Counter(call.operation for call in stage.node.made)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("is_replaced", [False, True], ids=["restarted", "replaced"])
@pytest.mark.parametrize("lag_s", [LAG_S, 0.0], ids=["lagging", "prompt"])
@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.name)
async def test_crash_around_every_call(
    server: AwsServer, caller: Caller, tmp_path: Path, story: Story, lag_s: float, *, is_replaced: bool
) -> None:
    """Wherever the agent dies, each claim ends with one volume, each tick with one snapshot, none is lost."""
    if is_replaced and not story.can_be_replaced:
        pytest.skip("a node that is gone drops nothing")
    if not IS_CI and (is_replaced or not lag_s):
        pytest.skip("CI tries it; here only the hardest of each story is tried")

    def set_stage() -> Stage:
        return Stage(server, caller, tmp_path, lag_s, is_renamed=story.is_renamed)

    undisturbed = await play(story, set_stage())
    for crash in list_crashes(undisturbed):
        await play(story, set_stage(), crash, is_replaced=is_replaced)
        assert crash.has_happened, crash


def list_crashes(undisturbed: Counter[str]) -> Iterator[Crash]:
    """Return where to die: after every change AWS made, in CI before it too, nightly before each question.

    Questions leave AWS as it is, so dying after one is dying before the next call. What is made over and over
    is left at its beginning and at its end elsewhere.
    """
    for operation, times in sorted(undisturbed.items()):
        for nth in range(1, times + 1):
            if not IS_CI and 1 < nth < times:
                continue
            if operation in CHANGES:
                yield Crash(operation, nth, is_after=True)
            if IS_NIGHTLY or (IS_CI and operation in CHANGES):
                yield Crash(operation, nth, is_after=False)
