"""The daemon's cloud task: runs the loop while the policy needs AWS, and nothing at all while it does not.

Where it never does, nothing of what asks AWS is imported.
"""

# ruff: noqa: PLC0415  # what asks AWS is imported where it is first needed

from __future__ import annotations

import math
import os
from collections.abc import Awaitable, Callable, Mapping
from contextlib import nullcontext
from typing import TYPE_CHECKING, TypeVar

import anyio

from agent.base.log import get_logger
from agent.base.unit_process import find_unit
from agent.cloud.identity.cloud_identity import CloudIdentity
from agent.cloud.identity.identity_sources import IdentitySources, choose_pause_s, identify_node, look_around
from agent.cloud.is_wanted import explain_open, is_open, is_possible, is_wanted
from agent.cloud.view.cloud_report import CloudReport, Hands, choose_entries, make_facts
from agent.core.errors import AgentError
from agent.core.model import AttachmentPlaces, VolumeId
from agent.policy import Policy

if TYPE_CHECKING:
    from agent.cloud.aws.call import Call, Within
    from agent.cloud.aws_worker.client import CloudClient
    from agent.cloud.aws_worker.process import WorkerSettings
    from agent.cloud.cloud_loop import CloudLoop
    from agent.cloud.orders.runner import Follower, Report
    from agent.cloud.plan.decisions import NodeView
    from agent.cloud.state.made_volumes import Makings
    from agent.cloud.state.state_file import FileStore
    from agent.cloud.view.change_events import Record

WORKER_USER = "ebs-agent-cloud"
ENDPOINT_VARIABLE = "EBS_AGENT_CLOUD_ENDPOINT"
"""Where all of AWS answers, for trying the agent on an emulated cloud."""

log = get_logger(__name__)

T = TypeVar("T")


def choose_worker_settings(identity: CloudIdentity, user: str = WORKER_USER) -> WorkerSettings:
    """Return how to run the worker here: unprivileged wherever the daemon is root."""
    from agent.cloud.aws_worker.process import WorkerSettings, choose_user

    endpoint = os.environ.get(ENDPOINT_VARIABLE)
    unit = find_unit("cloud", user)  # which has no other user
    return WorkerSettings(
        region=identity.region or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION"),
        endpoint=endpoint,
        user=choose_user(user, endpoint) if unit is None else user,
        unit=unit,
    )


