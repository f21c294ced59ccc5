"""Who the node is, as kubelet is told on an instance: asked for until it is known."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.agent_process import AgentProcess, Scratch
from tests.csi.kubelet import running_kubelet
from tests.loop.csi import as_instance
from tests.loop.csi.conftest import DRIVER
from tests.loop.pages.metadata import Metadata
from tests.waiting import wait_until

INSTANCE = "i-0123456789abcdef0"


@pytest.fixture
def metadata(scratch: Scratch, agent: AgentProcess) -> Iterator[Metadata]:
    """Give the metadata service of the instance that the agent is on, which refuses until it has an ID."""
    agent.module = as_instance.__name__
    with Metadata() as metadata:
        agent.environment |= {
            "AWS_EC2_METADATA_DISABLED": "false",
            "AWS_EC2_METADATA_SERVICE_ENDPOINT": metadata.endpoint,
            "SAGEMAKER_RESOURCE_CONFIG_PATH": str(scratch.base / "resource_config.json"),
        }
        yield metadata


def test_node_without_entries_is_asked_about_until_it_is_known(
    scratch: Scratch, agent: AgentProcess, write_policy: Callable[..., None], metadata: Metadata
) -> None:
    """After a reboot the network may come late, and kubelet alone has the sources asked again."""
    write_policy()
    with running_kubelet(scratch.kubelet, DRIVER) as kubelet:
        agent.start()
        wait_until(lambda: kubelet.history, "kubelet has asked in vain")
        assert "not known yet" in kubelet.history[0]
        assert not kubelet.registered
        metadata.instance_id = INSTANCE
        assert kubelet.wait_registered().node_id == INSTANCE
