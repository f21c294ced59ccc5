"""The task about volumes of claims that nobody holds, and that their claim has deleted in time.

Every node of the cluster looks for them, rarely; what one has written on a volume is enough for the others.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta

from typing_extensions import override

from agent.cloud.aws.answer_fields import split
from agent.cloud.aws.calls import CreateTags, DeleteVolume
from agent.cloud.aws.models import CloudVolume
from agent.cloud.plan.claims.find_or_make import find_claimed
from agent.cloud.plan.claims.orphan_expiry import find_deadline, find_obstacle, plan_orphan
from agent.cloud.plan.claims.pools import find_last_holder, find_pool, rank_holder
from agent.cloud.plan.claims.wanted_volume import WantedVolume
from agent.cloud.plan.decisions import Decision, Do
from agent.cloud.plan.instance_gone import find_gone
from agent.cloud.tasks.another_snapshot import check_worth
from agent.cloud.tasks.task import CloudTask, Means
from agent.cloud.view import pending_calls
from agent.cloud.view.cloud_state import CloudState
from agent.cloud.view.describe_all import describe_known, describe_pools
from agent.core.errors import AgentError
from agent.core.steps import Refuse, Wait

LOOK_AGAIN_S = 6 * 3600.0
"""Between two looks for such volumes of one node: each is a call, and days count."""
FIRST_LOOK_S = 600.0
"""The nodes of a cluster that start at once look for the first time within this."""


class DeleteOrphansTask(CloudTask):
    """What nobody holds for as long as its claim says is to go."""

    key = "(unheld volumes)"

    def __init__(self, means: Means) -> None:
        self.name = self.key
        self._means = means

    @override
    async def decide(self, look: CloudState) -> Decision | None:
        limits = list_limits(look)
        memory, now_s = self._means.memory, self._means.clock()
        if not limits:
            memory.unheld.clear()
            memory.unheld_look_s = None
            return None
        share = _choose_share(look.node.identity.instance_id or "")
        if memory.unheld_look_s is None:
            memory.unheld_look_s = now_s + share * FIRST_LOOK_S
        # A node that is still to get its own volume may be about to take one of these.
        is_served = all(find_claimed(wanted, look.list_volumes()) for wanted, _ in limits)
        if now_s < memory.unheld_look_s or not is_served:
            await self.keep_watch(look)
            return None
        decision = await self._find_next(look, limits)
        if decision is None:
            memory.unheld_look_s = now_s + (0.5 + share) * LOOK_AGAIN_S
        return decision

    @override
    async def keep_watch(self, look: CloudState) -> None:
        """See those again of which a last snapshot was begun: what cannot be seen was not free."""
        self._see_free(look.list_volumes(), look)
        watched = self._means.memory.free.list_begun() - look.volumes.keys()
        if not watched:
            return
        with suppress(AgentError):  # unseen for long, its snapshot counts no more
            described, _ = split(await describe_known(self._means.make, watched))
            self._see_free(described, look)
            for volume_id in watched - {volume.volume_id for volume in described}:
                self._means.memory.free.forget(volume_id)

    def _see_free(self, described: Sequence[CloudVolume], look: CloudState) -> None:
        """Take note of those that are waited for, whichever of them is next."""
        free, now = self._means.memory.free, self._means.now()
        for volume in described:
            if volume.volume_id in free.list_begun():
                free.see(volume, now, is_here=look.has_device(volume.volume_id))

    async def _find_next(
        self, look: CloudState, limits: Sequence[tuple[WantedVolume, timedelta]]
    ) -> Decision | None:
        """Return the next thing to do about any of them, where its last holder is proven gone now."""
        memory, waiting = self._means.memory, None
        # What cannot be read is nobody's to delete.
        described, _ = split(
            await describe_pools(self._means.make, [wanted for wanted, _ in limits], "available")
        )
        self._see_free(described, look)
        memory.unheld.clear()
        for wanted, limit in limits:
            for volume in self._list_unheld(wanted, described, look):
                decision = await self._plan(wanted, volume, limit, look)
                if isinstance(decision, Do):
                    self.name = f"{wanted.name} ({volume.volume_id})"
                    return decision
                waiting = waiting or decision
        return waiting

    def _list_unheld(
        self, wanted: WantedVolume, described: Sequence[CloudVolume], look: CloudState
    ) -> list[CloudVolume]:
        """Return what might go, each node in an order of its own, so that they seldom do the same."""
        own_id = look.node.identity.instance_id or ""
        return sorted(find_pool(wanted, described), key=lambda one: rank_holder(own_id, str(one.volume_id)))

    async def _plan(
        self, wanted: WantedVolume, volume: CloudVolume, limit: timedelta, look: CloudState
    ) -> Decision | None:
        now, now_s, memory = self._means.now(), self._means.clock(), self._means.memory
        holder, deadline = find_last_holder(volume), find_deadline(volume, limit, now)
        if holder is None or deadline is None or find_obstacle(volume, look.policy, {holder}) is not None:
            return None
        is_due = now >= deadline
        is_here = look.has_device(volume.volume_id)
        begun = memory.free.see(volume, now, is_here=is_here) if is_due else None
        final = await self._means.snapshots.find_final(volume) if is_due else ()
        decision = plan_orphan(volume, limit, final, now, begun)
        marked_s = memory.unheld_marked_s.get(volume.volume_id)
        is_mark = isinstance(decision, Do) and isinstance(decision.call, CreateTags)
        is_marked = is_mark and marked_s is not None and now_s - marked_s <= pending_calls.LIMIT_S
        why = decision.message if isinstance(decision, Wait) else None
        # What another node has begun is its to wait for, or somebody's who looks in hours; so is a failure.
        is_own = any(one.snapshot_id == begun and one.state == "pending" for one in final)
        is_left = isinstance(decision, Wait) and not is_own
        if is_left:
            memory.free.forget(volume.volume_id)
        if decision is None or is_marked or is_left:
            memory.unheld[volume.volume_id] = (wanted.name, deadline, why)
            return None
        if holder not in await find_gone(self._means.make, look.node, [holder]):
            return None
        memory.unheld[volume.volume_id] = (wanted.name, deadline, why)
        await check_worth(self._means.make, decision, final)
        if is_mark:
            memory.unheld_marked_s[volume.volume_id] = now_s
        return decision

    @override
    def foresee(self, look: CloudState) -> None:
        for volume_id, (claim, deadline, why) in self._means.memory.unheld.items():
            look.foresee(f"{claim} ({volume_id})", Do(DeleteVolume(volume_id)), at=deadline, why=why)

    @override
    def report(self, ending: Wait | Refuse, look: CloudState) -> None:
        """Say nothing of entries: theirs are other volumes."""


def list_limits(look: CloudState) -> list[tuple[WantedVolume, timedelta]]:
    """Return this node's claims that have volumes deleted which nobody holds, and after how long."""
    limits = {
        entry.name: timedelta(seconds=entry.claim.unheld_limit_s)
        for entry in look.entries
        if entry.claim is not None and entry.claim.unheld_limit_s is not None
    }
    return [(one, limits[one.name]) for one in look.list_wanted() if one.is_pooled and one.name in limits]


def _choose_share(instance_id: str) -> float:
    """Return a number from 0 to 1 that is the node's own."""
    return int(hashlib.sha256(instance_id.encode()).hexdigest()[:8], 16) / 0xFFFFFFFF
