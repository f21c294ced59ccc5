"""``ebs-agent wait`` as lifecycle scripts use it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typing_extensions import override

from agent.cli.client import Client
from agent.cli.wait import wait_for
from agent.cloud.errors.explain import Failure, explain_failure
from agent.core.errors import AgentError, ExitCode

IN_SERVICE = explain_failure(
    Failure("sagemaker", "AttachClusterNodeVolume", "ValidationException", "Cluster is not InService.", 400)
).message


class ClientThatTells(Client):
    """The agent as a list of lines it tells."""

    def __init__(self, *messages: str) -> None:
        super().__init__(Path("/none"))
        self.messages = messages

    @override
    def wait(self, names: list[str], timeout_s: float) -> Iterator[dict[str, Any]]:
        del names, timeout_s
        volume = {"volume_id": None, "name": "a", "condition": "Pending", "reason": "WaitingForCloud"}
        volumes = [{**volume, "message": message, "hint": None} for message in self.messages]
        yield {"ready": False, "first_look_done": True, "waiting": volumes}


def test_what_waits_for_the_cluster_alone_ends_the_wait(capsys: pytest.CaptureFixture[str]) -> None:
    """Where all that is missing waits for InService the script goes on, and is told what it goes without."""
    wait_for(ClientThatTells(IN_SERVICE, f"vol-1: {IN_SERVICE}"), [], 0, leaves_creation=True)
    assert "not InService before its lifecycle scripts have ended: a is Pending" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("messages", "leaves_creation"),
    [((IN_SERVICE, "It is on the moon."), True), ((), True), ((IN_SERVICE,), False)],
    ids=["another is missing", "nothing is known yet", "told to wait"],
)
def test_anything_else_is_waited_for(messages: tuple[str, ...], *, leaves_creation: bool) -> None:
    """Any other volume that is missing, or nothing known, is not ready in time."""
    with pytest.raises(AgentError, match="Not ready") as raised:
        wait_for(ClientThatTells(*messages), [], 0, leaves_creation=leaves_creation)
    assert raised.value.exit_code is ExitCode.NOT_READY


@pytest.mark.parametrize(
    ("told", "is_warned"), [({"volumes": 0}, True), ({"volumes": 2}, False), ({}, False)]
)
def test_wait_for_nothing_says_so(
    capsys: pytest.CaptureFixture[str], told: dict[str, int], *, is_warned: bool
) -> None:
    """A prolog that waits for nothing is a mistake; an agent of an earlier build does not tell."""

    class ReadyAtOnce(Client):
        @override
        def wait(self, names: list[str], timeout_s: float) -> Iterator[dict[str, Any]]:
            del names, timeout_s
            yield {"ready": True, "first_look_done": True, "waiting": [], **told}

    wait_for(ReadyAtOnce(Path("/none")), [], 1, is_quiet=True)
    assert ("requires none" in capsys.readouterr().err) is is_warned
