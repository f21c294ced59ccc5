"""A driver of a node that is not as kubelet was told: it is registered anew, when nothing is under way."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from socket import socket

import anyio
import pytest
from grpclib.client import Channel

from agent.base.off_loop import do_here
from agent.core.errors import AgentError
from agent.csi.calls import NodeInfo
from agent.csi.last_word import LastWord
from agent.csi.served_driver import ServedDriver
from agent.csi.service.identity import Plugin
from agent.csi.service.node import NodeService
from agent.csi.service.plugin import NodePlugin
from agent.csi.service.registration import Registration
from agent.csi.sockets.fd_store import FdStore
from agent.csi.sockets.keep_sockets import KubeletSockets
from agent.csi.sockets.kubelet_root import Places
from agent.csi.volumes.node_info import Told
from agent.csi.wire import csi_pb2 as wire
from agent.csi.wire.csi_grpc import NodeStub
from agent.report.board.board import Board
from tests.component.csi.conftest import DRIVER, OURSELVES, ScriptedVolumes
from tests.unit.csi.service.requests import ROOT, stage
from tests.waiting import until

pytestmark = pytest.mark.anyio

OLD, NEW = "i-0123456789abcdef0", "hyperpod-abcde01234yz-i-0123456789abcdef0"


async def test_what_is_under_way_is_done_before_the_driver_is_registered_anew(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call would be cut off with the sockets that it came by."""
    monkeypatch.setattr("agent.csi.sockets.keep_sockets.WATCH_S", 0.02)
    root, is_done, node_ids = tmp_path_factory.mktemp("k"), anyio.Event(), [OLD]
    places = Places(str(root), DRIVER)
    places.registration.parent.mkdir()
    volumes = ScriptedVolumes(do=is_done.wait)
    last_word = LastWord(tmp_path, DRIVER, lambda: Told("", node_ids[-1]))
    registered: list[bool] = []

    def make_plugin(tell: Callable[[Registration], None]) -> NodePlugin:
        node = partial(NodeService, volumes)
        return NodePlugin(Plugin(DRIVER, "1"), node, ROOT, lambda: True, tell, allowed_uids=OURSELVES)

    def open_sockets(
        name: str, tell: Callable[[AgentError | None], None], may_stay: Callable[[socket], bool]
    ) -> KubeletSockets:
        return KubeletSockets(str(root), name, FdStore({}), do_here, tell, is_current=may_stay)

    driver = ServedDriver(
        DRIVER,
        make_plugin,
        open_sockets,
        Board(),
        last_word,
        lambda _: None,
        lambda _, is_registered: registered.append(is_registered),
    )
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(driver.run)
        await until(lambda: registered)
        last_word.note_told(NodeInfo(OLD))
        async with Channel(path=str(places.endpoint)) as channel, anyio.create_task_group() as calls:
            calls.start_soon(partial(NodeStub(channel).NodeStageVolume, stage()))
            await until(lambda: volumes.asked)
            node_ids.append(NEW)
            await anyio.sleep(0.2)
            assert len(registered) == 1
            is_done.set()
        await until(lambda: len(registered) == 2)
        async with Channel(path=str(places.endpoint)) as channel:
            await NodeStub(channel).NodeGetInfo(wire.NodeGetInfoRequest())
        tasks.cancel_scope.cancel()
