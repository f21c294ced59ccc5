"""A boot, as systemd sees it: what waits for volumes, and what must not."""

from __future__ import annotations

from tests.vm.guest import Guest
from tests.vm.guest.agent_disk import REPOSITORY
from tests.vm.guest_agent import UNIT, WAIT_S, GuestAgent
from tests.vm.volumes import claim, name_volume

TARGET = "ebs-volumes.target"
READY = "ebs-volumes-ready.service"
HELD = "held.service"
HELD_UNIT = "[Service]\nExecStart=/bin/sleep infinity\n[Install]\nWantedBy=multi-user.target\n"
BRIEF_WAIT = "[Service]\nEnvironment=EBS_AGENT_WAIT_S=3\n"


def test_boot_without_a_required_volume_ends_and_the_target_follows(fresh_guest: Guest) -> None:
    """A missing required volume delays a boot as long as is allowed; when it comes, the target is reached."""
    guest, agent = fresh_guest, GuestAgent(fresh_guest).install()
    volume = name_volume()
    agent.write_policy(claim(volume, required=True))
    wait_for_volumes = (REPOSITORY / "systemd" / "wait-for-volumes.conf").read_bytes()
    guest.put(f"/etc/systemd/system/{HELD}", HELD_UNIT.encode())
    guest.put(f"/etc/systemd/system/{HELD}.d/50-ebs-volumes.conf", wait_for_volumes)
    guest.put(f"/etc/systemd/system/{READY}.d/brief.conf", BRIEF_WAIT.encode())
    guest.run(["systemctl", "enable", UNIT, READY, TARGET, HELD])
    guest.run(["sync"])
    guest.reboot()  # which is over when systemd has no job left
    assert read_states(guest, "multi-user.target", HELD, TARGET) == ["active", "active", "inactive"]
    guest.nvmet.attach(volume, 64 << 20)
    agent.wait_condition(volume, "Ready")
    guest.wait_until(["systemctl", "--quiet", "is-active", TARGET], timeout_s=WAIT_S)


def read_states(guest: Guest, *units: str) -> list[str]:
    """Return the state of each unit."""
    return guest.run(["systemctl", "is-active", *units], check=False).stdout.decode().split()
