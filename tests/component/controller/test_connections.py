"""Connections to Kubernetes' API that are given up."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest
import yaml
from anyio.abc import SocketAttribute, SocketStream
from lightkube.resources.core_v1 import Node

from agent.controller.cluster.api import connect
from agent.core.errors import InvalidValueError
from tests.waiting import until


class SilentServer:
    """Takes connections, reads what comes, and never answers."""

    def __init__(self) -> None:
        self.heard = b""
        self.ended = 0

    async def attend(self, stream: SocketStream) -> None:
        async with stream:
            async for heard in stream:
                self.heard += heard
        self.ended += 1


def write_kubeconfig(path: Path, url: str) -> Path:
    said = {
        "clusters": [{"name": "c", "cluster": {"server": url, "insecure-skip-tls-verify": True}}],
        "users": [{"name": "u", "user": {}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }
    path.write_text(yaml.safe_dump(said))
    return path


@pytest.mark.parametrize("scheme", ["https", "http"])
async def test_a_connection_that_is_given_up_is_closed(tmp_path: Path, scheme: str) -> None:
    """In the handshake and after it, at once, while other calls go on by the same client."""
    server = SilentServer()
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra_attributes[SocketAttribute.local_port]()
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, server.attend)
        async with connect(write_kubeconfig(tmp_path / "kubeconfig", f"{scheme}://127.0.0.1:{port}")) as api:
            async with anyio.create_task_group() as asking:
                asking.start_soon(api.find, Node, "one")
                await until(lambda: server.heard)
                asking.cancel_scope.cancel()
            await until(lambda: server.ended == 1)
        tasks.cancel_scope.cancel()


async def test_no_other_cluster_is_taken_for_one_that_is_not_named(tmp_path: Path) -> None:
    """A kubeconfig without a context is refused; the user's own is not read in its place."""
    path = tmp_path / "kubeconfig"
    path.write_text("{}")
    with pytest.raises(InvalidValueError, match="cannot be found by"):
        async with connect(path):
            pass
