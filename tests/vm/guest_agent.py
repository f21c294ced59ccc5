"""The agent in a guest, as it runs on a node: its real unit, started by systemd, over real NVMe devices."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
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
FIND_JOURNAL_END = "cat /proc/sys/kernel/random/boot_id; journalctl --quiet --lines=0 --show-cursor"
"""Prints which boot this is, and where its journal ends."""
READ_JOURNAL = f"""
if [ "$(cat /proc/sys/kernel/random/boot_id)" = "$1" ]; then
    set -- "--after-cursor=$2"
else
    set --
fi
journalctl --quiet --unit={UNIT} --output=cat --no-pager "$@"
"""
"""Prints what the agent logged behind a place in the journal, or in all of a later boot."""
MAKE_USERS = """
for user in ebs-agent-cloud ebs-agent-mqtt ebs-agent-web; do
    getent passwd $user > /dev/null || useradd --system --user-group --no-create-home $user
done
"""
"""Those that units are run as; the installer makes them."""
WAIT_S = 240.0
"""For what takes a second on a real node, ten under emulation, and minutes where others use the machine."""


class GuestAgent:
    """The agent of one guest."""

    def __init__(self, guest: Guest) -> None:
        self.guest = guest
        self._boot_id = self._cursor = ""

    def warm_up(self) -> GuestAgent:
        """Have it run under a policy that names no volume, as it does already since it let go of the last."""
        if not self._is_running():
            self.install()
            self.write_policy()
            self.start()
        self._mark_journal()
        return self

    def let_go(self) -> None:
        """Have it leave every volume alone, so that others can take them away; one that cannot is stopped."""
        if self._is_running():
            self.write_policy()
            if not self._ask("POST", "/v1/reload"):
                self.stop()

    def install(self) -> GuestAgent:
        """Put the units of the working tree in place, the agent stopped, and forget what it noted."""
        for unit in sorted((REPOSITORY / "systemd").glob("ebs-*")):
            if unit.is_file():
                self.guest.put(f"/etc/systemd/system/{unit.name}", unit.read_bytes())
        self.guest.shell(MAKE_USERS)
        self.guest.shell(
            f"systemctl stop {UNIT} 2> /dev/null || :; systemctl daemon-reload;"
            f" systemctl reset-failed {UNIT} 2> /dev/null || :;"
            f" rm -rf {STATE}; mkdir -p /data /etc/ebs-agent"
        )
        self._mark_journal()
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
        """Have the policy read again, by the request that `systemctl reload` ends in."""
        answer = self._ask("POST", "/v1/reload")
        assert answer.get("reloaded") is True, answer

    def explain(self, volume: str) -> dict[str, str]:
        """Look at a volume and return what was found, by the names of facts."""
        answer = self._ask("GET", f"/v1/explain/{volume}")
        return {fact["name"]: fact["value"] for fact in answer["facts"]}

    def kill(self) -> None:
        """End it as a crash would; systemd starts it again."""
        self.guest.run(["systemctl", "kill", "--signal=KILL", "--kill-who=main", UNIT])

    def read_statuses(self) -> dict[str, dict[str, Any]]:
        """Return every volume's status by volume ID; nothing where the agent does not answer."""
        return {volume["volume_id"]: volume for volume in self.read_node().get("volumes", ())}

    def read_node(self) -> dict[str, Any]:
        """Return all that the agent says; nothing where it does not answer."""
        return self._ask("GET", "/v1/status")

    def read_status(self, volume: str) -> dict[str, Any]:
        """Return one volume's status; nothing where it has none."""
        return self.read_statuses().get(volume, {})

    def wait_condition(self, volume: str, condition: str, reason: str | None = None) -> dict[str, Any]:
        """Return the volume's status once it is in ``condition``, for ``reason`` if one is given."""
        return self.wait_conditions([volume], condition, reason)[volume]

    def wait_conditions(
        self, volumes: Iterable[str], condition: str, reason: str | None = None
    ) -> dict[str, dict[str, Any]]:
        """Return the volumes' statuses once all are in ``condition``, for the price of one command."""
        statuses = self._ask("wait", condition, reason or "", str(WAIT_S), *volumes)
        for volume, found in statuses.items():
            shown = f"{volume} is not {condition} {reason or ''}: {found}"
            assert found.get("condition") == condition, shown
            assert reason in {None, found.get("reason")}, shown
        return statuses

    def wait_verdict(self, volume: str, reason: str) -> dict[str, Any]:
        """Return the volume's status once sampling has found ``reason``, whatever else is wrong with it."""
        found: dict[str, Any] = self._ask("wait", "", reason, str(WAIT_S), volume)[volume]
        shown = f"{volume} has no verdict {reason}: {found}"
        assert reason in {verdict["reason"] for verdict in found.get("verdicts") or ()}, shown
        return found

    def _ask(self, *arguments: str) -> dict[str, Any]:
        argv = ["python3", "-I", "-S", "-c", CONTROL_CLIENT, SOCKET, *arguments]
        answer: dict[str, Any] = json.loads(self.guest.run(argv, timeout_s=2 * WAIT_S).stdout)
        return answer

    def read_events(self, name: str) -> list[dict[str, Any]]:
        """Return the log lines of one event since the agent was installed or warmed up here."""
        text = self.guest.shell(READ_JOURNAL, self._boot_id, self._cursor)
        lines = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
        return [line for line in lines if line.get("event") == name]

    def read_intent(self, volume: str) -> dict[str, Any]:
        """Return the note that the agent made before it formatted a volume."""
        record: dict[str, Any] = json.loads(self.guest.get(f"{STATE}/formats/{volume}.json"))["record"]
        return record

    def _is_running(self) -> bool:
        return self.guest.run(["systemctl", "is-active", "--quiet", UNIT], check=False).returncode == 0

    def _mark_journal(self) -> None:
        """Let events begin here."""
        self._boot_id, cursor = self.guest.shell(FIND_JOURNAL_END).splitlines()
        self._cursor = cursor.removeprefix("-- cursor: ")


def make_entry(volume: str, fs_type: str = "ext4", path: str = "/data/ckpt", **fields: Any) -> dict[str, Any]:
    """Return a policy entry that formats a blank volume and mounts it."""
    return {
        "name": path.rsplit("/", 1)[-1],
        "match": {"volume_id": volume},
        "filesystem": {"type": fs_type, "format": "if-blank"},
        "mount": {"path": path},
        **fields,
    }
