"""How often the cloud loop asks where AWS tells it nothing, on a clock that jumps."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, nullcontext
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import anyio
import pytest
from typing_extensions import override

from agent.cloud.aws.call import Call, Within
from agent.cloud.aws.calls import AttachVolume, CreateSnapshot, DescribeVolumes
from agent.cloud.aws.models import CloudAttachment, CloudVolume
from agent.cloud.aws_worker.throttle import Pacer
from agent.cloud.cloud_loop import CloudLoop
from agent.cloud.errors.explain import WOULD_SUCCEED, Failure, explain_failure
from agent.cloud.identity.whoami import CloudIdentity
from agent.cloud.view.cloud_report import CloudReport
from agent.core.model import Reason, VolumeId
from agent.core.replace import replace
from agent.policy import Policy
from agent.policy.reading import load_policy
from bench.limits import JumpingLoop
from tests.waiting import until

POLICY = "version: 1\nvolumes: [{name: db, match: {tags: {role: db}}, block: {}}]\n"
HOUR_S = 3600.0


class Node:
    """One node whose DescribeVolumes fails with ``code``, or finds nothing where that is None."""

    def __init__(self, policy: Policy, code: str | None) -> None:
        self.policy = policy
        self.code = code
        self.asked_s: list[float] = []
        self.published: list[CloudReport] = []
        self.released: set[VolumeId] = set()
        self._clock = asyncio.get_running_loop().time
        rng = random.Random(1)  # noqa: S311 - jitter
        self.loop = CloudLoop(
            self.make,
            self.identify,
            lambda: self.policy,
            self,
            self.published.append,
            clock=self._clock,
            rng=rng,
        )

    async def make(self, call: Call[Any], *, within: Within = nullcontext) -> Any:
        del within
        self.asked_s.append(self._clock())
        if self.code is not None:
            raise explain_failure(Failure(call.service, call.operation, self.code, "no"))
        return ()

    async def identify(self) -> CloudIdentity:
        return CloudIdentity(instance_id="i-0123456789abcdef0", region="us-west-2", zone="us-west-2a")

    def list_devices(self) -> Mapping[VolumeId, str | None]:
        return {}

    def list_assigned(self) -> Mapping[str, VolumeId]:
        return {}

    async def release(self, volume_id: VolumeId, *, is_forced: bool = False) -> None:
        raise NotImplementedError(volume_id, is_forced)

    @asynccontextmanager
    async def freeze(self, volume_id: VolumeId) -> AsyncIterator[bool]:
        del volume_id
        yield False

    @property
    def pauses_s(self) -> list[float]:
        return [after - before for before, after in pairwise(self.asked_s)]


N = TypeVar("N", bound=Node)


@pytest.fixture
def policy(tmp_path: Path) -> Policy:
    path = tmp_path / "policy.yaml"
    path.write_text(POLICY, "utf-8")
    return load_policy(path, trust_owner=True)


def play(
    policy: Policy,
    code: str | None,
    story: Callable[[N], Awaitable[None]],
    kind: Callable[[Policy, str | None], N] = Node,  # type: ignore[assignment]  # N is Node, unless it is said
) -> N:
    """Have a node's loop run until the story is told."""

    async def run() -> N:
        node = kind(policy, code)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(node.loop.run)
            await story(node)
            tasks.cancel_scope.cancel()
        return node

    return anyio.run(run, backend_options={"loop_factory": JumpingLoop})


async def pass_hour(_node: Node) -> None:
    await anyio.sleep(HOUR_S)


async def rest_long(node: Node) -> None:
    """Let looks fail until the rests no longer grow, and another rest begin."""
    await anyio.sleep(HOUR_S)
    asked = len(node.asked_s)
    await until(lambda: len(node.asked_s) > asked, HOUR_S)


@pytest.mark.parametrize(
    ("code", "least_s", "most_s"),
    [("UnauthorizedOperation", 300, 450), ("NoCredentialsError", 300, 450), ("InternalError", 60, 90)],
)
def test_look_that_fails_rests_as_long_as_its_error_says(
    policy: Policy, code: str, least_s: float, most_s: float
) -> None:
    """The first looks follow soon, the later ones as rarely as the error asks, and no more rarely."""
    pauses_s = play(policy, code, pass_hour).pauses_s
    assert pauses_s[0] < 5
    assert all(before < 2 * after for before, after in pairwise(pauses_s))
    assert all(least_s <= pause_s <= most_s for pause_s in pauses_s[9:])


def test_what_is_told_stays_while_looking_rests(policy: Policy) -> None:
    """An hour of denied looks is told once, and never taken back."""
    node = play(policy, "UnauthorizedOperation", pass_hour)
    (findings,) = node.published
    assert findings.endings["db"].reason is Reason.PERMISSION_DENIED


