"""Volumes of the node's policy in pods, by the second driver, as the documentation has people claim them."""

from __future__ import annotations

from tests.kubernetes.api import WAIT_S
from tests.kubernetes.control_plane import NODE_NAME
from tests.kubernetes.drop_in import list_drivers
from tests.kubernetes.manifests import POLICY_DRIVER, Use
from tests.kubernetes.node import KUBELET
from tests.kubernetes.policy_volumes import PolicyVolumes, find_path, make_policy_entry, make_raw_entry
from tests.kubernetes.workloads import Claim, Workloads, choose_volume_id, find_container
from tests.waiting import wait_until

ZEROS = "dd if=/dev/zero of=$1 bs=1M count=8 conv=fsync status=none"


def start_volume(policy: PolicyVolumes, entry: str) -> str:
    """Have an entry with a blank volume, and wait until the node has it; return the volume's ID."""
    volume_id = choose_volume_id()
    policy.attach(volume_id)
    policy.write(make_policy_entry(entry, volume_id))
    policy.node.agent.wait_condition(volume_id, "Ready")
    return volume_id


def wait_told(workloads: Workloads, pod: str, *words: str) -> str:
    """Return what Kubernetes' events say of a pod that waits, once all these words are in one of them."""

    def look() -> str | None:
        told = workloads.list_events(pod)
        return next((text for text in told if all(word in text for word in words)), None)

    return wait_until(look, f"{pod} was to be told {words}", WAIT_S)


def wait_views(workloads: Workloads, claim: Claim, count: int) -> None:
    """Wait until so many pods have a volume."""
    wait_until(lambda: len(workloads.find_mounts(claim)) == count, f"{count} pods were to have it", WAIT_S)


def test_driver_has_neither_limit_nor_zone(policy: PolicyVolumes) -> None:
    """The second driver is registered beside the first, and keeps no pod from any node."""
    found = policy.node.api.wait(
        "CSINode", NODE_NAME, lambda it: POLICY_DRIVER in list_drivers(it), "was to have both drivers"
    )
    driver = list_drivers(found)[POLICY_DRIVER]
    assert driver["nodeID"]
    assert not driver.get("allocatable")
    assert not driver.get("topologyKeys")


def test_pods_share_the_nodes_volume(policy: PolicyVolumes, workloads: Workloads) -> None:
    """Two pods see what the node has, one of them only reads, and a directory of it is seen by itself."""
    volume_id = start_volume(policy, "cache")
    place, agent, guest = find_path("cache"), workloads.node.agent, workloads.node.guest
    guest.shell('mkdir "$1/model"; echo precious > "$1/model/file"', place)
    claim = policy.claim("cache", mount_options=["noexec"])
    part = Use(claim.name, "/model", sub_path="model")
    writer = workloads.add_pod(Use(claim.name), part)
    reader = workloads.add_pod(Use(claim.name, is_read_only=True))
    for pod in (writer, reader):
        workloads.wait_running(pod)
    assert workloads.run_in(writer, "cat /model/file; echo more > /data/shared") == "precious\n"
    assert workloads.run_in(reader, "cat /data/shared /data/model/file") == "more\nprecious\n"
    workloads.run_in(reader, "! touch /data/other")
    options = workloads.run_in(writer, "grep ' /data ' /proc/mounts").split()[3].split(",")
    assert {"rw", "noexec"} <= set(options)
    assert guest.get(f"{place}/shared") == b"more\n"
    workloads.end_pod(writer)
    wait_views(workloads, claim, 1)
    assert workloads.run_in(reader, "cat /data/shared") == "more\n"
    workloads.end_pod(reader)
    wait_views(workloads, claim, 0)
    assert agent.read_status(volume_id)["condition"] == "Ready"
    assert guest.get(f"{place}/shared") == b"more\n"
    told = {name: agent.read_events(f"volume.{name}") for name in ("formatted", "unmounted")}
    assert [[one["volume_id"] for one in events].count(volume_id) for events in told.values()] == [1, 0]


def test_raw_volume_is_a_device(policy: PolicyVolumes, workloads: Workloads) -> None:
    """A block entry is a device in the pod, which nobody has written to before."""
    volume_id = choose_volume_id()
    policy.attach(volume_id)
    policy.write(make_raw_entry("raw", volume_id))
    policy.node.agent.wait_condition(volume_id, "Ready")
    use = Use(policy.claim("raw", is_block=True).name, "/dev/raw", is_block=True)
    workloads.run_pod(
        "test -b /dev/raw; cmp -n 1048576 /dev/raw /dev/zero;"
        " printf precious | dd of=/dev/raw bs=8 count=1 conv=fsync",
        use,
    )
    workloads.run_pod('test "$(dd if=/dev/raw bs=8 count=1)" = precious', use)


