"""Volumes of the policy in pods: each sees what its node has, and nothing is taken from under it."""

from __future__ import annotations

import shutil
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from grpclib.const import Status

from tests.agent_process import AgentProcess, Scratch
from tests.corpus.tools import run
from tests.csi.kubelet import Kubelet, running_kubelet
from tests.csi.places import Claim
from tests.loop.csi.conftest import serve_kubelet
from tests.loop.csi.refusals import refuse
from tests.loop.csi.views import find_mount, find_mounts
from tests.waiting import wait_until

DRIVER = "policy.ebs.csi.hyperpod-agent"
VOLUME = "vol-0123456789abcdef0"
OTHER = "vol-0123456789abcdef1"
CLAIM = Claim("cache", access="MULTI_NODE_MULTI_WRITER", fs_type="")
READER = Claim("cache", access="MULTI_NODE_READER_ONLY", fs_type="")
RAW = Claim("cache", access="MULTI_NODE_MULTI_WRITER", is_block=True)


def entry(scratch: Scratch, name: str = "cache", volume: str = VOLUME, **fields: Any) -> dict[str, Any]:
    """Return an entry with a filesystem, as a policy has it."""
    return {
        "name": name,
        "match": {"volume_id": volume},
        "filesystem": {"type": "ext4", "format": "if-blank"},
        "mount": {"path": str(scratch.data / name)},
        **fields,
    }


def raw_entry() -> dict[str, Any]:
    return {"name": "cache", "match": {"volume_id": VOLUME}, "block": {}}


def write(scratch: Scratch, *volumes: dict[str, Any]) -> None:
    """Write a policy with these entries, which says no more of kubelet than where it is."""
    scratch.write_policy(*volumes, csi=serve_kubelet(scratch))


@contextmanager
def serving(scratch: Scratch, agent: AgentProcess, *volumes: dict[str, Any]) -> Iterator[Kubelet]:
    """Start the agent with these entries, beside a kubelet that has its second driver registered."""
    write(scratch, *volumes)
    with ExitStack() as stack:
        kubelet = stack.enter_context(running_kubelet(scratch.kubelet, DRIVER))
        agent.start()
        kubelet.wait_registered()
        yield kubelet


@pytest.fixture
def kubelet(scratch: Scratch, agent: AgentProcess) -> Iterator[Kubelet]:
    """Give a kubelet, with the entry ``cache`` in the policy."""
    with serving(scratch, agent, entry(scratch)) as kubelet:
        yield kubelet


def test_pods_share_the_nodes_volume(scratch: Scratch, agent: AgentProcess, kubelet: Kubelet) -> None:
    """Two see one filesystem, one of them only reads; they are measured, and leave it as it was."""
    info = kubelet.wait_registered()
    assert info.node_id
    assert not info.max_volumes_per_node
    assert not info.accessible_topology.segments
    scratch.add_volume(VOLUME)
    first, second = kubelet.publish(CLAIM, "first"), kubelet.publish(READER, "second")
    place = scratch.data / "cache"
    assert find_mount(first).device_number == find_mount(place).device_number
    (first / "file").write_text("shared")
    assert (second / "file").read_text() == (place / "file").read_text() == "shared"
    with pytest.raises(OSError, match="Read-only"):
        (second / "other").touch()
    assert kubelet.measure(CLAIM, "first")["BYTES"].total == kubelet.measure(READER, "second")["BYTES"].total
    agent.kill()
    agent.start()
    kubelet.wait_registered()
    agent.wait_condition(VOLUME, "Ready")
    kubelet.publish(CLAIM, "first")
    assert len(find_mounts(first)) == 1
    for claim, pod in ((CLAIM, "first"), (READER, "second"), (CLAIM, "first")):
        kubelet.unpublish(claim, pod)
    assert (place / "file").read_text() == "shared"
    assert agent.wait_condition(VOLUME, "Ready")
    assert not agent.read_events("volume.unmounted")


