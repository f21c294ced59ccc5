"""An agent that serves a kubelet of ours."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.agent_process import AgentProcess, Scratch
from tests.csi.kubelet import Kubelet, running_kubelet

DRIVER = "ebs.csi.hyperpod-agent"


def serve_kubelet(scratch: Scratch) -> dict[str, Any]:
    """Return the settings with which a kubelet of ours is served, and nothing else is said."""
    return {"enabled": True, "kubelet_root": str(scratch.kubelet)}


@pytest.fixture
def write_policy(scratch: Scratch) -> Callable[..., None]:
    """Give what writes a policy with kubelet served by one driver, and these volumes and settings."""

    def write(*volumes: Any, **agent: Any) -> None:
        csi = {**serve_kubelet(scratch), "driver": DRIVER, "policy_volumes": False}
        scratch.write_policy(*volumes, csi=csi, **agent)

    return write


@pytest.fixture
def kubelet(scratch: Scratch, agent: AgentProcess, write_policy: Callable[..., None]) -> Iterator[Kubelet]:
    """Give a kubelet that has an agent registered, whose policy names no volume."""
    write_policy()
    with ExitStack() as stack:
        kubelet = stack.enter_context(running_kubelet(scratch.kubelet, DRIVER))
        agent.start()
        kubelet.wait_registered()
        yield kubelet
