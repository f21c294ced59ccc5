"""Who a node is to controllers, and how many volumes of Kubernetes it takes."""

from __future__ import annotations

import pytest

from agent.cloud.identity.zone import Zone
from agent.core.errors import AgentError
from agent.core.model import Attachments, Condition, NodeFacts, Reason, VolumeId
from agent.csi.volumes.node_info import count_room, describe_node, name_node
from agent.policy.settings import CsiSettings
from agent.report.board.volume_status import VolumeStatus

INSTANCE = "i-0123456789abcdef0"
CLAIM = VolumeId("vol-0aaaaaaaaaaaaaaa0")
POLICY = VolumeId("vol-0bbbbbbbbbbbbbbb0")


ROOT = VolumeId("vol-0000000000000000f")


def status(volume: VolumeId, name: str | None, device: str | None = "/dev/nvme1n1") -> VolumeStatus:
    """Return a volume on the board that something uses."""
    return VolumeStatus(volume, name, Condition.READY, device=device)


def unnamed(volume: VolumeId, reason: Reason = Reason.NOT_IN_POLICY) -> VolumeStatus:
    """Return a volume on the board that neither the policy nor kubelet names."""
    return VolumeStatus(volume, None, Condition.UNMANAGED, reason, device="/dev/nvme2n1")


@pytest.mark.parametrize(
    ("facts", "node_id"),
    [
        (NodeFacts(instance_id=INSTANCE), INSTANCE),
        (
            NodeFacts(instance_id=INSTANCE, cluster_id="abcde01234yz"),
            f"hyperpod-abcde01234yz-{INSTANCE}",
        ),
    ],
)
def test_node_is_called_as_controllers_attach_it(facts: NodeFacts, node_id: str) -> None:
    """On HyperPod the name holds cluster and instance."""
    assert name_node(facts) == node_id


@pytest.mark.parametrize(
    ("facts", "is_hyperpod", "said"),
    [
        (NodeFacts(), False, "which instance"),
        (NodeFacts(), True, "which instance"),
        (NodeFacts(instance_id=INSTANCE), True, "of which HyperPod cluster"),
    ],
)
def test_node_that_does_not_know_itself_says_so(facts: NodeFacts, said: str, *, is_hyperpod: bool) -> None:
    """A wrong name would have volumes attached elsewhere, or by another API; kubelet asks again."""
    with pytest.raises(AgentError, match=f"not known yet {said}") as caught:
        name_node(facts, is_hyperpod=is_hyperpod)
    assert (caught.value.retryable, caught.value.reason) == (True, Reason.WAITING_FOR_CLOUD)


@pytest.mark.parametrize(
    ("driver", "zone", "place"),
    [
        ("ebs.csi.hyperpod-agent", Zone(), {}),
        ("ebs.csi.hyperpod-agent", Zone("us-west-2a"), {"topology.kubernetes.io/zone": "us-west-2a"}),
        ("ebs.csi.aws.com", Zone(None, "usw2-az1"), {"topology.k8s.aws/zone-id": "usw2-az1"}),
        (
            "ebs.csi.hyperpod-agent",
            Zone("us-west-2a", "usw2-az1"),
            {"topology.kubernetes.io/zone": "us-west-2a", "topology.k8s.aws/zone-id": "usw2-az1"},
        ),
        (
            "ebs.csi.aws.com",
            Zone("us-west-2a"),
            {"topology.kubernetes.io/zone": "us-west-2a", "topology.ebs.csi.aws.com/zone": "us-west-2a"},
        ),
    ],
)
def test_place_is_said_by_the_keys_that_volumes_have(driver: str, zone: Zone, place: dict[str, str]) -> None:
    """In the name of AWS's driver its older volumes can be scheduled here as well."""
    info = describe_node(INSTANCE, None, (), CsiSettings(driver=driver), zone=zone)
    assert (info.node_id, info.max_volumes, info.topology) == (INSTANCE, None, place)


NEW = VolumeId("vol-0cccccccccccccc00")
ROOMY = Attachments("ml.g5.8xlarge", 4, 27, is_shared=True)


@pytest.mark.parametrize(
    ("attachments", "statuses", "settings", "room"),
    [
        (None, (), CsiSettings(reserved=2), None),
        (None, (), CsiSettings(attach_limit=20, reserved=2), 18),
        (Attachments("ml.g5.8xlarge", 1, 27, is_shared=True), (), CsiSettings(), 26),
        # The root volume and one of the policy's; two of Kubernetes', one staged here and one not yet.
        (ROOMY, (status(POLICY, "cache"), status(CLAIM, CLAIM), unnamed(NEW)), CsiSettings(), 25),
        (ROOMY, (status(POLICY, "cache"), status(CLAIM, CLAIM, None)), CsiSettings(reserved=3), 20),
        # The node sees the root volume, too.
        (ROOMY, (unnamed(ROOT, Reason.ROOT_DEVICE), status(CLAIM, CLAIM), unnamed(NEW)), CsiSettings(), 25),
        # One that does not answer may be anybody's.
        (ROOMY, (unnamed(NEW, Reason.STALLED),), CsiSettings(), 23),
        # What AWS's driver has mounted the scheduler counts for whoever has its name.
        (ROOMY, (unnamed(NEW, Reason.MANAGED_BY_CSI),), CsiSettings(), 23),
        (ROOMY, (unnamed(NEW, Reason.MANAGED_BY_CSI),), CsiSettings(driver="ebs.csi.aws.com"), 24),
        (Attachments("ml.g5.8xlarge", 30, 27, is_shared=True), (), CsiSettings(), 1),
    ],
)
def test_room_is_what_others_leave(
    attachments: Attachments | None,
    statuses: tuple[VolumeStatus, ...],
    settings: CsiSettings,
    room: int | None,
) -> None:
    """Of the instance's limit what is attached for anyone else is taken away; never less than one."""
    assert count_room(attachments, statuses, settings) == room


@pytest.mark.parametrize(
    ("is_shared", "interfaces", "settings", "room"),
    [
        (True, 1, CsiSettings(), 26),
        (True, 3, CsiSettings(), 24),
        (True, 3, CsiSettings(reserved=2), 22),
        (True, 0, CsiSettings(), 26),
        (True, 40, CsiSettings(), 1),
        (False, 3, CsiSettings(), 26),
        (True, 3, CsiSettings(attach_limit=20), 20),
    ],
)
def test_network_interfaces_take_places_where_they_share_the_limit(
    interfaces: int, settings: CsiSettings, room: int, *, is_shared: bool
) -> None:
    """All but the one that AWS has counted already."""
    attachments = Attachments("m5.large", 1, 27, is_shared)
    info = describe_node(INSTANCE, attachments, (), settings, interfaces=interfaces)
    assert info.max_volumes == room