def test_device_that_comes_does_not_end_the_rest_of_a_permission(policy: Policy) -> None:
    """Devices may come and go all day where the agent may ask nothing of AWS."""

    async def tell(node: Node) -> None:
        await rest_long(node)
        asked = len(node.asked_s)
        for _ in range(20):
            node.loop.wake()
            await anyio.sleep(10)
        assert len(node.asked_s) == asked

    play(policy, "UnauthorizedOperation", tell)


def test_device_that_comes_ends_the_rest_of_what_may_have_passed(policy: Policy) -> None:
    """A volume that comes after AWS failed is not kept waiting by the failure."""

    async def tell(node: Node) -> None:
        await rest_long(node)
        node.code = None
        node.loop.wake()
        await anyio.sleep(2)
        assert node.published[-1].endings["db"].reason is Reason.NOT_ATTACHED

    play(policy, "InternalError", tell)


def test_reload_ends_the_rest(policy: Policy) -> None:
    """Whoever mends a permission and reloads the policy, changed or not, need not wait."""

    async def tell(node: Node) -> None:
        await rest_long(node)
        node.code = None
        node.policy = replace(policy)
        node.loop.wake()
        await anyio.sleep(2)
        assert node.published[-1].endings["db"].reason is Reason.NOT_ATTACHED

    play(policy, "UnauthorizedOperation", tell)


def test_end_of_the_rest_finds_what_was_mended(policy: Policy) -> None:
    """A permission that was added is found without anybody's help."""

    async def tell(node: Node) -> None:
        await rest_long(node)
        node.code = None
        await anyio.sleep(450)
        assert node.published[-1].endings["db"].reason is Reason.NOT_ATTACHED

    play(policy, "UnauthorizedOperation", tell)


def test_day_of_waiting_ends_in_nothing(policy: Policy) -> None:
    """Waiting for days is no reason to fall over, nor to ask more often."""

    async def wait_days(_node: Node) -> None:
        await anyio.sleep(100 * HOUR_S)

    pauses_s = play(policy, None, wait_days).pauses_s
    assert sum(pauses_s[-200:]) / 100 >= 50  # two calls a look, a look a minute


# -- What is done on the node for one volume -----------------------------------------------------------------

CHECKED, WANTED = VolumeId("vol-0123456789abcdef0"), VolumeId("vol-0fedcba9876543210")
TWO = f"""version: 1
volumes:
  - {{name: a, match: {{volume_id: {CHECKED}}}, block: {{}}, snapshots: {{schedule: "0 * * * *", keep: 2}}}}
  - {{name: b, match: {{volume_id: {WANTED}}}, block: {{}}}}
"""
FREE = CloudVolume(WANTED, "creating", 8, "gp3", "us-west-2a", created_at="2026-01-01T00:00:00Z")


class CheckedNode(Node):
    """A node that is checking one volume, whose snapshot is due, while another is being made elsewhere."""

    def __init__(self, policy: Policy, _code: str | None) -> None:
        super().__init__(policy, None)
        self.state = "creating"
        self.pacer = Pacer(at_once=1)
        self.freezes = 0
        self.attached_s: list[float] = []

    @override
    def list_devices(self) -> Mapping[VolumeId, str | None]:
        return {CHECKED: None}

    @override
    @asynccontextmanager
    async def freeze(self, volume_id: VolumeId) -> AsyncIterator[bool]:
        assert volume_id == CHECKED
        self.freezes += 1
        await anyio.sleep(6 * HOUR_S)
        yield True

    @override
    async def make(self, call: Call[Any], *, within: Within = nullcontext) -> Any:
        async def ask() -> Any:
            async with within():
                return self.answer(call)

        return await self.pacer.make(call, ask)

    def answer(self, call: Call[Any]) -> Any:
        if isinstance(call, DescribeVolumes):
            here = (CloudAttachment("attached", "i-0123456789abcdef0"),)
            checked = replace(FREE, volume_id=CHECKED, state="in-use", attachments=here)
            return checked, replace(FREE, state=self.state)
        if isinstance(call, CreateSnapshot):
            assert call.is_dry_run, "not frozen"
            raise explain_failure(Failure("ec2", call.operation, WOULD_SUCCEED, ""))
        if isinstance(call, AttachVolume):
            self.attached_s.append(self._clock())
        return ()


def test_volume_that_is_checked_keeps_no_other_waiting(tmp_path: Path) -> None:
    """While a snapshot waits for a check of hours, other volumes come, and it is tried again and again."""
    path = tmp_path / "policy.yaml"
    path.write_text(TWO, "utf-8")

    async def tell(node: CheckedNode) -> None:
        await until(lambda: node.freezes > 0, HOUR_S)
        node.state, made_s = "available", anyio.current_time()
        await until(lambda: len(node.attached_s) > 0, HOUR_S)
        assert node.attached_s[0] - made_s < 60
        await anyio.sleep(HOUR_S)
        assert node.freezes >= 3
        assert "writes could not be held" in node.published[-1].notices["a"].message

    play(load_policy(path, trust_owner=True), None, tell, CheckedNode)
