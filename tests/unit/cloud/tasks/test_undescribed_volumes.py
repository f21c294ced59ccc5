"""Which volumes AWS has answered for, as the cloud loop tells it: volume by volume, on a clock that jumps."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path
from typing import Any

import anyio
import pytest

from agent.cloud.aws.call import Call, Within
from agent.cloud.aws.calls import DescribeVolumes
from agent.cloud.aws.models import parse_volume
from agent.cloud.cloud_loop import CloudLoop
from agent.cloud.errors.explain import Failure, explain_failure
from agent.cloud.identity.whoami import CloudIdentity
from agent.cloud.tasks.undescribed_volumes import UNKNOWN_FOR_S
from agent.cloud.view.cloud_report import CloudReport
from agent.core.model import VolumeId
from agent.policy import Policy
from agent.policy.reading import load_policy
from bench.limits import JumpingLoop

FIRST, LATER = VolumeId("vol-0123456789abcdef0"), VolumeId("vol-0123456789abcdef1")
POLICY = f"version: 1\nvolumes: [{{name: db, match: {{volume_id: {FIRST}}}, block: {{}}}}]\n"
DENIAL = "You are not authorized to perform this operation. User: arn:aws:sts::111122223333:assumed-role/a/b"
HOUR_S = 3600.0


class Node:
    """One node with volumes, and an AWS that knows some of them or fails."""

    def __init__(self, policy: Policy) -> None:
        self.here = [FIRST]
        self.known: dict[VolumeId, dict[str, Any]] = {}
        self.failure: tuple[str, str] | None = None
        """(code, message)"""
        self.asked = 0
        self.released: set[VolumeId] = set()
        self.findings = CloudReport()
        self.loop = CloudLoop(
            self.make,
            self.identify,
            lambda: policy,
            self,
            self.publish,
            clock=asyncio.get_running_loop().time,
            rng=random.Random(1),  # noqa: S311 - jitter
        )

    def publish(self, findings: CloudReport) -> None:
        self.findings = findings

    async def make(self, call: Call[Any], *, within: Within = nullcontext) -> Any:
        del within
        self.asked += 1
        if self.failure is not None:
            raise explain_failure(Failure(call.service, call.operation, *self.failure))
        if not isinstance(call, DescribeVolumes):
            return ()
        asked = dict(call.parameters()["Filters"][0])["Values"]
        return [parse_volume(describe(one, **self.known[one])) for one in asked if one in self.known]

    async def identify(self) -> CloudIdentity:
        return CloudIdentity(
            instance_id="i-0123456789abcdef0",
            region="us-west-2",
            zone="us-west-2a",
            account="111122223333",
        )

    def list_devices(self) -> Mapping[VolumeId, str | None]:
        return dict.fromkeys(self.here)

    def list_assigned(self) -> Mapping[str, VolumeId]:
        return {}

    async def release(self, volume_id: VolumeId, *, is_forced: bool = False) -> None:
        raise NotImplementedError(volume_id, is_forced)

    @asynccontextmanager
    async def freeze(self, volume_id: VolumeId) -> AsyncIterator[bool]:
        del volume_id
        yield False

    def attach(self, volume: VolumeId) -> None:
        self.here.append(volume)
        self.loop.wake()


def describe(volume: str, **members: Any) -> dict[str, Any]:
    return {
        "VolumeId": volume,
        "State": "in-use",
        "Size": 1,
        "VolumeType": "gp3",
        "AvailabilityZone": "us-west-2a",
        **members,
    }


@pytest.fixture
def policy(tmp_path: Path) -> Policy:
    path = tmp_path / "policy.yaml"
    path.write_text(POLICY, "utf-8")
    return load_policy(path, trust_owner=True)


def play(policy: Policy, story: Callable[[Node], Awaitable[None]]) -> None:
    """Tell a story of one node, whose loop runs meanwhile."""

    async def run() -> None:
        node = Node(policy)
        async with anyio.create_task_group() as tasks:

            async def tell() -> None:
                await story(node)
                tasks.cancel_scope.cancel()

            tasks.start_soon(tell)
            await anyio.sleep(0.1)  # the story begins before the loop does
            tasks.start_soon(node.loop.run)

    anyio.run(run, backend_options={"loop_factory": JumpingLoop})


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("EndpointConnectionError", "no route"),
        ("RequestLimitExceeded", "slowly"),
        ("NoCredentialsError", "Unable to locate credentials"),
        ("ExpiredToken", "expired"),
        ("AuthFailure", "clock"),
        ("InternalError", "internal"),
        ("OptInRequired", "not yet"),
        ("InvalidParameterValue", "what?"),
        ("AccessDenied", "Not authorized to perform sts:AssumeRoleWithWebIdentity"),
    ],
)
def test_failure_that_may_pass_is_no_answer(policy: Policy, code: str, message: str) -> None:
    """However long it lasts; what it said before stays said, and the answer that comes counts."""

    async def tell(node: Node) -> None:
        node.failure = (code, message)
        await anyio.sleep(HOUR_S)
        assert (node.findings.origins, node.findings.untold) == ({}, frozenset())
        node.failure, node.known = None, {FIRST: {"SnapshotId": "snap-1"}}
        await anyio.sleep(HOUR_S)
        assert node.findings.origins[FIRST].snapshot_id == "snap-1"
        node.failure = (code, message)
        await anyio.sleep(HOUR_S)
        assert node.findings.origins[FIRST].snapshot_id == "snap-1"

    play(policy, tell)


def test_denial_answers_for_the_volumes_it_was_asked_about(policy: Policy) -> None:
    """One that is attached later is asked about by itself, once, though the permission rests."""

    async def tell(node: Node) -> None:
        node.failure = ("UnauthorizedOperation", DENIAL)
        await anyio.sleep(HOUR_S)
        assert node.findings.untold == {FIRST}
        asked = node.asked
        node.attach(LATER)
        assert node.findings.untold == {FIRST}
        await anyio.sleep(2)
        assert node.findings.untold == {FIRST, LATER}
        assert node.asked == asked + 1
        for _ in range(20):
            node.loop.wake()
            await anyio.sleep(5)
        assert node.asked == asked + 1

    play(policy, tell)


def test_permission_that_was_added_is_used_for_a_volume_that_comes(policy: Policy) -> None:
    """The denial before it says nothing of a volume that AWS was not asked about."""

    async def tell(node: Node) -> None:
        node.failure = ("UnauthorizedOperation", DENIAL)
        await anyio.sleep(HOUR_S)
        node.failure, node.known = None, {LATER: {"SourceVolumeId": "vol-00000000000000000"}}
        node.attach(LATER)
        await anyio.sleep(2)
        assert node.findings.origins[LATER].source_volume_id == "vol-00000000000000000"
        assert LATER not in node.findings.untold

    play(policy, tell)


def test_volume_that_aws_does_not_know_is_believed_after_a_while(policy: Policy) -> None:
    """What was just made is described with a delay; only what stays unknown will not be told of."""

    async def tell(node: Node) -> None:
        await anyio.sleep(UNKNOWN_FOR_S / 2)
        assert node.findings.untold == frozenset()
        node.known = {FIRST: {"SnapshotId": "snap-1"}}
        node.attach(LATER)
        await anyio.sleep(UNKNOWN_FOR_S - 1)
        assert node.findings.origins[FIRST].snapshot_id == "snap-1"
        assert node.findings.untold == frozenset()
        await anyio.sleep(15)
        assert node.findings.untold == {LATER}
        node.known[LATER] = {}
        await anyio.sleep(HOUR_S)
        assert node.findings.untold == frozenset()
        assert node.findings.origins.keys() == {FIRST, LATER}

    play(policy, tell)


def test_answer_to_one_question_stays_where_the_next_one_fails(tmp_path: Path) -> None:
    """What a look described before it failed is known: a volume is not kept waiting by another's trouble."""
    path = tmp_path / "policy.yaml"
    path.write_text(
        "version: 1\nvolumes: [{name: db, match: {tags: {role: db}}, block: {}}]\n",
        "utf-8",
    )

    async def tell(node: Node) -> None:
        answer = node.make

        async def make(call: Call[Any], *, within: Within = nullcontext) -> Any:
            del within
            if dict(call.parameters()["Filters"][0])["Name"] == "tag:role":
                raise explain_failure(Failure(call.service, call.operation, "InternalError", "no"))
            return await answer(call)

        node.loop._make = make
        node.known = {FIRST: {"SnapshotId": "snap-1"}}
        await anyio.sleep(60)
        assert node.findings.origins[FIRST].snapshot_id == "snap-1"

    play(load_policy(path, trust_owner=True), tell)
