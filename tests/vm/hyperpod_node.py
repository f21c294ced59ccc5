"""A guest as a node of a HyperPod cluster: its cluster's file, volumes there at boot, staged scripts."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from tests.vm.guest import Guest
from tests.vm.guest.nvmet import SCRIPT as NVMET_SCRIPT
from tests.vm.guest_agent import GuestAgent

STAGED = "/tmp/lifecycle_scripts"  # noqa: S108 - where HyperPod stages them
RESOURCE_CONFIG = "/opt/ml/config/resource_config.json"
CLUSTER = "arn:aws:sagemaker:us-west-2:111122223333:cluster/abcde01234yz"
INSTANCE_NAME = "workers-1"
ADDRESS = "10.20.30.40"
HOME = "/opt/ebs-agent"
LOG = "/var/log/provision/ebs-agent.log"
INSTALL_TIMEOUT_S = 1500.0
"""Half a minute under emulation, and many where others use the machine."""

# Stands for the hardware: what is attached is there before systemd starts anything that looks for it.
HARDWARE = """
[Unit]
DefaultDependencies=no
Wants=sys-kernel-config.mount
After=sys-kernel-config.mount systemd-udevd.service
Before=ebs-agent.service

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh /scratch/hardware.sh

[Install]
WantedBy=sysinit.target
"""
NETWORK = f"ip link add ens5 type dummy; ip address add {ADDRESS}/24 dev ens5; ip link set ens5 up"
KILL_WHEN = """
setsid bash "$1" > /dev/null 2>&1 &
until sh -c "$2"; do
    ! grep --quiet --no-messages '^State:.Z' "/proc/$!/status" || exit 1 # it came to its end before
    sleep 0.02
done
pkill --signal KILL --session $!
"""


class HyperPodNode:
    """One guest as a node."""

    def __init__(self, guest: Guest) -> None:
        self.guest = guest
        self.agent = GuestAgent(guest)

    def join_cluster(self, instance_id: str) -> None:
        """Write the cluster's file, in which this node finds itself by its address."""
        instance = {
            "InstanceName": INSTANCE_NAME,
            "InstanceId": instance_id,
            "CustomerIpAddress": ADDRESS,
            "AgentIpAddress": "172.16.0.1",
        }
        group = {"Name": "workers", "InstanceType": "ml.p5.48xlarge", "Instances": [instance]}
        config = {
            "ClusterConfig": {"ClusterArn": CLUSTER, "ClusterName": "c"},
            "InstanceGroups": [group],
        }
        self.guest.put(RESOURCE_CONFIG, json.dumps(config).encode(), mode=0o600)

    def set_hardware(self, volume_ids: Sequence[str], *, has_network: bool = True) -> None:
        """Decide what is there from the next boot on; the network leads nowhere, and gives an address."""
        connect = shlex.join(["sh", "/scratch/nvmet.sh", "connect", *volume_ids])
        lines = ["set -e", "ip link set lo up", NETWORK if has_network else "", connect]
        self.guest.put("/scratch/nvmet.sh", NVMET_SCRIPT.encode())
        self.guest.put("/scratch/hardware.sh", "\n".join(lines).encode())
        self.guest.put("/etc/systemd/system/hardware.service", HARDWARE.encode())
        self.guest.shell("systemctl daemon-reload; systemctl --quiet enable hardware.service; sync")

    def start_hardware(self) -> None:
        """Have it now, as a node has at its first boot."""
        self.guest.run(["systemctl", "start", "hardware.service"], timeout_s=INSTALL_TIMEOUT_S)

    def stage(
        self,
        folder: Path,
        volumes: Sequence[Mapping[str, Any]],
        *,
        settings: Mapping[str, object] | None = None,
        agent: Mapping[str, object] | None = None,
        has_hooks: bool = False,
    ) -> None:
        """Put the folder from S3 where HyperPod puts it, with what an operator writes into it."""
        self.unstage()
        self.guest.put_tree(folder, STAGED)
        # No AWS answers in the guest, so what a blank volume was made from is never known.
        origin = {"format_without_origin_after": "5s"}
        policy = {
            "version": 1,
            "agent": {"allowed_roots": ["/data"], "cloud": origin, **(agent or {})},
            "volumes": list(volumes),
        }
        self.guest.put(f"{STAGED}/policy.yaml", yaml.safe_dump(policy).encode())
        lines = [f"{name}={shlex.quote(str(value))}\n" for name, value in (settings or {}).items()]
        self.guest.put(f"{STAGED}/ebs-agent.conf", "".join(lines).encode())
        if has_hooks:
            self.guest.run(["mv", f"{STAGED}/hooks.examples", f"{STAGED}/hooks.d"])

    def unstage(self) -> None:
        """Have the folder gone, as it may be after a reboot."""
        self.guest.run(["rm", "-rf", STAGED])

    def run_lifecycle_script(self) -> tuple[int, str]:
        """Run on_create.sh as HyperPod does; return its exit status and what it printed."""
        done = self.guest.run(["bash", f"{STAGED}/on_create.sh"], check=False, timeout_s=INSTALL_TIMEOUT_S)
        return done.returncode, done.stdout.decode()

    def install(self) -> str:
        """Run on_create.sh, which has to succeed; return what it printed."""
        status, output = self.run_lifecycle_script()
        assert status == 0, output
        return output

    def kill_installation_when(self, condition: str) -> None:
        """Run on_create.sh and kill it, with all that it started, as soon as a shell condition holds."""
        script = ["sh", "-euc", KILL_WHEN, "sh", f"{STAGED}/on_create.sh", condition]
        self.guest.run(script, timeout_s=INSTALL_TIMEOUT_S)

    def run_installed(self, script: str, *arguments: str) -> str:
        """Run one of the scripts that the release in force brought along; return what it printed."""
        status, output = self.try_installed(script, *arguments)
        assert status == 0, output
        return output

    def try_installed(self, script: str, *arguments: str) -> tuple[int, str]:
        """Run one of those scripts; return its exit status and all that it printed."""
        path = f"{HOME}/current/share/ebs-agent/{script}"
        argv = ["sh", "-c", 'exec bash "$@" 2>&1', "sh", path, *arguments]
        done = self.guest.run(argv, check=False, timeout_s=INSTALL_TIMEOUT_S)
        return done.returncode, done.stdout.decode()

    def find_release(self) -> str | None:
        """Return the release in force, which must be whole; None where there is none."""
        release = self.guest.run(["readlink", f"{HOME}/current"], check=False).stdout.decode().strip()
        assert not release or release in self.list_releases()
        return release or None

    def list_releases(self) -> list[str]:
        """Return those that are installed whole."""
        stamps = self.guest.shell(f"find {HOME} -mindepth 2 -maxdepth 2 -name .complete").split()
        return sorted(Path(stamp).parent.name for stamp in stamps)

    def read_version(self) -> str | None:
        """Return the version of the agent that answers."""
        version: str | None = self.agent.read_node().get("version")
        return version

    def show(self, unit: str, *properties: str) -> dict[str, str]:
        """Return properties of a unit, as systemd has them now."""
        text = self.guest.shell('systemctl show --property "$1" "$2"', ",".join(properties), unit)
        return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)

    def is_active(self, unit: str) -> bool:
        """Tell whether a unit is active."""
        return self.show(unit, "ActiveState")["ActiveState"] == "active"

    def find_mount(self, path: str) -> str | None:
        """Return the number of the mount there, by which the kernel tells one from every other."""
        done = self.guest.run(
            ["findmnt", "--noheadings", "--output", "ID", "--mountpoint", path], check=False
        )
        return done.stdout.decode().strip() or None
