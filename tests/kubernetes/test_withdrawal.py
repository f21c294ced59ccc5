"""An agent that leaves a node with pods, and comes back: they run on, and their volumes are its own again."""

from __future__ import annotations

from dataclasses import dataclass

import yaml

from tests.kubernetes.api import WAIT_S
from tests.kubernetes.control_plane import NODE_NAME
from tests.kubernetes.drop_in import change_csi, is_registered, list_drivers
from tests.kubernetes.manifests import DRIVER, POLICY_DRIVER, Use
from tests.kubernetes.node import KUBELET_ROOT, KubernetesNode
from tests.kubernetes.workloads import Claim, Workloads, find_container
from tests.vm.guest_agent import POLICY
from tests.waiting import wait_until

OURS = {DRIVER, POLICY_DRIVER}
FIND_SOCKETS = 'find "$1/" -name "*.sock" -path "*hyperpod-agent*"'


@dataclass(frozen=True)
class User:
    """A pod with a volume, and how it was before the agent left."""

    pod: str
    claim: Claim
    container: str
    mounts: list[str]


def start_user(workloads: Workloads) -> User:
    """Have a pod with a volume of its own, which it has written to."""
    claim = workloads.add_volume()
    pod = workloads.start_pod(Use(claim.name))
    workloads.run_in(pod, "echo precious > /data/file; sync /data/file")
    return User(pod, claim, find_container(workloads.api.read("Pod", pod)), workloads.find_mounts(claim))


def check_undisturbed(workloads: Workloads, user: User) -> None:
    """Check that the pod runs as before, and reads and writes its volume."""
    assert find_container(workloads.api.read("Pod", user.pod)) == user.container
    assert workloads.find_mounts(user.claim)[:2] == user.mounts
    said = workloads.run_in(
        user.pod, "cat /data/file; echo more > /data/more; sync /data/more; cat /data/more"
    )
    assert said == "precious\nmore\n"


def wait_withdrawn(node: KubernetesNode) -> None:
    """Wait until kubelet has let go of all that the agent serves, whose sockets are gone."""
    node.api.wait(
        "CSINode",
        NODE_NAME,
        lambda it: OURS.isdisjoint(list_drivers(it)),
        "was to have no driver of the agent",
    )
    assert node.guest.shell(FIND_SOCKETS, KUBELET_ROOT) == ""


def wait_back(node: KubernetesNode) -> None:
    """Wait until kubelet takes the agent for all that it serves."""
    wait_until(lambda: is_registered(node), "kubelet was to take the agent again", WAIT_S)
    assert set(list_drivers(node.api.read("CSINode", NODE_NAME))) >= OURS


def wait_without_driver(workloads: Workloads, pod: str) -> None:
    """Wait until a pod is told that the node has no such driver."""

    def is_told() -> bool:
        words = f"driver name {DRIVER} not found"
        return any(words in told for told in workloads.list_events(pod))

    wait_until(is_told, f"{pod} was to be told that there is no driver", WAIT_S)


def test_agent_is_uninstalled_and_installed_again(workloads: Workloads) -> None:
    """A pod runs on without the agent, which serves its volume to another one once it is back."""
    node = workloads.node
    user = start_user(workloads)
    status, said = node.hyperpod.try_installed("uninstall.sh")
    assert status != 0
    assert f"{user.claim.volume_id} ({user.claim.name})" in said
    assert "drain the node first" in said
    assert set(list_drivers(node.api.read("CSINode", NODE_NAME))) >= OURS
    check_undisturbed(workloads, user)

    node.hyperpod.run_installed("uninstall.sh", "--force")
    wait_withdrawn(node)
    check_undisturbed(workloads, user)

    node.install_agent()
    wait_back(node)
    assert node.agent.wait_condition(user.claim.volume_id, "Ready")["path"] == user.mounts[0]
    another = workloads.start_pod(Use(user.claim.name))
    check_undisturbed(workloads, user)
    assert workloads.run_in(another, "cat /data/file /data/more") == "precious\nmore\n"
    for pod in (user.pod, another):
        workloads.end_pod(pod)
    workloads.wait_unstaged(user.claim)
    formatted = [event["volume_id"] for event in node.agent.read_events("volume.formatted")]
    assert formatted.count(user.claim.volume_id) == 1


def test_face_is_switched_off_and_on(workloads: Workloads) -> None:
    """Without it a pod runs on and a pod that ends waits; with it again both are served as before."""
    node = workloads.node
    staying, ending = start_user(workloads), start_user(workloads)
    policy = yaml.safe_load(node.guest.get(POLICY))
    policy["agent"]["csi"] = {"enabled": False}
    node.guest.put(POLICY, yaml.safe_dump(policy).encode(), mode=0o600)
    node.agent.reload()
    assert is_registered(node), "what is served counts from the start on"
    try:
        change_csi(node, enabled=False)
        wait_withdrawn(node)
        for user in (staying, ending):
            check_undisturbed(workloads, user)
        workloads.api.delete("Pod", ending.pod)
        waiting = workloads.add_pod(Use(staying.claim.name))
        wait_without_driver(workloads, waiting)
        for user in (staying, ending):
            node.agent.wait_condition(user.claim.volume_id, "Unmanaged", "ManagedByCsi")
        assert workloads.find_mounts(ending.claim) == ending.mounts
    finally:
        change_csi(node)
    wait_back(node)
    workloads.api.wait_gone("Pod", ending.pod)
    workloads.wait_unstaged(ending.claim)
    workloads.wait_running(waiting)
    check_undisturbed(workloads, staying)
    assert workloads.run_in(waiting, "cat /data/file /data/more") == "precious\nmore\n"
    for pod in (staying.pod, waiting):
        workloads.end_pod(pod)
    workloads.wait_unstaged(staying.claim)
