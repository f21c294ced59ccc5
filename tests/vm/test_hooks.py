"""Hooks in units of their own, by a real systemd, and what the agent's own unit can reach: nothing."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from agent.report.hook_call import HOOK_TIMEOUT_S
from tests.vm.guest_agent import UNIT, WAIT_S, GuestAgent
from tests.vm.test_main_job import SMALL
from tests.vm.volumes import claim, name_volume

HOOKS = "/etc/ebs-agent/hooks.d"
LOOK = """#!/usr/bin/env python3
import os, socket, subprocess
with socket.create_connection(("127.0.0.1", 9842), 60) as reached, open("/run/hook-looked.new", "w") as said:
    print(open("/proc/self/cgroup").read().strip(), file=said)
    print(os.environ["EBS_AGENT_VOLUME_ID"], os.path.ismount(os.environ["EBS_AGENT_PATH"]), file=said)
subprocess.Popen(["sleep", "6000"], start_new_session=True)
os.rename("/run/hook-looked.new", "/run/hook-looked")
"""
"""Reaches the network, sees what the agent has mounted, and leaves a program behind."""
OTHERS = {
    "20-flood": "#!/bin/sh\nhead -c 50000000 /dev/zero | tr '\\0' '\\n'; echo no room >&2; exit 3\n",
    "30-kill": "#!/bin/sh\nkill -9 $PPID\n",
    "40-hang": "#!/bin/sh\ntrap '' TERM\nsetsid sleep 6001 &\nwhile :; do sleep 1; done\n",
}
REACH = """
import socket
for family in (socket.AF_INET, socket.AF_INET6, socket.AF_PACKET):
    try:
        socket.socket(family)
    except OSError as error:
        print(error.errno)
"""


@pytest.fixture
def hooks(agent: GuestAgent) -> Iterator[None]:
    """Have hooks of every kind in place."""
    for name, text in {"10-look": LOOK, **OTHERS}.items():
        agent.guest.put(f"{HOOKS}/{name}", text.encode(), mode=0o755)
    yield
    agent.guest.shell(f"rm -rf {HOOKS} /run/hook-looked")


@pytest.mark.usefixtures("hooks")
def test_hooks_have_units_of_their_own(agent: GuestAgent) -> None:
    """A hook reaches the network; one that floods, hangs or ends its process is told, and nothing is left.

    The volume is ready all the while, and where a hook's unit cannot be started that is told too.
    """
    guest, volume = agent.guest, name_volume()
    agent.write_policy(claim(volume, "ext4"))
    agent.reload()
    guest.nvmet.attach(volume, SMALL["ext4"])
    agent.wait_condition(volume, "Ready")
    guest.wait_until(["test", "-e", "/run/hook-looked"], timeout_s=WAIT_S)
    group, told = guest.get("/run/hook-looked").decode().splitlines()
    assert group.startswith("0::/system.slice/ebs-agent-hook@")
    assert told == f"{volume} True"
    failed = wait_failures(agent, 3)
    assert [each["hook"] for each in failed] == list(OTHERS)
    errors = [each["error"] for each in failed]
    assert errors[0] == "20-flood ended with 3: no room"
    assert errors[1].startswith("How 30-kill ended is not known: ")
    assert errors[2] == f"40-hang did not end within {HOOK_TIMEOUT_S:g} s and was ended."
    guest.shell("while pgrep -f 'sleep 600[01]'; do sleep 0.2; done", timeout_s=WAIT_S)
    agent.wait_condition(volume, "Ready")

    guest.shell(f"systemctl stop ebs-agent-hook.socket; rm -f {HOOKS}/[2-4]*")
    guest.nvmet.disconnect(volume)
    lost = wait_failures(agent, 4)[-1]
    assert (lost["hook"], lost["told"]) == ("10-look", "lost")
    assert "ebs-agent-hook.socket does not listen" in lost["error"]
    guest.run(["systemctl", "start", "ebs-agent-hook.socket"])


def wait_failures(agent: GuestAgent, number: int) -> list[dict[str, str]]:
    """Return what was told of hooks that failed, once it is so many."""
    end_at = time.monotonic() + WAIT_S
    while len(failed := agent.read_events("hook.failed")) < number:
        assert time.monotonic() < end_at, failed
        time.sleep(1)
    return failed


def test_the_agent_s_own_unit_reaches_nobody(agent: GuestAgent) -> None:
    """What runs with the settings of its unit opens no network socket, though HTTP is answered."""
    guest = agent.guest
    guest.put("/run/reach.py", REACH.encode())
    guest.shell(
        "mkdir -p /run/systemd/system/reach.service.d;"
        " sed -E '/^(Exec|Type|Watchdog|Restart|NotifyAccess|.*Directory)/d'"
        f" /etc/systemd/system/{UNIT}"
        " > /run/systemd/system/reach.service;"
        " printf '[Service]\\nType=oneshot\\nExecStart=/usr/bin/python3 -I /run/reach.py\\n"
        "StandardOutput=file:/run/reached\\n' > /run/systemd/system/reach.service.d/reach.conf;"
        " systemctl daemon-reload; systemctl start reach.service",
        timeout_s=WAIT_S,
    )
    assert guest.get("/run/reached").split() == [b"97", b"97", b"97"]
    ask = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:9842/livez').status)"
    assert guest.run(["python3", "-I", "-c", ask], timeout_s=WAIT_S).stdout == b"200\n"
