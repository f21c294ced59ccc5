"""Upgrades of an installed node, and its removal, while a program writes on."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.vm.bundles import make_later_folder
from tests.vm.guest.agent_disk import GUEST_PYTHON
from tests.vm.guest_agent import make_entry
from tests.vm.hyperpod_node import HOME, HyperPodNode
from tests.vm.installed_node import (
    BARE,
    CHECKPOINTS,
    FIRST_INSTANCE,
    SIZE_BYTES,
    BootGuest,
    check_faces,
    check_in_use,
)


@pytest.mark.timeout(2700)
def test_upgrades_keep_every_mount(boot_guest: BootGuest, tmp_path: Path) -> None:
    """A program writes on through two upgrades, one that does not start, a way back, and the removal.

    One of the releases knows no units for what speaks with strangers: it is upgraded, and gone back to.
    """
    node = HyperPodNode(boot_guest(BARE))
    guest = node.guest
    node.join_cluster(FIRST_INSTANCE)
    guest.nvmet.create(CHECKPOINTS, SIZE_BYTES)
    node.set_hardware([CHECKPOINTS])
    node.start_hardware()
    entries = [make_entry(CHECKPOINTS, "ext4", "/data/checkpoints", required=True)]

    def stage(version: str, *, is_broken: bool = False, has_units: bool = True) -> None:
        made = make_later_folder(
            tmp_path / version, version, GUEST_PYTHON, is_broken=is_broken, has_units=has_units
        )
        node.stage(made, entries)

    stage("1.0.0")
    node.install()
    check_in_use(node, CHECKPOINTS)
    mount = node.find_mount("/data/checkpoints")
    writer = guest.start_command(
        ["sh", "-euc", "exec > /data/checkpoints/file; while :; do echo written; sync -f .; sleep 0.2; done"],
        cwd="/data/checkpoints",
    )

    def check(version: str, *releases: str) -> None:
        assert node.find_release() == node.read_version() == version
        assert node.list_releases() == sorted(releases)
        assert node.find_mount("/data/checkpoints") == mount
        check_in_use(node, CHECKPOINTS)
        assert writer.is_running()
        check_faces(node, "web", in_units=version != "1.1.0")

    # One that hangs ends with the agent all the same, which may signal no other user's process.
    check_faces(node, "web")
    stuck = guest.shell("pkill --signal STOP --uid ebs-agent-web; pgrep --uid ebs-agent-web").split()
    assert stuck
    stage("1.1.0", has_units=False)
    node.install()
    check("1.1.0", "1.0.0", "1.1.0")
    assert not set(stuck) & set(guest.shell("pgrep --uid ebs-agent-web || :").split())
    assert "unit.not_killed" not in guest.shell("journalctl --no-pager --unit=ebs-agent")
    stage("1.2.0")
    node.install()
    check("1.2.0", "1.1.0", "1.2.0")
    stage("1.3.0", is_broken=True)
    output = node.install()
    assert "release 1.3.0 does not become ready: going back to 1.2.0" in output
    check("1.2.0", "1.1.0", "1.2.0", "1.3.0")
    node.run_installed("rollback.sh", "1.1.0")
    check("1.1.0", "1.1.0", "1.2.0", "1.3.0")

    output = node.run_installed("uninstall.sh")
    assert f"/data/checkpoints  ({CHECKPOINTS}, {guest.nvmet.find_device(CHECKPOINTS)})" in output
    assert "/etc/ebs-agent (policy, hooks), /var/lib/ebs-agent (records)" in output
    assert node.find_mount("/data/checkpoints") == mount
    assert writer.is_running()
    left = guest.shell(
        f"ls -d {HOME} /usr/local/bin/ebs-agent /etc/systemd/system/ebs-* /etc/ebs-agent 2> /dev/null || :"
    )
    assert left.split() == ["/etc/ebs-agent"]
    guest.shell("! systemctl is-active ebs-agent.service")
