"""Which volumes Kubernetes is told of, at which nodes, and how they can be used."""

from __future__ import annotations

import pytest

from agent.cloud.aws.answer_fields import Unread
from agent.cloud.aws.models import CloudVolume, Tags
from agent.controller.attaching.sights import Sights
from agent.controller.calls import NodeId, NoSuchThingError, UseQuestion
from agent.controller.volumes.listing import KnowNodes, Listing
from agent.core.model import VolumeId
from agent.core.replace import replace
from tests.unit.controller.stand_in import HYPERPOD, NODE, OTHER, VOLUME, StandIn

OURS: Tags = (("kubernetes.io/cluster/prod", "owned"),)
DRIVERS: Tags = (("CSIVolumeName", "pvc-1"), ("ebs.csi.aws.com/cluster", "true"))


def make_listing(
    cloud: StandIn, cluster_id: str | None = None, know_nodes: KnowNodes = lambda: None, unread: int = 0
) -> Listing:
    async def describe_all() -> list[CloudVolume | Unread]:
        known = [cloud.describe(one) for one in reversed(list(cloud.kept))]
        broken = [Unread("vol-00000000000000bad", "Size is missing") for _ in range(unread)]
        return [*(one for one in known if one is not None), *broken]

    return Listing(Sights(cloud.find), describe_all, cluster_id, know_nodes)


def make_volumes(cloud: StandIn) -> list[VolumeId]:
    """Make one with the cluster's mark, one of another cluster, one of nobody; each free."""
    tags = (OURS, DRIVERS, (("Name", "by hand"),))
    return [cloud.add(VolumeId(f"vol-{n:017x}"), tags=one) for n, one in enumerate(tags)]


def known(*nodes: NodeId) -> dict[str, NodeId]:
    return {node.instance_id: node for node in nodes}


async def list_ids(listing: Listing) -> list[str]:
    page = await listing.list_volumes(None, None)
    assert page.next_token is None
    return [one.volume.volume_id for one in page.entries]


async def test_marked_volumes_are_listed_in_the_order_of_their_ids() -> None:
    cloud = StandIn()
    ours, drivers, _ = make_volumes(cloud)
    assert await list_ids(make_listing(cloud, "prod")) == [ours]
    assert await list_ids(make_listing(cloud)) == [drivers]


async def test_whatever_a_node_has_is_listed_untagged_too() -> None:
    """Kubernetes would attach again what it does not find at its node."""
    cloud = StandIn()
    ours, _, by_hand = make_volumes(cloud)
    cloud.hold(NODE, by_hand)
    assert await list_ids(make_listing(cloud, "prod")) == [ours, by_hand]
    assert await list_ids(make_listing(cloud, "prod", lambda: known(OTHER))) == [ours]
    assert await list_ids(make_listing(cloud, "prod", lambda: known(OTHER, NODE))) == [ours, by_hand]


async def test_nodes_are_named_as_their_csinode_names_them() -> None:
    cloud = StandIn()
    cloud.add(is_multi_attach=True)
    for node in (NODE, HYPERPOD):
        cloud.hold(node)
    (listed,) = (await make_listing(cloud).list_volumes(None, None)).entries
    assert listed.nodes == (NODE, HYPERPOD)
    assert str(listed.nodes[1]) == "hyperpod-abcde01234yz-i-0123456789abcdef2"
    assert (await make_listing(cloud).find(VOLUME)).nodes == (NODE, HYPERPOD)


async def test_a_node_is_named_as_kubernetes_has_it_whatever_aws_shows() -> None:
    """The attacher compares byte for byte: another name for the same instance reads as detached."""
    cloud = StandIn()
    cloud.add()
    cloud.hold(NodeId(HYPERPOD.instance_id))
    listing = make_listing(cloud, know_nodes=lambda: known(HYPERPOD))
    (listed,) = (await listing.list_volumes(None, None)).entries
    assert listed.nodes == (await listing.find(VOLUME)).nodes == (HYPERPOD,)