class CloudService:
    """Runs and stops the cloud loop as the policy in force asks for it."""

    def __init__(  # noqa: PLR0913 - its surroundings
        self,
        policy: Callable[[], Policy],
        hands: Hands,
        publish: Callable[[CloudReport], None],
        count: Callable[[str, str], None],
        *,
        has_standins: bool = False,
        surroundings: Callable[[], IdentitySources] = look_around,
        claims: FileStore | None = None,
        note_by_hand: Callable[[VolumeId], Awaitable[None]] | None = None,
        record: Record | None = None,
    ) -> None:
        self._policy = policy
        self._hands = hands
        self._publish = publish
        self._count = count
        self._has_standins = has_standins
        self._surroundings = surroundings
        self._claims = claims
        """Where it is remembered which volumes were made for this node's claims."""
        self._has_claims = claims is not None and claims.exists()
        self._note_by_hand = note_by_hand
        self._record = record
        self._makings: Makings | None = None
        self._loop: CloudLoop | None = None
        self._clients: dict[str | None, CloudClient] = {}  # by the region they ask in, which is fixed
        self._identity = CloudIdentity()
        self._told: CloudReport | None = None
        """What was last told while it is not known whether AWS is wanted."""
        self._news = anyio.Event()

    async def prepare_orders(self, report: Report) -> tuple[Follower, Callable[[], NodeView]]:
        """Return what carries out a person's orders, or raise AgentError where AWS is switched off."""
        if self._policy().agent.cloud.enabled is False:
            raise AgentError(
                "The policy says agent.cloud.enabled: false, so the agent asks nothing of AWS.",
                hint="Set it to auto or true and reload the policy.",
                retryable=False,
            )
        from agent.cloud.orders.runner import Follower

        self._identity = await identify_node(self._surroundings())
        self._identity = await identify_node(self._surroundings(), self.make)
        return Follower(self.make, self._hands, report, self._note_by_hand, self._record), self._view

    async def ask_places(self) -> AttachmentPlaces | None:
        """Return for how many volumes this instance has places, who ever has them, or raise AgentError.

        None where the policy has AWS not asked at all, or it is not known of which type the instance is.
        """
        from agent.cloud.aws.instance_types import DescribeInstanceTypes
        from agent.cloud.limits.attachment_room import list_places

        policy = self._policy()
        if not is_possible(policy, has_standins=self._has_standins):
            return None
        identity = await identify_node(self._surroundings())
        if identity.instance_type is None:
            return None
        if self._identity.region is None:
            self._identity = identity
        found = await self.make(DescribeInstanceTypes((identity.instance_type,)))
        return list_places(frozenset(), next(iter(found), None))

    async def make(self, call: Call[T], *, within: Within = nullcontext) -> T:
        """Make the call in the region that this node is known to be in now, or raise ``CloudError``."""
        return await self._find_client().make(call, within=within)

    def _find_client(self) -> CloudClient:
        """Return a client of this node's region; one of another region ends its worker once that is idle."""
        from agent.cloud.aws_worker.client import CloudClient

        settings = choose_worker_settings(self._identity)
        if settings.region not in self._clients:
            self._clients[settings.region] = CloudClient(settings, self._count)
        return self._clients[settings.region]

    def _view(self) -> NodeView:
        from agent.cloud.plan.decisions import NodeView, choose_attach_api

        devices = self._hands.list_devices()
        api = choose_attach_api(self._policy().agent.cloud.attach_api, self._identity)
        names = frozenset(name for name in devices.values() if name)
        cluster = self._policy().agent.cloud.cluster
        return NodeView(self._identity, api, frozenset(devices), used_names=names, cluster_name=cluster)

    def wake(self) -> None:
        """Have the cloud looked at soon, because a device came or went, or the policy changed."""
        self._news.set()
        if self._loop is not None:
            self._loop.wake()

    async def run(self, identity: CloudIdentity | None = None) -> None:
        """Look at the cloud whenever there is a reason to, until cancelled.

        ``identity``: what is known of the node already. It is asked for again once the policy has changed.
        """
        try:
            vainly = 0
            while True:
                self._news = anyio.Event()
                vainly = 0 if await self._run_while_wanted(identity) else vainly + 1
                if vainly:
                    with anyio.move_on_after(self._choose_patience_s(vainly)):
                        await self._news.wait()
                        vainly = 0
                identity = None
        finally:
            with anyio.CancelScope(shield=True):
                await self.end()

    async def end(self) -> None:
        """End the workers; a call made later starts another one."""
        while self._clients:
            _, client = self._clients.popitem()
            await client.__aexit__(None, None, None)

    def _choose_patience_s(self, vainly: int) -> float:
        """Return how long there is nothing to do: without news nothing changes but who this node is."""
        is_any_to_go = self._identity.instance_id is None and self._is_any_to_go()
        if not is_any_to_go and not self._is_open(self._identity):
            return math.inf
        return choose_pause_s(vainly - 1)

    def _is_open(self, identity: CloudIdentity) -> bool:
        is_ec2 = self._surroundings().is_ec2
        return is_open(self._policy(), identity, has_standins=self._has_standins, is_ec2=is_ec2)

    async def _run_while_wanted(self, identity: CloudIdentity | None) -> bool:
        """Run the loop for as long as the policy has anything to ask of AWS; False where it never had."""
        policy = self._policy()
        # Before anybody is asked who this node is, which comes with every device.
        if not is_possible(policy, has_standins=self._has_standins):
            return False
        if not (policy.volumes or self._is_any_to_go()):
            return False
        was_unknown = self._identity.instance_id is None
        identity = self._identity = identity or await identify_node(self._surroundings())
        if was_unknown and identity.instance_id is not None:
            self._publish(CloudReport(make_facts(identity), claimed=self.recall(identity)))
        if not self._is_wanted(identity) and self._is_open(identity):
            # The cluster's list may not have this node yet; the API may tell its group all the same.
            identity = self._identity = await identify_node(self._surroundings(), self.make)
        if not self._is_wanted(identity):
            self._tell_open(identity)
            return False
        self._told = None
        log.info("cloud.started", cluster=identity.cluster_arn, instance=identity.instance_id)
        await self._run_loop(identity)
        log.info("cloud.stopped")
        self._publish(CloudReport(claimed=self.recall(self._identity)))
        return True

    def recall(self, identity: CloudIdentity) -> Mapping[str, VolumeId]:
        """Return, by entry name, the volumes of this node's claims as AWS described them last."""
        if not self._remembers_any:
            return {}
        from agent.cloud.plan.claims.remembered import recall_claimed
        from agent.cloud.plan.decisions import AttachApi, NodeView

        policy = self._policy()
        node = NodeView(identity, AttachApi.NONE, cluster_name=policy.agent.cloud.cluster)
        return recall_claimed(choose_entries(policy, identity), node, self._load_makings())

    def _tell_open(self, identity: CloudIdentity) -> None:
        """Say what entries wait for while it is not known who this node is, and take it back when it is."""
        endings = explain_open(self._policy(), identity) if self._is_open(identity) else {}
        told = CloudReport(make_facts(identity), claimed=self.recall(identity), endings=endings)
        if told != self._told and (endings or self._told is not None):
            self._publish(told)
        self._told = told if endings else None

    def _is_wanted(self, identity: CloudIdentity) -> bool:
        return is_wanted(
            self._policy(), identity, has_standins=self._has_standins, is_any_to_go=self._is_any_to_go()
        )

    def _is_any_to_go(self) -> bool:
        """Return whether claims that may be gone have volumes that are to be deleted."""
        return self._remembers_any and self._load_makings().is_any_to_go

    @property
    def _remembers_any(self) -> bool:
        """Something may be remembered of claims; else what reads it need not be imported."""
        return self._makings is not None or self._has_claims

    def _load_makings(self) -> Makings:
        from agent.cloud.state.made_volumes import Makings

        if self._makings is None:
            self._makings = Makings(self._claims)
        return self._makings

    async def _run_loop(self, identity: CloudIdentity) -> None:
        from agent.cloud.cloud_loop import CloudLoop

        async def identify() -> CloudIdentity:
            self._identity = await identify_node(self._surroundings())
            if not self._identity.is_complete or self._identity.zone is None:
                # Where it is told before: that is where the API is asked who it is.
                self._identity = await identify_node(self._surroundings(), self.make)
            return self._identity

        self._loop = CloudLoop(
            self.make,
            identify,
            self._policy,
            self._hands,
            self._publish,
            makings=self._load_makings(),
            claimed=self.recall(identity),
            record=self._record,
        )
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._loop.run)
                while self._is_wanted(identity):
                    await self._news.wait()
                    self._news = anyio.Event()
                tasks.cancel_scope.cancel()
        finally:
            self._loop = None
