"""The agent in a guest, as it runs on a node: its real unit, started by systemd, over real NVMe devices."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.vm.guest import Guest
from tests.vm.guest.agent_disk import REPOSITORY

EBS_AGENT = "/opt/ebs-agent/current/bin/ebs-agent"
POLICY = "/etc/ebs-agent/policy.yaml"
UNIT = "ebs-agent.service"
STATE = "/var/lib/ebs-agent"
SOCKET = "/run/ebs-agent/agent.sock"
CONTROL_CLIENT = (Path(__file__).parent / "control_client.py").read_text(encoding="utf-8")
WAIT_S = 240.0
"""For what takes a second on a real node, ten under emulation, and minutes where others use the machine."""


class GuestAgent:
    """The agent of one guest."""

    def __init__(self, guest: Guest) -> None:
        self.guest = guest

    def install(self) -> GuestAgent:
        """Put the units of the working tree in place, and forget what an earlier test left."""
        for unit in sorted((REPOSITORY / "systemd").glob("ebs-*")):
            if unit.is_file():
                self.guest.put(f"/etc/systemd/system/{unit.name}", unit.read_bytes())
        self.guest.shell(
            # As on EBS's own images; with the kernel's default every volume is Degraded as WrongTimeout.
            "modprobe nvme-core; echo 4294967295 > /sys/module/nvme_core/parameters/io_timeout;"
            f" systemctl daemon-reload; systemctl reset-failed {UNIT} 2>/dev/null || :;"
            f" rm -rf {STATE}; mkdir -p /data /etc/ebs-agent; journalctl --rotate --vacuum-time=1s -q || :"
        )
        return self

    def write_policy(self, *volumes: Mapping[str, Any], **agent: Any) -> None:
        """Write a policy with these volume entries."""
        settings = {"allowed_roots": ["/data"], "resync": "10s", **agent}
        policy = {"version": 1, "agent": settings, "volumes": list(volumes)}
        self.guest.put(POLICY, yaml.safe_dump(policy).encode(), mode=0o600)

    def start(self) -> None:
        """Start the unit; systemd returns once the agent has said that it is ready."""
        self.guest.run(["systemctl", "start", UNIT], timeout_s=WAIT_S)

    def stop(self) -> None:
        """Stop the unit."""
        self.guest.run(["systemctl", "stop", UNIT], timeout_s=WAIT_S)

    def reload(self) -> None:
        """Have the policy read again."""
        self.guest.run(["systemctl", "reload", UNIT], timeout_s=WAIT_S)

    def kill(self) -> None:
        """End it as a crash would; systemd starts it again."""
        self.guest.run(["systemctl", "kill", "--signal=KILL", "--kill-who=main", UNIT])

    def read_statuses(self) -> dict[str, dict[str, Any]]:
        """Return every volume's status by volume ID; nothing where the agent does not answer."""
        return {volume["volume_id"]: volume for volume in self._ask().get("volumes", ())}

    def read_status(self, volume: str) -> dict[str, Any]:
        """Return one volume's status; nothing where it has none."""
        return self.read_statuses().get(volume, {})

    def wait_condition(self, volume: str, condition: str, reason: str | None = None) -> dict[str, Any]:
        """Return the volume's status once it is in ``condition``, for ``reason`` if one is given."""
        found = self._ask(volume, condition, reason or "", str(WAIT_S))
        shown = f"{volume} is not {condition} {reason or ''}: {found}"
        assert found.get("condition") == condition, shown
        assert reason in {None, found.get("reason")}, shown
        return found

    def wait_verdict(self, volume: str, reason: str) -> dict[str, Any]:
        """Return the volume's status once sampling has found ``reason``, whatever else is wrong with it."""
        found = self._ask(volume, "", reason, str(WAIT_S))
        shown = f"{volume} has no verdict {reason}: {found}"
        assert reason in {verdict["reason"] for verdict in found.get("verdicts") or ()}, shown
        return found

    def _ask(self, *arguments: str) -> dict[str, Any]:
        argv = ["python3", "-I", "-S", "-c", CONTROL_CLIENT, SOCKET, *arguments]
        answer: dict[str, Any] = json.loads(self.guest.run(argv, timeout_s=2 * WAIT_S).stdout)
        return answer

    def read_events(self, name: str) -> list[dict[str, Any]]:
        """Return the log lines of one event since the agent was installed here."""
        text = self.guest.shell(f"journalctl --unit={UNIT} --output=cat --no-pager")
        lines = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
        return [line for line in lines if line.get("event") == name]


def make_entry(volume: str, fs_type: str = "ext4", path: str = "/data/ckpt", **fields: Any) -> dict[str, Any]:
    """Return a policy entry that formats a blank volume and mounts it."""
    return {
        "name": path.rsplit("/", 1)[-1],
        "match": {"volume_id": volume},
        "filesystem": {"type": fs_type, "format": "if-blank"},
        "mount": {"path": path},
        **fields,
    }
