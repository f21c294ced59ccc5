"""Files of the node's owner on a disk that hangs: whatever of the agent reads them, volumes wait for none."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.agent_process import MIB, AgentProcess, Scratch, reserve_port
from tests.hung import hanging
from tests.loop.test_daemon import entry

VOLUMES = tuple(f"vol-0123456789abcdef{number}" for number in range(8))


class Owner:
    """The policy of a node, with all that it may name, and who changes it."""

    def __init__(self, scratch: Scratch, agent: AgentProcess) -> None:
        self._scratch = scratch
        self._agent = agent
        self._port = reserve_port()
        self._changes = 0
        self.policy = scratch.paths.policy
        self.hooks = scratch.paths.hooks
        self.cert, self.key, self.password, self.ca = (
            scratch.paths.policy.parent / name for name in ("cert", "key", "password", "ca")
        )
        self.hooks.mkdir(mode=0o755)
        for file in (self.cert, self.key, self.password, self.ca):
            file.write_text("no certificate\n")
        self._spare = iter(VOLUMES)

    def write(self) -> None:
        """Write a policy that differs in the topic, with which a connection to a broker is begun anew."""
        self._changes += 1
        entries = [entry(self._scratch, volume=one, name=f"data{at}") for at, one in enumerate(VOLUMES)]
        tls = {"cert": str(self.cert), "key": str(self.key)}
        mqtt: dict[str, Any] = {
            "host": "127.0.0.1",
            "port": self._port,
            "topic": f"change-{self._changes}",
            "username": "agent",
            "password_file": str(self.password),
            "tls": {"ca": str(self.ca)},
        }
        http = {"listen": f"127.0.0.1:{self._port}", "tls": tls}
        self._scratch.write_policy(*entries, http=http, mqtt=mqtt)

    def reload(self) -> None:
        """Have the agent read the policy again, with all that it names."""
        self._agent.reload()

    def change(self) -> None:
        """Have it read another policy."""
        self.write()
        self.reload()

    def attach(self) -> None:
        """Attach a volume, and see it served."""
        volume = next(self._spare)
        self._scratch.add_volume(volume, 64 * MIB)
        self._agent.wait_condition(volume, "Ready")

    def list_files(self) -> Iterator[tuple[Path, Callable[[], None]]]:
        """Give each file or directory that the agent reads, and what has it read."""
        yield self.hooks, self.attach
        yield self.cert, self.reload
        yield self.key, self.reload
        yield self.password, self.change
        yield self.ca, self.change
        yield self.policy, self.reload


def test_volumes_wait_for_no_file_of_the_owner_s(scratch: Scratch, agent: AgentProcess) -> None:
    """While one is waited for the daemon does not hang with it: a volume is attached, formatted, mounted."""
    owner = Owner(scratch, agent)
    owner.write()
    agent.start()
    for path, have_read in owner.list_files():
        with hanging(path) as hung:
            have_read()
            assert hung.wait_asked() != agent.pid, f"the daemon itself waits for {path}"
            owner.attach()
            if path == owner.policy:
                assert agent.stop() == 0


def test_start_waits_for_no_file_without_end(scratch: Scratch, agent: AgentProcess, tmp_path: Path) -> None:
    """Neither the history nor the cluster's file is read by the daemon itself, and it starts without them."""
    history, config = scratch.paths.state / "events.jsonl", tmp_path / "resource_config.json"
    history.parent.mkdir(parents=True, mode=0o700)
    history.touch()
    config.touch()
    agent.environment["SAGEMAKER_RESOURCE_CONFIG_PATH"] = str(config)
    scratch.write_policy(entry(scratch, volume=VOLUMES[0]))
    scratch.add_volume(VOLUMES[0], 64 * MIB)
    with hanging(config) as hung_config:
        with hanging(history) as hung_history:
            agent.start(wait=False)
            assert hung_history.wait_asked() != agent.pid
        assert hung_config.wait_asked() != agent.pid
    agent.wait_condition(VOLUMES[0], "Ready")
    assert agent.read_events("history.unreadable")
