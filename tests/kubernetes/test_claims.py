"""Claims in a real cluster: the controller with the real sidecars, kubelet, pods, and real devices."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest

from agent.csi.service.parse_context import SOURCE_KEY
from tests.kubernetes.claims import DRIVER, FASTER_MIB_S, HOSTNAME, LARGER, NODE, declare_node
from tests.kubernetes.claims import INSTANCE as OTHER_INSTANCE
from tests.kubernetes.control_plane import NODE_NAME
from tests.kubernetes.drop_in import list_drivers
from tests.kubernetes.guest_claims import ATTACH_LIMIT, RESERVED, GuestClaims, run_controller_for
from tests.kubernetes.interrupted_aws import InterruptedAws
from tests.kubernetes.manifests import Use, make_pod
from tests.kubernetes.node import INSTANCE, KubernetesNode
from tests.kubernetes.programs import SIDECARS, find_missing
from tests.kubernetes.sidecars import ControllerPod
from tests.kubernetes.workloads import Workloads
from tests.waiting import wait_until

WAIT_S = 240.0
MOST_AFTER_PROOF = timedelta(seconds=30)
READ_SIZE = "df -k /data | awk 'END { print $2 }'"
WRITE_RAW = "dd if=/dev/urandom of=/dev/raw bs=64k count=16 seek=8192 conv=fsync 2> /dev/null"
READ_RAW = "dd if=/dev/raw bs=64k count=16 skip=8192 2> /dev/null | sha256sum"


@pytest.fixture(scope="module")
def controller(node: KubernetesNode) -> Iterator[tuple[InterruptedAws, ControllerPod]]:
    """Have the controller work for the node's cluster."""
    if missing := find_missing(SIDECARS):
        pytest.skip(f"needs {', '.join(missing)} built: make build-kubernetes")
    with run_controller_for(node) as running:
        yield running


@pytest.fixture
def claims(node: KubernetesNode, controller: tuple[InterruptedAws, ControllerPod]) -> Iterator[GuestClaims]:
    """Lend all of it; nothing of a test's claims may be left."""
    claims = GuestClaims(*controller, Workloads(node))
    yield claims
    claims.clear()


def test_life_of_a_claim(claims: GuestClaims) -> None:
    """A pod's volume is made for it, larger and faster while it writes, and what it wrote is restored."""
    claim = claims.claim(is_block=False)
    pod = claims.start_pod(claim)
    claims.workloads.run_in(pod, "echo precious > /data/file; sync /data/file")
    volume, before = claims.find_volume(claim), read_containers(claims, pod)

    claims.make_larger_and_faster(claim, pod)
    assert (volume.size, volume.throughput) == (2, FASTER_MIB_S)
    assert claims.aws.calls["ModifyVolume"] == 1
    assert int(claims.workloads.run_in(pod, READ_SIZE)) > 1800 << 10
    assert read_containers(claims, pod) == before

    snapshot = claims.take_snapshot(claim)
    claims.workloads.run_in(pod, "echo later > /data/file; sync /data/file")
    source = {"apiGroup": "snapshot.storage.k8s.io", "kind": "VolumeSnapshot", "name": snapshot}
    restored = claims.claim(LARGER, source, is_block=False)
    reader = claims.start_pod(restored)
    assert claims.workloads.run_in(reader, "cat /data/file") == "precious\n"
    assert claims.workloads.run_in(pod, "cat /data/file") == "later\n"
    made = claims.find_volume(restored)
    assert claims.read_source(restored)["volumeAttributes"][SOURCE_KEY] == made.snapshot_id
    formatted = claims.list_formatted()
    assert (formatted.count(volume.id), formatted.count(made.id)) == (1, 0)