def test_raw_volume_is_a_device_in_the_pod(scratch: Scratch, agent: AgentProcess) -> None:
    """Its node is shown, the volume as ready as before; it is no filesystem, and not made one under pods."""
    scratch.add_volume(VOLUME)
    with serving(scratch, agent, raw_entry()) as kubelet:
        assert "Block" in refuse(kubelet.publish, CLAIM).message
        target = kubelet.publish(RAW)
        assert stat.S_ISBLK(target.stat().st_mode)
        assert target.stat().st_rdev == Path(agent.wait_device(VOLUME)).stat().st_rdev
        agent.reload()
        agent.wait_condition(VOLUME, "Ready")
        assert kubelet.measure(RAW)["BYTES"].total == scratch.image(VOLUME).stat().st_size
        # To be a filesystem now, it is not taken from the pod, let alone formatted.
        write(scratch, entry(scratch))
        agent.reload()
        agent.wait_condition(VOLUME, "Refused")
        assert not agent.read_events("volume.formatted")
        kubelet.unpublish(RAW)
        agent.wait_condition(VOLUME, "Ready")


def test_pod_waits_for_a_volume_that_comes(scratch: Scratch, kubelet: Kubelet) -> None:
    """The call is answered once the volume is attached, formatted and mounted."""
    call = kubelet.begin(kubelet.node.publish, CLAIM, "pod")
    scratch.add_volume(VOLUME)
    assert find_mounts(call.result())
    kubelet.unpublish(CLAIM)


def test_pod_that_leaves_before_the_volume_comes_gets_nothing(
    scratch: Scratch, agent: AgentProcess, kubelet: Kubelet
) -> None:
    """What is not wanted any more is not mounted later, in a directory that kubelet has removed."""
    call = kubelet.begin(kubelet.node.publish, CLAIM, "pod")
    wait_until(kubelet.places.target(CLAIM, "pod").parent.exists, "it is asked for")
    kubelet.unpublish(CLAIM)
    scratch.add_volume(VOLUME)
    agent.wait_condition(VOLUME, "Ready")
    assert refuse(call.result).status is Status.ABORTED
    assert find_mounts(kubelet.places.target(CLAIM, "pod")) == []


def test_entry_that_there_is_not_is_told_with_those_there_are(scratch: Scratch, kubelet: Kubelet) -> None:
    """Nothing will come of asking again; and a volume's ID is no entry."""
    refusal = refuse(kubelet.publish, Claim("datasets", fs_type=""))
    assert refusal.status is Status.NOT_FOUND
    assert "cache" in refusal.message
    refusal = refuse(kubelet.publish, Claim(VOLUME, fs_type=""))
    assert refusal.status is Status.INVALID_ARGUMENT
    assert not list((scratch.kubelet / "pods").rglob("mount"))


def test_pods_keep_what_the_policy_gives_up(scratch: Scratch, agent: AgentProcess, kubelet: Kubelet) -> None:
    """An entry that goes is told, a release is refused; when the last pod has gone the volume is free."""
    scratch.add_volume(VOLUME)
    target = kubelet.publish(CLAIM)
    (target / "file").write_text("kept")
    write(scratch)
    agent.reload()
    status = agent.wait_condition(VOLUME, "Refused", "NotInPolicy")
    assert str(target) in status["message"]
    assert (target / "file").read_text() == "kept"
    assert refuse(kubelet.publish, CLAIM, "late").status is Status.NOT_FOUND
    kubelet.unpublish(CLAIM)
    agent.wait_condition(VOLUME, "Unmanaged")
    assert find_mounts(scratch.data / "cache")


def test_entry_that_means_another_volume_does_not_show_it_to_who_has_the_first(
    scratch: Scratch, agent: AgentProcess, kubelet: Kubelet
) -> None:
    """A running pod keeps its volume, and is never shown a part of both; a new one gets the other."""
    scratch.add_volume(VOLUME)
    old = kubelet.publish(CLAIM, "old")
    (old / "file").write_text("old")
    scratch.add_volume(OTHER)
    write(scratch, entry(scratch, "second", OTHER) | {"name": "cache"})
    agent.reload()
    agent.wait_condition(OTHER, "Ready")
    assert kubelet.publish(CLAIM, "old") == old  # as kubelet asks when it was restarted
    new = kubelet.publish(CLAIM, "new")
    assert not (new / "file").exists()
    assert (old / "file").read_text() == "old"
    assert find_mount(old).device_number != find_mount(new).device_number
    run("umount", str(old))
    refusal = refuse(kubelet.publish, CLAIM, "old")
    assert refusal.is_final
    assert VOLUME in refusal.message
    kubelet.unpublish(CLAIM, "old")
    kubelet.unpublish(CLAIM, "new")


