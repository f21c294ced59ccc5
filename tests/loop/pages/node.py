"""A machine that the pages' commands take for a node: root, mounts and processes of its own on this one.

Everything is at its real path: ``/etc/ebs-agent``, ``/opt/ebs-agent``, ``/data``. Volumes are files; of
systemd there is as much as starts, reloads and asks for the agent's service.
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

from tests.aws.cloud import REGION
from tests.loop.pages.metadata import Metadata
from tests.loop.pages.shells import Shell

BIN = Path(sys.executable).parent
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

ENTER = r"""
set -euo pipefail
root=$1
shift
cover() { # cover PLACE: what is made there from now on is made for this machine alone
    local new entry
    new=$(mktemp --directory "$root/tmp.XXXXXX")
    mount -t tmpfs tmpfs "$new"
    for entry in "$1"/*; do
        if [[ -L $entry ]]; then
            cp --no-dereference "$entry" "$new/"
        elif [[ -d $entry ]]; then
            mkdir "$new/${entry##*/}"
            mount --rbind "$entry" "$new/${entry##*/}"
        elif [[ -f $entry ]]; then
            touch "$new/${entry##*/}"
            mount --bind "$entry" "$new/${entry##*/}"
        fi
    done
    place=$new
}
for place in /opt /var/lib /var/log /usr/local/bin; do
    inner=$place
    cover "$inner"
    mount --move "$place" "$inner"
done
mkdir -p /dev/ebs
mount -t tmpfs tmpfs /dev/ebs
mount -t tmpfs tmpfs /run
cp --archive /etc "$root/etc"
mkdir "$root/top"
cover ""
mkdir -p "$place/data" "$place/old"
umount --lazy "$place/proc" "$place/etc"
mount -t proc proc "$place/proc"
mount --bind "$root/etc" "$place/etc"
cd "$place"
pivot_root . old
cd /
umount --lazy /old
exec "$@"
"""

STUBS = {
    "sudo": 'exec "$@"',
    "useradd": ":",
    "groupadd": ":",
    "getent": ":",
    "logger": "cat >/dev/null",
    "systemctl": """
agent=/opt/ebs-agent/current/bin/ebs-agent
runs() { [[ -e /run/agent.pid ]] && kill -0 "$(</run/agent.pid)" 2>/dev/null; }
stop() { if runs; then kill "$(</run/agent.pid)"; while runs; do sleep 0.05; done; fi; rm -f /run/agent.pid; }
start() {
    ( # systemd gives it no descriptor of the installer's, whose lock is one
        for fd in /proc/self/fd/*; do ((${fd##*/} < 3)) || eval "exec ${fd##*/}>&-"; done
        exec setsid "$agent" run --devices {devices} >>/var/log/ebs-agent.log 2>&1 </dev/null
    ) &
    echo $! >/run/agent.pid
    until "$agent" status >/dev/null 2>&1; do runs || exit 1; sleep 0.05; done # it says READY=1
}
case "$*" in
    *"restart ebs-agent.service" | "restart ebs-agent") stop; start ;;
    *"reload ebs-agent.service" | "reload ebs-agent") "$agent" reload ;;
    *"is-active ebs-agent.service") runs ;;
    *is-enabled*) [[ -e /run/enabled ]] ;;
    *enable*) touch /run/enabled ;;
    *daemon-reload | *reset-failed* | "--no-block start ebs-volumes.target") ;;
    *) echo "unexpected: systemctl $*" >&2; exit 1 ;;
esac
""",
}


class PageNode:
    """The node of one page, as soon as it is started."""

    def __init__(self, base: Path, aws_endpoint: str, metadata: Metadata) -> None:
        self.devices = base / "devices"
        self._base = base
        stubs = base / "stubs"
        for directory in (self.devices, stubs, base / "root"):
            directory.mkdir()
        for name, text in STUBS.items():
            write_program(stubs / name, text.replace("{devices}", str(self.devices)))
        write_program(stubs / "aws", f'exec env AWS_ENDPOINT_URL={aws_endpoint} {BIN}/aws "$@"')
        self._environment = {
            "PATH": f"{stubs}:{SYSTEM_PATH}",
            "HOME": "/root",
            "LC_ALL": "C.UTF-8",
            "AWS_EC2_METADATA_SERVICE_ENDPOINT": metadata.endpoint,
            "AWS_DEFAULT_REGION": REGION,
            "EBS_AGENT_CLOUD_ENDPOINT": aws_endpoint,
            "EBS_AGENT_PYTHON": sys.executable,
            "EBS_AGENT_SEARCH_PATH": f"{stubs}:{SYSTEM_PATH}",
            "EBS_AGENT_RETRY_S": "0",
        }

    def start(self) -> Shell:
        """Enter the machine, and return root's shell in it."""
        script = self._base / "enter.sh"
        script.write_text(ENTER)
        own = ["unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child=KILL"]
        return Shell(
            [*own, "bash", str(script), str(self._base / "root")],
            self._environment,
            Path("/"),
            self._base / "pasted-on-node",
        )

    def clean(self) -> None:
        """Take away what this machine's own root cannot keep to itself."""
        with contextlib.suppress(OSError):
            Path("/dev/ebs").rmdir()


def write_program(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/bash\n{text}\n")
    path.chmod(0o755)


def make_agent() -> str:
    """Return the program that a bundle installs in the place of the wheels: the one of this tree."""
    program = str(BIN / "ebs-agent")
    return f"import os, sys\nos.execv({program!r}, [{program!r}, *sys.argv[1:]])\n"