def test_raw_claim_and_its_clone(claims: GuestClaims) -> None:
    """A claim's device has what a pod wrote; a claim made from it begins with that, and is its own."""
    claim = claims.claim()
    pod = claims.workloads.wait_running(claims.add_raw_pod(claim))
    claims.workloads.run_in(pod, WRITE_RAW)
    written = claims.workloads.run_in(pod, READ_RAW)
    clone = claims.claim(source={"kind": "PersistentVolumeClaim", "name": claim})
    other = claims.workloads.wait_running(claims.add_raw_pod(clone))
    assert claims.workloads.run_in(other, READ_RAW) == written
    volume, copied = claims.find_volume(claim), claims.find_volume(clone)
    assert copied.source_volume_id == volume.id
    assert claims.read_source(clone)["volumeAttributes"][SOURCE_KEY] == volume.id
    claims.workloads.run_in(other, WRITE_RAW)
    assert claims.workloads.run_in(other, READ_RAW) != written
    assert claims.workloads.run_in(pod, READ_RAW) == written
    assert not {volume.id, copied.id} & {*claims.list_formatted()}


def test_one_volume_more_than_the_node_takes(claims: GuestClaims) -> None:
    """CSINode tells how many volumes there is room for; who finds none waits, and runs once there is."""
    room = ATTACH_LIMIT - RESERVED
    driver = list_drivers(claims.api.read("CSINode", NODE_NAME))[DRIVER]
    assert driver["allocatable"]["count"] == room
    *pods, last = (claims.add_raw_pod(claims.claim()) for _ in range(room + 1))
    for pod in pods:
        claims.workloads.wait_running(pod)
    claims.wait_event(last, "exceed max volume count")
    claims.wait_attached(room)
    claims.workloads.end_pod(pods[0])
    claims.workloads.wait_running(last)
    refused = {refusal.operation for refusal in claims.aws.refusals}
    assert "AttachClusterNodeVolume" not in refused, "AWS was never asked for more than it takes"


@pytest.fixture
def add_other_node(claims: GuestClaims) -> Iterator[Callable[[], None]]:
    """Give what adds a second node that only the API knows; the scheduler may choose it from then on."""

    def add() -> None:
        claims.aws.cloud.add_node(OTHER_INSTANCE)
        declare_node(claims.api)

    yield add
    claims.aws.cloud.nodes.pop(OTHER_INSTANCE, None)
    for kind in ("Node", "CSINode"):
        claims.api.delete(kind, NODE)


def test_node_is_gone(claims: GuestClaims, add_other_node: Callable[[], None]) -> None:
    """Soon after AWS proves that a node's instance is gone, its volume is another node's, data and all."""
    claim = claims.claim()
    writer = claims.workloads.wait_running(claims.add_raw_pod(claim))
    claims.workloads.run_in(writer, WRITE_RAW)
    written = claims.workloads.run_in(writer, READ_RAW)
    claims.workloads.end_pod(writer)
    claims.wait_attached(0)
    volume = claims.find_volume(claim)
    add_other_node()
    claims.add_pod(claim, tolerated="node.kubernetes.io/unreachable")
    claims.wait_attached()
    assert find_holders(volume) == [OTHER_INSTANCE]

    manifest = make_pod("successor", Use(claim, "/dev/raw", is_block=True))
    manifest["spec"]["nodeSelector"] = {HOSTNAME: NODE_NAME}
    successor = claims.workloads.create(manifest)
    claims.wait_event(successor, "Multi-Attach")
    unheard = {"type": "Ready", "status": "Unknown", "reason": "Test"}
    claims.api.patch("Node", NODE, {"status": {"conditions": [unheard]}}, subresource="status")
    claims.aws.refusals.clear()
    claims.aws.cloud.remove_node(OTHER_INSTANCE)
    wait_until(lambda: find_holders(volume) == [INSTANCE], "the volume was to be moved", WAIT_S)
    (attachment,) = volume.attachments
    proof = next(each for each in claims.aws.refusals if each.operation == "DescribeClusterNode")
    assert proof.code == "ResourceNotFound"
    assert attachment.attach_time - proof.at <= MOST_AFTER_PROOF
    claims.workloads.wait_running(successor)
    assert claims.workloads.run_in(successor, READ_RAW) == written


def find_holders(volume: Any) -> list[str]:
    """Return which instances AWS has a volume attached to."""
    return [each.holder for each in volume.attachments]


def read_containers(claims: GuestClaims, pod: str) -> list[tuple[str, int]]:
    """Return a pod's containers, and how often each was begun anew."""
    statuses = claims.api.read("Pod", pod)["status"]["containerStatuses"]
    return [(each["containerID"], each["restartCount"]) for each in statuses]
