"""The cloud half's loop: describe, have each task decide, make one call for it, describe again.

Tells the node half what the cloud knows (origins, which volume a claim has, why one is not here) and touches
the node only through the hands it is given. A task that fails rests by itself; the others go on. Where
nothing could be described the whole look rests, and what was told before stays.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from time import monotonic

import anyio

from agent.cloud.aws.call import Make
from agent.cloud.identity.last_identity import KnownIdentity
from agent.cloud.identity.whoami import CloudIdentity
from agent.cloud.limits.type_limits import TypeLimits
from agent.cloud.orders.runner import FINAL
from agent.cloud.plan.claims.pools import choose_share
from agent.cloud.plan.decisions import Decision, Do, NodeView, Release, Settled, choose_attach_api
from agent.cloud.plan.device_names import list_attached_names, list_given_names
from agent.cloud.snapshots.take_due import SnapshotKeeper
from agent.cloud.state.made_volumes import Makings
from agent.cloud.state.process_memory import CloudMemory
from agent.cloud.tasks.send_call import CallSender
from agent.cloud.tasks.status_checks import Checkups
from agent.cloud.tasks.suspected_instances import Suspicion
from agent.cloud.tasks.task import CloudTask, Means
from agent.cloud.tasks.undescribed_volumes import ASK_AGAIN_S, UntoldVolumes
from agent.cloud.tasks.volume_tasks import list_tasks
from agent.cloud.view.change_events import Record, log_event, log_failure
from agent.cloud.view.cloud_report import CloudReport, Hands, make_ending, make_facts, report_failure
from agent.cloud.view.cloud_state import CloudState, describe_all
from agent.cloud.view.describe_all import describe_pools
from agent.cloud.view.pending_calls import RecentCalls
from agent.cloud.view.retry_pauses import BackOffs
from agent.core.errors import AgentError
from agent.core.model import Origin, Reason, VolumeId
from agent.core.replace import replace
from agent.core.steps import Refuse, Wait
from agent.core.units import utc_now
from agent.policy import Policy

SETTLED_PAUSE_S = 300.0
"""Between looks while nothing is under way; enough to notice tags and volumes changed by others."""
SNAPSHOT_SPREAD_S = (0.5, 20.0)
"""After the minute at which a snapshot is due: nodes of one schedule are not to ask AWS in one second."""
SOON_S = 1.0
LONGEST_PAUSE_S = 60.0

LOOK = "(look)"
"""What looking at all rests under, where nothing could be described; no entry can be named so."""
_LASTING = FINAL | {Reason.RELEASED}
"""Reasons that last until somebody else does something: looking often would not make it sooner."""


class CloudLoop:
    """Brings the volumes a policy names to this node, and keeps them as the policy says."""

    def __init__(  # noqa: PLR0913 - its surroundings, and three that only tests choose
        self,
        make: Make,
        identify: Callable[[], Awaitable[CloudIdentity]],
        policy: Callable[[], Policy],
        hands: Hands,
        publish: Callable[[CloudReport], None],
        *,
        clock: Callable[[], float] = monotonic,
        now: Callable[[], datetime] = utc_now,
        rng: random.Random | None = None,
        makings: Makings | None = None,
        claimed: Mapping[str, VolumeId] | None = None,
        record: Record | None = None,
    ) -> None:
        self._make = make
        record = record or log_event
        self._policy = policy
        self._hands = hands
        self._publish = publish
        self._clock = clock
        self._rng = rng or random.Random()  # noqa: S311 - jitter
        self._rests = BackOffs(clock, self._rng)
        self._recent = RecentCalls(clock)
        self._untold = UntoldVolumes(clock)
        self._memory = CloudMemory(makings or Makings())
        self._snapshots = SnapshotKeeper(make, hands.freeze, now, record)
        limits = TypeLimits(make, self._rests)
        self._means = Means(make, self._memory, self._snapshots, hands.released, clock, now, limits)
        self._sender = CallSender(make, hands, self._memory, self._recent, clock, record)
        self._checkups = Checkups(make, self._rests, clock, self._rng)
        self._suspicion = Suspicion(make, self._rests, clock, self._rng)
        self._decided: dict[str, Do | Release] = {}
        """By a task's key, what it was about to do."""
        self._identity = KnownIdentity(identify)
        self._searched: Policy | None = None
        """The policy for which all marked volumes were described, and none of them is on its way."""
        self._rested_under: Policy | None = None
        self._wake = anyio.Event()
        self._waits_for_others = False
        """All that is waited for is what others do, or nobody."""
        self._failure: str | None = None
        """Why the last look failed as a whole; logged once, and again when it changes."""
        self._has_published = False
        self.findings = CloudReport(claimed=claimed or {})
        self.is_settled = False
        """At the last look nothing was done, and nothing was left to do or to wait for."""

    def wake(self) -> None:
        """Have the cloud looked at soon: a device came or went, or the policy changed.

        A permission that is missing rests on: devices may come and go all day, and bring none.
        """
        resting = self._rests.find(LOOK)
        if resting is not None and resting.reason is not Reason.PERMISSION_DENIED:
            self._rests.forget(LOOK)
        self._wake.set()

    async def run(self) -> None:
        """Look until cancelled, more often while something is under way."""
        quiet = 0
        while True:
            quiet = 0 if await self.look() else quiet + 1
            with anyio.move_on_after(self._rests.count_left_s(LOOK) or self._choose_pause_s(quiet)):
                await self._wake.wait()
                # Devices come in bursts; one look is enough for all of them.
                await anyio.sleep(self._rng.uniform(0.2, 0.8))
                quiet = 0
            self._wake = anyio.Event()

    def _choose_pause_s(self, quiet: int) -> float:
        longest_s = SETTLED_PAUSE_S if self._waits_for_others else LONGEST_PAUSE_S
        pause_s = SETTLED_PAUSE_S if self.is_settled else min(SOON_S * 2.0 ** min(quiet, 16), longest_s)
        if self._untold.is_unsure:
            pause_s = min(pause_s, ASK_AGAIN_S)
        pause_s *= self._rng.uniform(0.5, 1.5)
        changing_s = self._checkups.count_seconds_to_next()
        pause_s = pause_s if changing_s is None else min(pause_s, changing_s)
        due_s = self._snapshots.count_seconds_to_next()
        return pause_s if due_s is None else min(pause_s, due_s + self._rng.uniform(*SNAPSHOT_SPREAD_S))

    async def look(self) -> bool:
        """Look once, make at most one call for each task; returns whether any was made.

        While looking rests nothing is asked, and nothing told: what was last told is still so. A volume that
        was never asked about ends the rest once: it may be waiting for what the answer is.
        """
        policy = self._policy()
        if self._rested_under is not policy:
            self._rests.forget_all()
            self._memory.taken_names.clear()
            if self._rested_under is not None:
                await self._memory.makings.forgive()
            self._rested_under = policy
        is_stranger_here = self._untold.has_stranger(self._hands.list_devices().keys())
        if self._rests.find(LOOK) is not None and not is_stranger_here:
            return False
        look: CloudState | None = None
        try:
            look = await self._begin(policy)
            await self._describe(look)
        except AgentError as error:
            self._identity.doubt(error)
            self._rests.note_failure(LOOK, error, is_look=True)
            self._untold.note_failure(error)
            self._publish_failure(policy, error, {} if look is None else look.find_origins())
            self.is_settled = False
            return False
        self._rests.forget(LOOK)
        self._untold.note_look(look)
        self._failure = None
        tasks = tuple(list_tasks(look, self._means))
        async with anyio.create_task_group() as group:
            for task in tasks:
                group.start_soon(self._see_to, task, look)
        self._memory.dropped &= set(look.node.devices)
        self.is_settled = not (look.has_acted or look.endings or self._untold.is_unsure)
        self._waits_for_others = all(one.reason in _LASTING for one in look.endings.values())
        marked = {task.name for task in tasks if task.needs_marks}
        if not look.has_acted and not marked & look.endings.keys():
            self._searched = policy
        await self._checkups.tend(look)
        await self._means.limits.tend(look)
        facts = self._snapshots.list_facts(look.list_here(), look.list_scheduled())
        self._put_findings(replace(look.find(), snapshots=facts, checks=self._checkups.list_recent()))
        return look.has_acted

    # -- Describing ------------------------------------------------------------------------------------------

    async def _begin(self, policy: Policy) -> CloudState:
        """Begin a look at what this node has to do with."""
        before, identity = self._identity.last, await self._identity.find(policy)
        if identity != before:
            self._searched = None
        devices = self._hands.list_devices()
        self._untold.begin_look(devices.keys())
        node = NodeView(
            identity,
            choose_attach_api(policy.agent.cloud.attach_api, identity),
            devices=frozenset(devices),
            used_names=frozenset(filter(None, devices.values())),
            cluster_name=policy.agent.cloud.cluster,
        )
        return CloudState(node, policy, self._hands.list_assigned(), earlier=self.findings.origins)

    async def _describe(self, look: CloudState) -> None:
        """Describe everything this node has to do with; where that fails, what was described stays in it."""
        known = {*self._memory.list_known(), *self.findings.claimed.values()}
        await describe_all(self._make, look, known, is_searching=self._searched is not look.policy)
        attached = list_attached_names(look.list_volumes(), look.node.identity.instance_id or "")
        names = {*attached, *list_given_names(self._recent.list_calls()), *self._memory.taken_names}
        look.node = replace(look.node, used_names=look.node.used_names | names)
        await self._suspicion.find_gone(look)
        # What nodes that are gone have left is worth a call before anything is made; what AWS still shows
        # attached to them is asked about only where nothing is free. Of what is free each node looks at its
        # own share first: all of it would be much, and everybody's.
        share = choose_share(look.node.identity.instance_id or "")
        for state, last_digit in (("available", share), ("available", None), ("in-use", None)):
            unserved = look.list_unserved()
            if unserved:
                look.add_pool(await describe_pools(self._make, unserved, state, last_digit))
                await self._suspicion.find_leaver(look)
        self._identity.doubt(look.unproven)

    # -- One task --------------------------------------------------------------------------------------------

    async def _see_to(self, task: CloudTask, look: CloudState) -> None:
        """Do the next thing for one task, and for what follows from it. Its errors end here."""
        resting = self._rests.find(task.key)
        if resting is not None:
            await task.keep_watch(look)
            self._skip(task, resting, look)
            return
        self._decided.pop(task.key, None)
        try:
            decision = await task.decide(look)
            if decision is not None:
                await self._carry_out(task, decision, look)
        except AgentError as error:
            self._identity.doubt(error)
            if self._rests.note_failure(task.key, error):
                log_failure(error, entry=task.name)
            self._skip(task, make_ending(error), look)
            return
        self._rests.forget(task.key)
        task.foresee(look)
        if isinstance(decision, Settled):
            for following in task.list_following(decision.volume):
                await self._see_to(following, look)

    def _skip(self, task: CloudTask, ending: Wait | Refuse, look: CloudState) -> None:
        """Leave a task as it is for now; what was found out about it before still holds."""
        claimed = self.findings.claimed.get(task.name)
        if claimed is not None:
            look.claimed.setdefault(task.name, claimed)
        look.foresee(task.name, self._decided.get(task.key), why=ending.message)
        task.foresee(look)
        task.report(ending, look)

    async def _carry_out(self, task: CloudTask, decision: Decision, look: CloudState) -> None:
        if isinstance(decision, (Wait, Refuse)):
            task.report(decision, look)
        elif isinstance(decision, Release):
            self._decided[task.key] = decision
            await self._hands.release(decision.volume_id)
            self._memory.dropped.add(decision.volume_id)
            look.has_acted = True
        elif isinstance(decision, Do):
            self._decided[task.key] = decision
            waiting = self._recent.find_wait(task.key, decision.call)
            if waiting is None:
                waiting = Wait(Reason.WAITING_FOR_CLOUD, f"AWS was asked to {decision.describe()}.")
                look.has_acted = True
                await self._sender.send(task.name, task.key, decision)
            look.foresee(task.name, decision, why=waiting.message)
            task.report_asked(waiting, look)

    # -- Telling ---------------------------------------------------------------------------------------------

    def _publish_failure(
        self, policy: Policy, error: AgentError, described: Mapping[VolumeId, Origin]
    ) -> None:
        """Say of every entry that needs AWS why nothing is known; what was found before stays."""
        if self._failure != error.message:
            log_failure(error)
        self._failure = error.message
        told = report_failure(self.findings, policy, error, described)
        facts = make_facts(self._identity.last) if self._identity.last else told.facts
        untold, checks = self._untold.volumes - told.origins.keys(), self._checkups.list_recent()
        self._put_findings(replace(told, facts=facts, untold=untold, checks=checks))

    def _put_findings(self, findings: CloudReport) -> None:
        is_news = findings != self.findings or not self._has_published
        self.findings = findings
        self._has_published = True
        if is_news:
            self._publish(findings)
