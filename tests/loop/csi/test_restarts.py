"""kubelet and the agent end and begin, each at any time: neither loses the other, nor a volume."""

from __future__ import annotations

import shutil
import socket
import urllib.request
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import yaml

from agent.cli.doctor.findings import Grade
from agent.cli.doctor.installation import list_node_conditions
from tests.agent_process import AgentProcess, Scratch
from tests.csi.fd_store import FdStore
from tests.csi.kubelet import Kubelet, running_kubelet
from tests.csi.places import Claim
from tests.loop.csi.conftest import DRIVER
from tests.loop.csi.views import find_mount, find_mounts
from tests.waiting import wait_until

VOLUME = "vol-0123456789abcdef0"


def start_and_register(agent: AgentProcess, kubelet: Kubelet) -> None:
    """Start an agent after one that was killed, at whose sockets kubelet finds nobody."""
    word = f"registered {DRIVER}"
    known = kubelet.history.count(word)
    agent.start()
    wait_until(lambda: kubelet.history.count(word) > known, "it registers anew")


def list_sockets(scratch: Scratch) -> list[str]:
    return sorted(path.name for path in scratch.kubelet.rglob("*.sock"))


def test_nothing_is_below_kubelets_root_before_kubelet_is(
    scratch: Scratch, agent: AgentProcess, write_policy: Callable[..., None]
) -> None:
    """A lifecycle script moves kubelet's directory: no socket may be in its way before kubelet runs."""
    write_policy()
    agent.start()
    assert list_sockets(scratch) == []
    with running_kubelet(scratch.kubelet, DRIVER) as kubelet:
        info = kubelet.wait_registered()
        assert info.node_id
        assert kubelet.history == [f"registered {DRIVER}"]


def test_agent_that_ends_is_deregistered_and_comes_back(
    scratch: Scratch, agent: AgentProcess, kubelet: Kubelet
) -> None:
    """A stopped agent is no plugin any more; one that died leaves sockets, which the next one replaces."""
    assert agent.stop() == 0
    wait_until(lambda: not kubelet.registered, "it is deregistered")
    assert list_sockets(scratch) == []
    agent.start()
    kubelet.wait_registered()
    agent.kill()
    sockets = list_sockets(scratch)
    agent.start()
    wait_until(lambda: kubelet.history.count(f"registered {DRIVER}") == 3, "it registers again")
    assert list_sockets(scratch) == sockets == ["csi.sock", f"{DRIVER}-reg.sock"]


def test_turned_off_while_kubelet_has_a_volume_is_said(
    scratch: Scratch, agent: AgentProcess, kubelet: Kubelet
) -> None:
    """Nobody can take it back then, and it stays mounted; it is said until kubelet is served again."""
    scratch.add_volume(VOLUME)
    place = kubelet.stage(Claim(VOLUME))
    agent.stop()
    policy = scratch.paths.policy.read_text()
    scratch.write_policy()
    agent.start()
    wait_until(lambda: list(list_node_conditions(scratch.paths.socket)), "it is said")
    [finding] = list_node_conditions(scratch.paths.socket)
    assert (finding.grade, "kubelet has 1 volume of the agent" in finding.found) == (Grade.FAILURE, True)
    assert VOLUME in finding.found
    assert find_mount(place).path == str(place)
    agent.stop()
    scratch.paths.policy.write_text(policy)
    agent.start()
    kubelet.wait_registered()
    assert list(list_node_conditions(scratch.paths.socket)) == []


@pytest.mark.parametrize("end", [AgentProcess.stop, AgentProcess.kill])
def test_restart_behind_stored_sockets_is_not_noticed(
    scratch: Scratch,
    agent: AgentProcess,
    write_policy: Callable[..., None],
    end: Callable[[AgentProcess], object],
) -> None:
    """With systemd keeping the sockets kubelet sees no restart, and a call in between waits for its end."""
    write_policy()
    scratch.add_volume(VOLUME)
    store = FdStore(scratch.base / "notify")
    agent.environment["NOTIFY_SOCKET"] = str(store.path)
    agent.stored = store.stored
    with running_kubelet(scratch.kubelet, DRIVER) as kubelet:
        agent.start()
        kubelet.wait_registered()
        wait_until(lambda: len(store.stored) == 2, "both sockets are stored")
        end(agent)
        call = kubelet.begin(kubelet.node.stage, Claim(VOLUME))
        agent.start()
        assert len(find_mounts(call.result())) == 1
        assert kubelet.history == [f"registered {DRIVER}"]
    store.close()


