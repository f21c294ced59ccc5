"""What the process that forks workers has of the daemon it is forked off: nothing that stays open."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import os, socket
from agent.node.isolate import messages
from agent.node.isolate.forked_zygote import fork_zygote
from agent.node.isolate.zygote_handle import ZygoteProcess

listening = socket.create_server(("127.0.0.1", 0))
for number in (3, 40):
    os.dup2(listening.fileno(), number)
kept = os.readlink("/proc/self/fd/40")
zygote = ZygoteProcess(fork_zygote())
ours, theirs = socket.socketpair()
zygote.fork(1, theirs)
worker = messages.receive(ours).decode().pid
with open(f"/proc/{worker}/status") as status:
    parent = next(line.split()[1] for line in status if line.startswith("PPid:"))
for pid in (parent, worker):
    print(kept in [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")])
zygote.stop()
"""


def test_sockets_that_systemd_kept_are_the_daemons_alone() -> None:
    """Neither it nor a worker seems to answer at a socket that the daemon has given up."""
    argv = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
    assert done.stdout == "False\nFalse\n", done.stderr