def test_volume_that_is_covered_is_not_shown(scratch: Scratch, agent: AgentProcess, kubelet: Kubelet) -> None:
    """What lies over it is nobody's wish to see; asked again once that is gone, the pod sees the volume."""
    scratch.add_volume(VOLUME)
    agent.wait_condition(VOLUME, "Ready")
    place = scratch.data / "cache"
    run("mount", "-t", "tmpfs", "cover", str(place))
    try:
        agent.reload()
        agent.wait_condition(VOLUME, "Refused", "PathInUse")
        refusal = refuse(kubelet.publish, CLAIM)
        assert refusal.is_final
        assert "tmpfs" in refusal.message
    finally:
        run("umount", str(place))
    agent.reload()
    agent.wait_condition(VOLUME, "Ready")
    assert find_mount(kubelet.publish(CLAIM)).fs_type == "ext4"
    kubelet.unpublish(CLAIM)


def test_volume_unmounted_under_pods_is_left_to_them(
    scratch: Scratch, agent: AgentProcess, kubelet: Kubelet
) -> None:
    """It is neither checked nor moved while pods have it, and mounted again when they are gone."""
    scratch.add_volume(VOLUME)
    target = kubelet.publish(CLAIM)
    place = scratch.data / "cache"
    run("umount", str(place))
    agent.reload()
    agent.wait_condition(VOLUME, "Refused")
    assert find_mounts(place) == []
    assert find_mounts(target)
    assert refuse(kubelet.publish, CLAIM, "late").message
    kubelet.unpublish(CLAIM)
    agent.wait_condition(VOLUME, "Ready")
    assert find_mounts(place)


def test_read_only_entry_is_for_readers(scratch: Scratch, agent: AgentProcess) -> None:
    """Who would write is refused with the way out; who reads is served, and the flags of its view hold."""
    scratch.add_volume(VOLUME)
    write(scratch, entry(scratch))
    agent.start()
    agent.wait_condition(VOLUME, "Ready")
    agent.stop()
    place = {"path": str(scratch.data / "cache"), "options": ["ro"]}
    with serving(scratch, agent, entry(scratch, mount=place)) as kubelet:
        agent.wait_condition(VOLUME, "Ready")
        assert "read-only" in refuse(kubelet.publish, CLAIM).message
        claim = Claim("cache", access="MULTI_NODE_READER_ONLY", fs_type="", mount_options=("noexec",))
        assert {"ro", "noexec"} <= find_mount(kubelet.publish(claim)).options
        assert (
            "data=ordered"
            in refuse(
                kubelet.publish, Claim("cache", fs_type="", mount_options=("data=ordered",)), "other"
            ).message
        )
        kubelet.unpublish(claim)


def test_pod_is_removed_though_note_and_volume_are_gone(
    scratch: Scratch, agent: AgentProcess, kubelet: Kubelet
) -> None:
    """What is left of a volume that vanished goes with the pod; and a call may come again without a note."""
    image = scratch.add_volume(VOLUME)
    target = kubelet.publish(CLAIM)
    image.unlink()
    agent.wait_condition(VOLUME, "Lost")
    kubelet.unpublish(CLAIM)
    assert not target.exists()
    agent.stop()
    shutil.rmtree(scratch.paths.state / "published", ignore_errors=True)
    agent.start()
    kubelet.wait_registered()
    kubelet.unpublish(CLAIM)


def test_driver_that_is_switched_off_is_let_go_of(
    scratch: Scratch, agent: AgentProcess, kubelet: Kubelet
) -> None:
    """Without it kubelet keeps the agent's other driver alone."""
    wait_until(lambda: len(kubelet.registered) == 2, "both drivers are registered")
    agent.kill()
    scratch.write_policy(csi={**serve_kubelet(scratch), "policy_volumes": False})
    agent.start()
    wait_until(lambda: list(kubelet.registered) == ["ebs.csi.hyperpod-agent"], "it is deregistered")