def test_settings_that_kubelet_was_not_told_are_told(scratch: Scratch, agent: AgentProcess) -> None:
    """It asks who the node is when it registers the driver: after other settings it does so once more."""

    def start(**settings: Any) -> None:
        csi = {"enabled": True, "kubelet_root": str(scratch.kubelet), "policy_volumes": False}
        scratch.write_policy(csi={**csi, "driver": DRIVER, "attach_limit": 20, **settings})
        agent.start()

    store = FdStore(scratch.base / "notify")
    agent.environment["NOTIFY_SOCKET"] = str(store.path)
    agent.stored = store.stored
    with running_kubelet(scratch.kubelet, DRIVER) as kubelet:
        for times, (reserved, room) in enumerate([(0, 20), (3, 17), (3, 17)], start=1):
            start(reserved=reserved)
            wait_until(partial(has_room, kubelet, room), f"{room} are told")
            wait_until(lambda: has_heard(scratch, agent), "it is known")
            agent.stop()
            assert kubelet.history.count(f"registered {DRIVER}") == min(times, 2)
    store.close()


def has_room(kubelet: Kubelet, count: int) -> bool:
    """Tell whether kubelet has the driver, and takes the node to have room for so many volumes."""
    info = kubelet.registered.get(DRIVER)
    return info is not None and info.max_volumes_per_node == count


@pytest.mark.parametrize("objection", [None, "detected topology value collision: driver reported another"])
def test_what_kubelet_said_is_known_after_a_restart_behind_stored_sockets(
    scratch: Scratch, agent: AgentProcess, write_policy: Callable[..., None], objection: str | None
) -> None:
    """It says so once, and not again to an agent whose restart it does not see."""
    write_policy()
    store = FdStore(scratch.base / "notify")
    agent.environment["NOTIFY_SOCKET"] = str(store.path)
    agent.stored = store.stored
    with running_kubelet(scratch.kubelet, DRIVER) as kubelet:
        kubelet.objection = objection
        agent.start()
        wait_until(lambda: has_heard(scratch, agent), "kubelet says whether it takes the agent")
        told = [(one["reason"], one["message"], one["hint"]) for one in read_conditions(agent)]
        # The next agent is to know it without being told, by this kubelet or another.
        kubelet.stop()
        agent.stop()
        agent.start()
        wait_until(lambda: has_heard(scratch, agent), "it is known")
        assert [(one["reason"], one["message"], one["hint"]) for one in read_conditions(agent)] == told
        assert len(told) == (objection is not None)
        assert agent.read_events("kubelet.registered") == []
    store.close()


def has_heard(scratch: Scratch, agent: AgentProcess) -> bool:
    """Tell whether the agent knows what kubelet makes of it: by its figures, or by its conditions."""
    address = yaml.safe_load(scratch.paths.policy.read_text())["agent"]["http"]["listen"]
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=60) as answer:
        is_registered = b"\nebs_agent_csi_registered 1.0\n" in answer.read()
    return is_registered or bool(read_conditions(agent))


def read_conditions(agent: AgentProcess) -> list[dict[str, Any]]:
    """Return what is wrong with the node."""
    found: list[dict[str, Any]] = agent.client.status()["node_conditions"]
    return found


def test_kubelet_that_restarts_finds_agent_and_volumes(
    scratch: Scratch, agent: AgentProcess, kubelet: Kubelet
) -> None:
    """It registers the plugin that was there all along, and publishes anew what its pods have."""
    scratch.add_volume(VOLUME)
    claim = Claim(VOLUME)
    kubelet.stage(claim)
    before = find_mount(kubelet.publish(claim)).mount_id
    kubelet.stop()
    kubelet.start()
    kubelet.wait_registered()
    assert find_mount(kubelet.publish(claim)).mount_id == before
    assert agent.read_events("volume.mounted")


def test_kubelets_root_that_moves_is_found(
    scratch: Scratch, agent: AgentProcess, write_policy: Callable[..., None]
) -> None:
    """A root behind a link, which then leads elsewhere: kubelet names it unresolved, and all works."""
    write_policy()
    for name in ("first", "second"):
        (scratch.base / name).mkdir()
    scratch.kubelet.symlink_to(scratch.base / "first")
    scratch.add_volume(VOLUME)
    agent.start()
    with running_kubelet(scratch.kubelet, DRIVER) as kubelet:
        kubelet.wait_registered()
        claim = Claim(VOLUME)
        kubelet.stage(claim)
        target = kubelet.publish(claim)
        assert len(find_mounts(target.resolve())) == 1
        kubelet.unpublish(claim)
        kubelet.unstage(claim)
        kubelet.stop()
        scratch.kubelet.unlink()
        scratch.kubelet.symlink_to(scratch.base / "second")
        kubelet.start()
        kubelet.wait_registered()
        kubelet.stage(claim)
        assert len(find_mounts(kubelet.publish(claim).resolve())) == 1


