"""What holds now: the policy, what is known of this node, and which volumes are here; and who is told of it.

The policy comes from its file, what is known of the node from the node and from AWS, the volumes from their
devices. Whichever changes, what follows from all of them is put here into the parts it concerns.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Mapping

from agent.base.error_barrier import Barrier
from agent.cloud.identity.identity_sources import IdentitySources, identify_locally, look_around
from agent.cloud.identity.metadata_process import choose_fetch
from agent.cloud.identity.whoami import CloudIdentity
from agent.cloud.is_wanted import may_be_wanted
from agent.cloud.view.cloud_report import make_facts
from agent.core.model import NodeFacts, NodePlace, Seen, VolumeId, Wanted
from agent.core.replace import replace
from agent.daemon.ask_identity import IdentityAsking
from agent.daemon.faces import Faces
from agent.loop.volume_origins import Origins
from agent.node.machine import Machine
from agent.policy import Assignment, MatchExplanation, Policy, describe_seen


class InForce:
    """The policy in force on this node as it is."""

    def __init__(
        self,
        policy: Policy,
        node: Machine,
        faces: Faces,
        wake: Callable[[VolumeId], None],
        refresh: Callable[[], None],
        *,
        has_standins: bool,
    ) -> None:
        self.policy = policy
        self.facts = NodeFacts()
        self.present: Mapping[VolumeId, Seen] = {}
        self.assigned: Mapping[str, VolumeId] = {}
        """By entry name, the volume here that the entry is for."""
        self.claimed: Mapping[str, VolumeId] = {}
        """By entry name, the volume that was made for its claim."""
        self.origins = Origins()
        self.has_standins = has_standins
        self._node = node
        self._faces = faces
        self._wake = wake
        self._refresh = refresh
        self._is_identified = False
        """It was asked which node this is, whether or not anything told."""
        self._is_ordinary = False
        """It is known to be an instance of no cluster, and nothing more is to come."""
        self.asking = IdentityAsking(self._is_lacking, self._identify_again)
        self._barrier = Barrier()
        self._fetch = choose_fetch()
        self.identity_sources = self._find_identity_sources()
        self.account_zone: str | None = None
        """The node's zone as the account calls it that has the volumes, once AWS has told."""
        self.is_hyperpod = False
        self._zone: str | None = None

    def put_policy(self, policy: Policy) -> None:
        """Have this policy hold from now on."""
        self.policy = policy
        self._node.allow_roots(policy.agent.allowed_roots)
        self._faces.put_policy(policy)
        self._tell()
        self.asking.wake()

    async def identify(self) -> CloudIdentity:
        """Find out, without asking AWS, which node this is now; nothing that was known is forgotten."""
        self.identity_sources = self._find_identity_sources()
        identity = CloudIdentity()
        with self._barrier.containing("find out which instance this is"):
            identity = await identify_locally(self.identity_sources)
            self.is_hyperpod = identity.is_hyperpod
            self._is_ordinary = identity.is_complete and not identity.is_hyperpod
            self._zone = identity.zone or self._zone
        self.put_facts(make_facts(identity))
        return identity

    def put_facts(self, facts: NodeFacts) -> None:
        """Take over what is known of this node now; nothing that was known is forgotten."""
        known, self.facts = self.facts, facts.or_else(self.facts)
        self._is_identified = True
        self._tell()
        if self.facts != known:
            self.asking.wake()
            for volume in self.present:  # what no entry means now may go back to what it was
                self._wake(volume)

    async def _identify_again(self) -> None:
        known = self.facts
        await self.identify()
        if self.facts != known:
            self._refresh()

    def may_want_raw(self, volume_id: VolumeId) -> bool:
        """Tell whether an entry may mean the volume, to be raw, once more is known of this node."""
        if self.facts.instance_group is not None or self._is_ordinary:
            return False
        volume = describe_seen(volume_id, self.present.get(volume_id), self.origins.known)
        return self.policy.may_want_raw(volume, self.facts, claimed=self.claimed)

    def _is_lacking(self) -> bool:
        return not self._is_ordinary and self.policy.lacks(self.facts)

    def assign(
        self, present: Mapping[VolumeId, Seen], recorded: Iterable[VolumeId]
    ) -> Mapping[VolumeId, Assignment]:
        """Return what the policy wants of each volume that is here, or that it or a record names."""
        self.present = present
        self.origins.see(present.keys())
        found = self.policy.assign(
            present,
            self.facts,
            held=self._list_held(),
            claimed=self.claimed,
            origins=self.origins.known,
            also=tuple(recorded),
        )
        self.assigned = {
            one.name: volume for volume, one in found.items() if isinstance(one, Wanted) and volume in present
        }
        return found

    def explain(self, volume_id: VolumeId) -> tuple[MatchExplanation, ...]:
        """Say of each entry whether it means the volume, and why or why not."""
        volume = describe_seen(volume_id, self.present.get(volume_id), self.origins.known)
        return self.policy.explain(volume, self.facts, claimed=self.claimed)

    def look_around(self) -> IdentitySources:
        """Return where the cloud half may ask who this node is."""
        return look_around(self._node.aside, self._fetch)

    def _find_identity_sources(self) -> IdentitySources:
        # Where files stand in for volumes there is no instance whose metadata could be asked.
        sources = self.look_around()
        return replace(sources, metadata_endpoint=None) if self.has_standins else sources

    def _tell(self) -> None:
        """Tell those whom policy and node concern together."""
        if self._is_identified:  # before, it would be published under another name
            self._faces.put_facts(self.policy, self.facts)
        self._faces.board.place = NodePlace(self.facts, self.account_zone or self._zone, socket.gethostname())
        self._faces.board.expect(self.policy.expected(self.facts))
        self._expect_origins()

    def _expect_origins(self) -> None:
        """Have volumes wait for what AWS says of them, or not any more."""
        is_ec2 = self.identity_sources.is_ec2
        is_asked = may_be_wanted(self.policy, self.facts, has_standins=self.has_standins, is_ec2=is_ec2)
        limit_s = self.policy.agent.cloud.format_without_origin_after_s
        if self.origins.expect(is_asked=is_asked, limit_s=limit_s):
            for volume in self.present:
                self._wake(volume)

    def _list_held(self) -> dict[str, VolumeId]:
        return {
            status.name: status.volume_id
            for status in self._faces.board.statuses()
            if status.name is not None and status.volume_id is not None and status.device is not None
        }