def test_pod_waits_for_a_volume_that_is_not_there(policy: PolicyVolumes, workloads: Workloads) -> None:
    """It is told what it waits for, and runs once that is attached; an entry that is none is told too."""
    volume_id = choose_volume_id()
    policy.write(make_policy_entry("late", volume_id))
    pod = workloads.add_pod(Use(policy.claim("late").name))
    mistaken = workloads.add_pod(Use(policy.claim("lateness").name))
    wait_told(workloads, mistaken, "FailedMount", "'lateness'", "It has late.")
    wait_told(workloads, pod, "FailedMount", "'late'", "not ready yet")
    policy.attach(volume_id)
    workloads.wait_running(pod)
    workloads.run_in(pod, "echo precious > /data/file; sync /data/file")
    assert workloads.node.guest.get(f"{find_path('late')}/file") == b"precious\n"
    assert workloads.api.read("Pod", mistaken)["status"]["phase"] == "Pending"


def test_refused_volume_is_told(policy: PolicyVolumes, workloads: Workloads) -> None:
    """A pod of a volume with something on it is told so, and runs once an operator has cleared it."""
    volume_id, guest = choose_volume_id(), workloads.node.guest
    device = policy.attach(volume_id)
    guest.run(["mkswap", device])
    policy.write(make_policy_entry("dirty", volume_id))
    status = workloads.node.agent.wait_condition(volume_id, "Refused")
    pod = workloads.add_pod(Use(policy.claim("dirty").name))
    wait_told(workloads, pod, "FailedMount", "FailedPrecondition", status["message"].removesuffix("."))
    guest.shell(ZEROS, device)
    workloads.node.agent.reload()
    workloads.wait_running(pod)
    assert "ext4" in workloads.run_in(pod, "grep ' /data ' /proc/mounts")


def test_covered_volume_is_told(policy: PolicyVolumes, workloads: Workloads) -> None:
    """A pod is never shown what lies over its volume: it is told so, and runs once that is gone."""
    volume_id = start_volume(policy, "covered")
    place, agent, guest = find_path("covered"), workloads.node.agent, workloads.node.guest
    guest.shell('echo precious > "$1/file"; mount -t tmpfs cover "$1"', place)
    try:
        agent.reload()
        agent.wait_condition(volume_id, "Refused", "PathInUse")
        pod = workloads.add_pod(Use(policy.claim("covered").name))
        wait_told(workloads, pod, "FailedMount", "FailedPrecondition", "tmpfs", place)
    finally:
        guest.run(["umount", place])
    agent.reload()
    workloads.wait_running(pod)
    assert workloads.run_in(pod, "cat /data/file") == "precious\n"


def test_pod_keeps_a_volume_that_the_policy_drops(policy: PolicyVolumes, workloads: Workloads) -> None:
    """It runs on over agent, kubelet and entry, which is said; its volume is let go when it has ended."""
    volume_id = start_volume(policy, "dropped")
    place, agent, guest = find_path("dropped"), workloads.node.agent, workloads.node.guest
    claim = policy.claim("dropped")
    pod = workloads.start_pod(Use(claim.name))
    workloads.run_in(pod, "echo precious > /data/file; sync /data/file")
    container = find_container(workloads.api.read("Pod", pod))
    agent.kill()
    guest.run(["systemctl", "restart", KUBELET], timeout_s=WAIT_S)
    wait_until(agent.read_node, "the agent was to be back", WAIT_S)
    policy.write()
    status = agent.wait_condition(volume_id, "Refused", "NotInPolicy")
    assert claim.name in status["message"]
    said = workloads.run_in(pod, "cat /data/file; echo more > /data/more; cat /data/more")
    assert said == "precious\nmore\n"
    assert find_container(workloads.api.read("Pod", pod)) == container
    late = workloads.add_pod(Use(claim.name))
    wait_told(workloads, late, "FailedMount", "'dropped'")
    workloads.end_pod(pod)
    wait_views(workloads, claim, 0)
    agent.wait_condition(volume_id, "Unmanaged", "NotInPolicy")
    assert guest.get(f"{place}/more") == b"more\n"
