"""What is wanted may change in the midst of a pass: what was permitted when it began is not done any more."""

from __future__ import annotations

from typing import Any

from tests.agent_process import AgentProcess, Scratch
from tests.corpus.tools import digest
from tests.loop.devices import locked
from tests.loop.test_daemon import VOLUME, entry
from tests.waiting import wait_until

NEVER = {"type": "ext4", "format": "never"}


def reload(scratch: Scratch, agent: AgentProcess, **fields: Any) -> None:
    """Have a policy that names the volume, with these fields, in force when this returns."""
    scratch.write_policy(entry(scratch, **fields))
    agent.client.reload()


def test_permission_withdrawn_while_the_lock_is_waited_for(scratch: Scratch, agent: AgentProcess) -> None:
    """A blank volume that may not be formatted any more once its lock is free is not: no byte changes."""
    scratch.write_policy(entry(scratch, filesystem=NEVER))
    image = scratch.add_volume(VOLUME)
    agent.start()
    device = agent.wait_condition(VOLUME, "Refused", "FormatNotAllowed")["device"]
    before = digest(image)
    with locked(device):
        reload(scratch, agent)
        reload(scratch, agent, filesystem=NEVER, name="renamed")
    status = wait_until(lambda: named(agent, "renamed"), "the volume was looked at by the policy in force")
    assert (status["condition"], status["reason"]) == ("Refused", "FormatNotAllowed")
    assert agent.read_events("volume.formatted") == []
    assert digest(image) == before


def test_path_changed_while_the_lock_is_waited_for(scratch: Scratch, agent: AgentProcess) -> None:
    """A volume is made and mounted where it is wanted by then, and was nowhere else meanwhile."""
    scratch.write_policy(entry(scratch, filesystem=NEVER))
    scratch.add_volume(VOLUME)
    agent.start()
    device = agent.wait_condition(VOLUME, "Refused", "FormatNotAllowed")["device"]
    with locked(device):
        reload(scratch, agent)
        reload(scratch, agent, mount={"path": str(scratch.data / "other")})
    agent.wait_condition(VOLUME, "Ready")
    assert [event["path"] for event in agent.read_events("volume.mounted")] == [str(scratch.data / "other")]
    assert len(agent.read_events("volume.formatted")) == 1


def named(agent: AgentProcess, name: str) -> dict[str, Any] | None:
    """Return the volume's status once it is shown under this name."""
    status = agent.status(VOLUME)
    return status if status.get("name") == name else None