@pytest.mark.parametrize(
    ("state", "has_it"), [("attaching", False), ("busy", True), ("detaching", False), ("attached", True)]
)
async def test_a_node_has_what_is_attached_to_it(state: str, *, has_it: bool) -> None:
    cloud = StandIn()
    cloud.add()
    held = cloud.hold(NODE)
    held.is_busy = state == "busy"
    cloud.attach_s = 1e9 if state == "attaching" else 3.0
    held.ends_s = cloud.time_s + 1 if state == "detaching" else held.ends_s
    assert (await make_listing(cloud).find(VOLUME)).nodes == ((NODE,) if has_it else ())


async def test_one_that_cannot_be_read_hides_no_other() -> None:
    cloud = StandIn()
    cloud.add(tags=DRIVERS)
    assert await list_ids(make_listing(cloud, unread=2)) == [VOLUME]


async def test_pages_are_of_any_size() -> None:
    cloud = StandIn()
    wanted = [cloud.add(VolumeId(f"vol-{number:017x}"), tags=DRIVERS) for number in range(7)]
    for most in (1, 2, 4, 7, 9):
        listing = make_listing(cloud)
        page = await listing.list_volumes(most, None)
        found = [one.volume.volume_id for one in page.entries]
        while page.next_token is not None:
            page = await listing.list_volumes(most, page.next_token)
            found += [one.volume.volume_id for one in page.entries]
        assert found == wanted


async def test_what_is_deleted_is_not_found_and_not_listed() -> None:
    cloud = StandIn()
    cloud.add(tags=DRIVERS, state="deleting")
    listing = make_listing(cloud)
    assert await list_ids(listing) == []
    for volume_id in (VOLUME, VolumeId("vol-00000000000000000")):
        with pytest.raises(NoSuchThingError, match=volume_id):
            await listing.find(volume_id)
        with pytest.raises(NoSuchThingError):
            await listing.explain_misuse(UseQuestion(volume_id))


SINGLE = (
    "SINGLE_NODE_WRITER",
    "SINGLE_NODE_READER_ONLY",
    "SINGLE_NODE_SINGLE_WRITER",
    "SINGLE_NODE_MULTI_WRITER",
)
MULTI = ("MULTI_NODE_READER_ONLY", "MULTI_NODE_SINGLE_WRITER", "MULTI_NODE_MULTI_WRITER", "UNKNOWN")


@pytest.mark.parametrize("is_multi_attach", [False, True])
@pytest.mark.parametrize("is_block", [False, True])
@pytest.mark.parametrize("mode", SINGLE + MULTI)
async def test_several_nodes_share_block_devices_with_multi_attach_only(
    mode: str, *, is_block: bool, is_multi_attach: bool
) -> None:
    cloud = StandIn()
    cloud.add(is_multi_attach=is_multi_attach)
    why = await make_listing(cloud).explain_misuse(UseQuestion(VOLUME, ((mode, is_block),)))
    is_usable = mode in SINGLE or (mode == "MULTI_NODE_MULTI_WRITER" and is_block and is_multi_attach)
    assert (why is None) is is_usable


async def test_one_use_that_is_none_forbids_all() -> None:
    cloud = StandIn()
    cloud.add()
    modes = (("SINGLE_NODE_WRITER", False), ("MULTI_NODE_MULTI_WRITER", False))
    why = await make_listing(cloud).explain_misuse(UseQuestion(VOLUME, modes))
    assert why is not None
    assert VOLUME in why


async def test_an_instance_of_another_cluster_is_no_node_of_ours() -> None:
    cloud = StandIn()
    cloud.add()
    cloud.hold(replace(HYPERPOD, cluster_id="another00000"))
    listed = await list_ids(make_listing(cloud, "prod", lambda: known(NodeId("i-00000000000000001"))))
    assert listed == []