def test_refused_registration_is_on_the_board(
    scratch: Scratch, agent: AgentProcess, write_policy: Callable[..., None]
) -> None:
    """Why kubelet does not take the agent is said where people look, until it does."""
    write_policy()
    with running_kubelet(scratch.kubelet, DRIVER) as kubelet:
        kubelet.objection = "detected topology value collision: driver reported something else"
        agent.start()
        [told] = wait_until(lambda: agent.client.status()["node_conditions"], "it is said")
        assert (told["reason"], told["about"]) == ("RegistrationRefused", DRIVER)
        assert "agent.csi.zone" in told["hint"]
        found = list_node_conditions(scratch.paths.socket)
        assert [(one.subject, one.grade) for one in found] == [(DRIVER, Grade.FAILURE)]
        kubelet.objection = None
        kubelet.wait_registered()
        wait_until(lambda: not agent.client.status()["node_conditions"], "it is over")


def test_what_is_in_the_way_of_the_sockets_is_on_the_board(
    scratch: Scratch, agent: AgentProcess, write_policy: Callable[..., None]
) -> None:
    """Another plugin of the name, or a root that is not there: until it is gone, and then kubelet has it."""
    write_policy()
    with running_kubelet(scratch.kubelet, DRIVER) as kubelet:
        other = scratch.kubelet / "plugins" / DRIVER
        other.mkdir(parents=True)
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(str(other / "csi.sock"))
            sock.listen()
            agent.start()
            [told] = wait_until(lambda: agent.client.status()["node_conditions"], "it is said")
            assert told["reason"] == "KubeletUnreachable"
            assert "csi.sock" in told["message"]
        kubelet.wait_registered()
        assert agent.client.status()["node_conditions"] == []


@pytest.mark.parametrize("fs_type", ["ext4", pytest.param("xfs", marks=pytest.mark.thorough)])
def test_killed_while_it_stages(
    scratch: Scratch, agent: AgentProcess, kubelet: Kubelet, fs_type: str
) -> None:
    """Whatever it had come to, asked again it ends with one filesystem and one mount."""
    claim = Claim(VOLUME, fs_type=fs_type)
    for _ in range(3):
        call = kubelet.begin(kubelet.node.stage, claim)
        if not scratch.image(VOLUME).exists():
            scratch.add_volume(VOLUME)
        wait_until(lambda: agent.status(VOLUME), "the volume was seen")
        agent.kill()
        call.exception()
        start_and_register(agent, kubelet)
    staging = kubelet.stage(claim)
    assert find_mount(staging).fs_type == fs_type
    (kubelet.publish(claim) / "file").write_text("written")


def test_staging_that_kubelet_forgot_is_told_and_left(
    scratch: Scratch, agent: AgentProcess, kubelet: Kubelet
) -> None:
    """Its note is gone, and nobody takes the volume back: the agent says so, and takes nothing down."""
    scratch.add_volume(VOLUME)
    claim = Claim(VOLUME)
    staging = kubelet.stage(claim)
    (kubelet.publish(claim) / "file").write_text("written")
    kubelet.places.note(claim, staging).unlink()
    told = agent.wait_condition(VOLUME, "Degraded", "OrphanedStaging")
    assert str(staging) in told["hint"]
    assert find_mounts(staging)
    [event] = agent.read_events("kubelet.forgot")
    assert event["volume_id"] == VOLUME
    kubelet.stage(claim)
    agent.wait_condition(VOLUME, "Ready")


def test_volumes_that_kubelet_forgot_are_taken_back_when_it_asks(
    scratch: Scratch, agent: AgentProcess, kubelet: Kubelet
) -> None:
    """An agent without its notes knows a staged volume by its mounts, and gives it back."""
    scratch.add_volume(VOLUME)
    claim = Claim(VOLUME)
    staging = kubelet.stage(claim)
    target = kubelet.publish(claim)
    (target / "file").write_text("written")
    agent.stop()
    shutil.rmtree(scratch.paths.state)
    agent.start()
    kubelet.wait_registered()
    assert len(find_mounts(target)) == 1
    kubelet.unpublish(claim)
    kubelet.unstage(claim)
    assert find_mounts(staging) == find_mounts(target) == []
    kubelet.stage(claim)
    assert (kubelet.publish(claim) / "file").read_text() == "written"
