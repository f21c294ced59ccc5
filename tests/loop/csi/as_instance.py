"""``ebs-agent run --devices`` as on an instance: its metadata service is asked, its volumes are files."""

from __future__ import annotations

import sys
from pathlib import Path

import anyio

from agent.base.paths import Paths
from agent.cli.run import read_plain_run
from agent.daemon.start import Daemon
from agent.node.machine import open_node
from agent.policy import PolicyFile
from agent.report.history import FILE_NAME, load_history
from agent.report.logs import configure_logs


async def run(root: Path, devices: Path) -> None:
    """Be the daemon until told to end."""
    async with open_node(Paths(root), devices) as node:
        policy_file = PolicyFile(node.paths.policy, node.aside, node.confined)
        policy = await policy_file.load(trust_owner=True)
        history = await load_history(node.paths.state / FILE_NAME, node.aside)
        await Daemon(policy_file, policy, history, node).run()


if __name__ == "__main__":
    configure_logs(is_verbose=False)
    said = read_plain_run(sys.argv[1:])
    assert said is not None
    anyio.run(run, said["--root"], said["--devices"])
