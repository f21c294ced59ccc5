"""The daemon's cloud task: runs the loop while the policy needs AWS, and nothing at all while it does not."""

from __future__ import annotations

import os
import pwd
from collections.abc import Callable

import anyio
import structlog

from agent.cloud.client import CloudClient, WorkerSettings
from agent.cloud.findings import Findings, Hands, choose_entries, needs_cloud
from agent.cloud.loop import CloudLoop
from agent.cloud.sources import Surroundings, identify_node, look_around
from agent.cloud.whoami import CloudIdentity
from agent.policy import Policy

WORKER_USER = "ebs-agent"
ENDPOINT_VARIABLE = "EBS_AGENT_CLOUD_ENDPOINT"
"""Where all of AWS answers, for trying the agent on an emulated cloud."""

log = structlog.get_logger(__name__)


def choose_worker_settings(identity: CloudIdentity, user: str | None = WORKER_USER) -> WorkerSettings:
    """Return how to run the worker here: unprivileged wherever the user for it exists."""
    if user is not None and (os.geteuid() != 0 or not _has_user(user)):
        user = None
    return WorkerSettings(
        region=identity.region or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION"),
        endpoint=os.environ.get(ENDPOINT_VARIABLE),
        user=user,
    )


def _has_user(user: str) -> bool:
    try:
        pwd.getpwnam(user)
    except KeyError:
        return False
    return True


def is_wanted(policy: Policy, identity: CloudIdentity, *, has_standins: bool) -> bool:
    """Return whether this policy has anything to ask of AWS on this node.

    ``enabled: auto`` means: where an entry needs AWS, or names a volume that could be attached, and the node
    is one of AWS's. Files that stand in for volumes are attached by no API, unless the policy says so.
    """
    if policy.agent.cloud.enabled is not None:
        return policy.agent.cloud.enabled
    if has_standins or identity.instance_id is None:
        return False
    return any(needs_cloud(entry) or entry.volume_id for entry in choose_entries(policy, identity))


class CloudService:
    """Runs and stops the cloud loop as the policy in force asks for it."""

    def __init__(
        self,
        policy: Callable[[], Policy],
        hands: Hands,
        publish: Callable[[Findings], None],
        count: Callable[[str, str], None],
        *,
        has_standins: bool = False,
        surroundings: Callable[[], Surroundings] = look_around,
    ) -> None:
        self._policy = policy
        self._hands = hands
        self._publish = publish
        self._count = count
        self._has_standins = has_standins
        self._surroundings = surroundings
        self._loop: CloudLoop | None = None
        self._news = anyio.Event()

    def wake(self) -> None:
        """Have the cloud looked at soon, because a device came or went, or the policy changed."""
        self._news.set()
        if self._loop is not None:
            self._loop.wake()

    async def run(self) -> None:
        """Look at the cloud whenever there is a reason to, until cancelled."""
        while True:
            self._news = anyio.Event()
            if self._policy().agent.cloud.enabled is not False and self._policy().volumes:
                identity = await identify_node(self._surroundings())
                if is_wanted(self._policy(), identity, has_standins=self._has_standins):
                    await self._run_loop(identity)
                    self._publish(Findings())
                    continue
            await self._news.wait()

    async def _run_loop(self, identity: CloudIdentity) -> None:
        """Run the loop until the policy has nothing more to ask of AWS."""
        log.info(
            "cloud.started",
            cluster=identity.cluster_arn,
            instance=identity.instance_id,
            region=identity.region,
        )
        async with CloudClient(choose_worker_settings(identity), self._count) as client:

            async def identify() -> CloudIdentity:
                return await identify_node(self._surroundings(), client.make)

            self._loop = CloudLoop(client.make, identify, self._policy, self._hands, self._publish)
            try:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._loop.run)
                    while is_wanted(self._policy(), identity, has_standins=self._has_standins):
                        await self._news.wait()
                        self._news = anyio.Event()
                    tasks.cancel_scope.cancel()
            finally:
                self._loop = None
        log.info("cloud.stopped")
