"""What tests of the installation share: how a bare node is booted, and what works once it is installed."""

from __future__ import annotations

from collections.abc import Callable

from tests.vm.guest import Guest, GuestOptions
from tests.vm.guest_agent import UNIT
from tests.vm.hyperpod_node import HyperPodNode

BootGuest = Callable[[GuestOptions], Guest]

SIZE_BYTES = 320 << 20
"""What every filesystem fits in; all of a blank volume is read before it is formatted."""
CHECKPOINTS = "vol-0123456789abcdef0"
FIRST_INSTANCE = "i-0123456789abcdef0"
TARGET = "ebs-volumes.target"
LONG_S = 300.0
# As on HyperPod's images: with the kernel's default every volume is Degraded.
BARE = GuestOptions(kernel_args=("nvme_core.io_timeout=4294967295",))


def check_in_use(node: HyperPodNode, *volumes: str) -> None:
    """Check that the agent runs, the target is reached and these volumes are mounted where they say."""
    assert node.is_active(UNIT)
    node.guest.wait_until(["systemctl", "is-active", TARGET], timeout_s=LONG_S)
    for volume in volumes:
        status = node.agent.wait_condition(volume, "Ready")
        assert node.guest.nvmet.find_device(volume) == status["device"]
        assert (
            node.guest.shell('findmnt --noheadings --output SOURCE --mountpoint "$1"', status["path"]).strip()
            == status["device"]
        )


_OF_THE_SAME_USER = {"cloud": ["ebs-agent-metadata@"], "mqtt": [], "web": ["ebs-agent-listen@"]}
"""Units that ask something of the network for a moment, as the user of a face."""


def check_faces(node: HyperPodNode, *faces: str, in_units: bool = True) -> None:
    """Check that what speaks with strangers does its work as users of its own, and in units of its own."""
    ask = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:9842/livez').status)"
    assert node.guest.run(["python3", "-I", "-c", ask], timeout_s=LONG_S).stdout == b"200\n"
    for face in faces:
        node.guest.wait_until(["pgrep", "--uid", f"ebs-agent-{face}"], timeout_s=LONG_S)
        groups = node.guest.shell(
            'for pid in $(pgrep --uid "$1"); do cat "/proc/$pid/cgroup"; done', f"ebs-agent-{face}"
        )
        unit = f"ebs-agent-{face}@" if in_units else UNIT
        units = [f"0::/system.slice/{unit}", *(f"0::/system.slice/{one}" for one in _OF_THE_SAME_USER[face])]
        assert [group for group in groups.splitlines() if group.startswith(units[0])]
        assert all(group.startswith(tuple(units)) for group in groups.splitlines()), groups
