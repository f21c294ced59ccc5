"""What befalls a node with pods: restarts, kills, a loss of power, a volume pulled, a state removed."""

from __future__ import annotations

from tests.kubernetes.api import Object
from tests.kubernetes.control_plane import NODE_NAME
from tests.kubernetes.drop_in import is_registered
from tests.kubernetes.manifests import Use
from tests.kubernetes.node import KUBELET, MOVED_ROOT
from tests.kubernetes.workloads import Workloads, choose_volume_id, find_container
from tests.vm.guest_agent import UNIT
from tests.waiting import wait_until

LONG_S = 300.0
REMOVE_STATE = 'find "$1" -xdev -type f -delete'
"""Removes what kubelet knows, as a script that clears its root does, and nothing in any volume."""


def test_agent_is_restarted_while_pods_run(workloads: Workloads) -> None:
    """The driver stays known over a restart, pods run on, and new ones get their volumes."""
    claim, another = workloads.add_volume(), workloads.add_volume()
    pod = workloads.start_pod(Use(claim.name))
    before = workloads.api.read("CSINode", NODE_NAME)["metadata"]["resourceVersion"]
    workloads.node.guest.run(["systemctl", "restart", UNIT], timeout_s=LONG_S)
    workloads.run_in(pod, "echo precious > /data/file")
    workloads.run_pod("touch /data/file", Use(another.name))
    assert workloads.api.read("CSINode", NODE_NAME)["metadata"]["resourceVersion"] == before
    assert is_registered(workloads.node), "though kubelet has told this agent nothing"
    workloads.end_pod(pod)
    workloads.wait_unstaged(claim)


def test_agent_is_killed_in_the_middle_of_mkfs(workloads: Workloads) -> None:
    """What was half formatted when the agent died the next one formats to the end, for the same pod."""
    volume_id, size_bytes = choose_volume_id(), 256 << 20
    ebs = workloads.node.ebs
    ebs.attach_stalling(volume_id, size_bytes, "write", after=3)
    claim = workloads.add_claim(volume_id, size_bytes)
    pod = workloads.add_pod(Use(claim.name))
    ebs.wait_stalled(volume_id)
    workloads.node.agent.kill()
    ebs.call("resume", volume=volume_id)
    workloads.wait_running(pod)
    workloads.run_in(pod, "echo precious > /data/file")
    workloads.end_pod(pod)
    workloads.run_pod('test "$(cat /data/file)" = precious', Use(claim.name))


def test_kubelet_is_restarted(workloads: Workloads) -> None:
    """A kubelet that starts anew publishes again what is published, and pods run on in their containers."""
    claim = workloads.add_volume()
    pod = workloads.start_pod(Use(claim.name))
    container = find_container(workloads.api.read("Pod", pod))
    workloads.run_in(pod, "echo precious > /data/file")
    mounts = workloads.find_mounts(claim)
    workloads.node.guest.run(["systemctl", "restart", KUBELET], timeout_s=LONG_S)
    workloads.run_pod('test "$(cat /data/file)" = precious', Use(claim.name))
    assert find_container(workloads.api.read("Pod", pod)) == container
    wait_until(lambda: workloads.find_mounts(claim) == mounts, "the mounts were to be as before", LONG_S)
    workloads.end_pod(pod)
    workloads.wait_unstaged(claim)


def test_power_is_lost(workloads: Workloads) -> None:
    """After a hard reboot pods run again with what they had synced, though their volume comes late."""
    claim = workloads.add_volume()
    pod = workloads.start_pod(Use(claim.name), restart="Always")
    workloads.run_in(pod, "echo precious > /data/file; sync")
    container = find_container(workloads.api.read("Pod", pod))
    guest, ebs = workloads.node.guest, workloads.node.ebs
    guest.run(["sync"])
    guest.kill()
    guest.start()
    ebs.start()
    ebs.connect(claim.volume_id)
    workloads.api.wait(
        "Pod", pod, lambda found: has_run_since(found, container), "was to run again", 2 * LONG_S
    )
    assert workloads.run_in(pod, "cat /data/file") == "precious\n"


def test_volume_is_pulled_from_under_a_pod(workloads: Workloads) -> None:
    """A pod whose volume is gone can be ended, and the next one has the data when the volume is back."""
    claim = workloads.add_volume()
    pod = workloads.start_pod(Use(claim.name))
    workloads.run_in(pod, "echo precious > /data/file; sync")
    workloads.node.ebs.pull(claim.volume_id)
    workloads.end_pod(pod)
    workloads.wait_unstaged(claim)
    workloads.node.ebs.connect(claim.volume_id)
    workloads.run_pod('test "$(cat /data/file)" = precious', Use(claim.name))


def test_kubelet_forgets_everything(workloads: Workloads) -> None:
    """A kubelet without its state unstages nothing, as is told; a new pod gets the volume and its data."""
    claim = workloads.add_volume()
    pod = workloads.start_pod(Use(claim.name))
    workloads.run_in(pod, "echo precious > /data/file; sync")
    guest = workloads.node.guest
    guest.run(["systemctl", "stop", KUBELET], timeout_s=LONG_S)
    guest.shell(REMOVE_STATE, MOVED_ROOT)
    # Before kubelet has it staged anew, for the pod that the cluster knows of.
    workloads.node.agent.wait_condition(claim.volume_id, "Degraded", "OrphanedStaging")
    assert workloads.find_mounts(claim), "nothing is taken down by guess"
    guest.run(["systemctl", "start", KUBELET], timeout_s=LONG_S)
    workloads.node.wait_ready()
    workloads.node.agent.wait_condition(claim.volume_id, "Ready")
    workloads.run_pod('test "$(cat /data/file)" = precious', Use(claim.name))
    workloads.end_pod(pod)


def has_run_since(pod: Object, container: str) -> bool:
    """Tell whether a pod runs in another container than this one."""
    statuses = pod["status"].get("containerStatuses") or ()
    return any("running" in each["state"] and each["containerID"] != container for each in statuses)
