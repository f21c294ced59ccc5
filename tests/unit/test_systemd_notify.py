"""What systemd is told while the agent ends: that more time is needed, for as long as it is."""

from __future__ import annotations

import socket
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from agent.daemon.systemd_notify import EXTENSION_S, ServiceNotifier

pytestmark = pytest.mark.anyio


async def test_time_is_asked_for_as_systemd_reads_it(tmp_path: Path) -> None:
    """In microseconds, at once, and no more once nothing is left to be done."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(60)
        service = ServiceNotifier({"NOTIFY_SOCKET": str(tmp_path / "notify")})
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(service.ask_for_time)
            told = await anyio.to_thread.run_sync(systemd.recv, 1000)
            tasks.cancel_scope.cancel()
        assert service._socket is not None
        service._socket.close()
        assert told == f"EXTEND_TIMEOUT_USEC={EXTENSION_S * 1_000_000:.0f}".encode()
