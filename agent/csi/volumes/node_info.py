"""Who this node is to the attaching controller, and how many volumes it takes. Pure."""

from __future__ import annotations

import socket
from collections.abc import Collection

from msgspec import Struct

from agent.cloud.identity.identity_sources import RESOURCE_CONFIG
from agent.cloud.identity.zone import Zone
from agent.core.errors import AgentError
from agent.core.model import Attachments, NodeFacts, Reason
from agent.csi.calls import NodeInfo
from agent.policy.settings import CsiSettings
from agent.report.board.volume_status import VolumeStatus

AWS_DRIVER = "ebs.csi.aws.com"
"""In whose name the agent may serve volumes that AWS's controller makes and attaches."""


ZONE_NAME, ZONE_ID = "topology.kubernetes.io/zone", "topology.k8s.aws/zone-id"


class Told(Struct, frozen=True):
    """What counts of what kubelet is told of the node: it asks once, so what differs has to be told anew."""

    settings: str = ""
    """Of the policy's, those that it follows from."""
    node_id: str | None = None
    """None: not known."""
    has_room: bool = False
    """With how many volumes it takes. Another number is nothing to tell anew: it changes all the time."""
    has_zone: bool = False
    """With the zone's name."""

    def as_in(self, info: NodeInfo) -> Told:
        """Return what counts of an answer under the same settings."""
        return Told(self.settings, info.node_id, info.max_volumes is not None, ZONE_NAME in info.topology)

    def holds(self, now: Told) -> bool:
        """Tell whether kubelet need not be told what is known ``now``, after this.

        What is not known any more, as after a restart, is no reason to: what was told stands.
        """
        is_more = (now.has_room and not self.has_room) or (now.has_zone and not self.has_zone)
        return self.settings == now.settings and now.node_id in {None, self.node_id} and not is_more


def name_node(facts: NodeFacts, *, is_hyperpod: bool = False, has_standins: bool = False) -> str:
    """Return the node's ID, or raise AgentError while the node does not know who it is.

    On HyperPod it is ``hyperpod-<cluster ID>-<instance ID>``, as in its providerID: by that AWS's controller,
    and ours, tell that it is to be attached by SageMaker.
    """
    if facts.instance_id is None and has_standins:
        return socket.gethostname()
    if facts.instance_id is None:
        raise AgentError(
            "It is not known yet which instance this is.",
            hint="The metadata service and the cluster's file are asked again each time that kubelet asks.",
            reason=Reason.WAITING_FOR_CLOUD,
        )
    if facts.cluster_id is not None:
        return f"hyperpod-{facts.cluster_id}-{facts.instance_id}"
    if is_hyperpod:
        raise AgentError(
            "It is not known yet of which HyperPod cluster this node is.",
            hint=f"{RESOURCE_CONFIG} tells it, and is read again each time that kubelet asks.",
            reason=Reason.WAITING_FOR_CLOUD,
        )
    return facts.instance_id


def describe_node(
    node_id: str,
    attachments: Attachments | None,
    statuses: Collection[VolumeStatus],
    settings: CsiSettings,
    *,
    zone: Zone = Zone(),  # noqa: B008 -- a value
    interfaces: int = 1,
) -> NodeInfo:
    """Return what NodeGetInfo answers. ``interfaces``: how many network interfaces the instance has."""
    room = count_room(attachments, statuses, settings, interfaces)
    return NodeInfo(node_id, room, describe_place(settings.driver, zone))


def list_settings(settings: CsiSettings) -> str:
    """Return those of the settings that count in what kubelet is told of the node."""
    return f"attach_limit={settings.attach_limit} reserved={settings.reserved} zone={settings.zone}"


def describe_place(driver: str, zone: Zone) -> dict[str, str]:
    """Return where volumes must be so that this node can have them; empty where that is not known.

    kubelet compares it with the node's labels, and refuses a plugin that says otherwise. In the name of AWS's
    driver it is said by the older key too, which PersistentVolumes have that were made with it.
    """
    place = {} if zone.zone_id is None else {ZONE_ID: zone.zone_id}
    if zone.name is None:
        return place
    older = {f"topology.{AWS_DRIVER}/zone": zone.name} if driver == AWS_DRIVER else {}
    return {ZONE_NAME: zone.name, **older, **place}


def count_room(
    attachments: Attachments | None,
    statuses: Collection[VolumeStatus],
    settings: CsiSettings,
    interfaces: int = 1,
) -> int | None:
    """Return how many volumes of Kubernetes the instance takes; None where that is not known.

    Of its limit the places of all else that is attached now are taken away: the root volume, those of the
    policy, what another driver has mounted, and network interfaces, where these share it. What nobody uses
    and the policy does not name counts as Kubernetes', attached for a pod that has not come yet.
    """
    if settings.attach_limit is not None:
        return max(1, settings.attach_limit - settings.reserved)
    if attachments is None:
        return None
    # In the name of AWS's driver what that one has mounted is counted by the scheduler as this one's.
    unnamed = {Reason.NOT_IN_POLICY} | ({Reason.MANAGED_BY_CSI} if settings.driver == AWS_DRIVER else set())
    of_kubernetes = sum(
        status.device is not None
        and (status.reason in unnamed if status.name is None else status.name == status.volume_id)
        for status in statuses
    )
    others = max(0, attachments.used - of_kubernetes)
    if attachments.is_shared:
        # AWS tells what is left beside one of them.
        others += max(0, interfaces - 1)
    return max(1, attachments.most - others - settings.reserved)
