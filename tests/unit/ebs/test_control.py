"""The control socket, the command line, and what is left when the target is killed."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.ebs import Operation, Target, TargetError
from tests.ebs.__main__ import main
from tests.ebs.control import OPERATIONS, call, serve_control
from tests.unit.ebs.conftest import SIZE_BYTES, VOLUME
from tests.unit.ebs.initiator import attach

REPOSITORY = Path(__file__).parents[3]


@pytest.fixture
async def control(target: Target, tmp_path: Path) -> AsyncIterator[Path]:
    path = tmp_path / "control"
    async with serve_control(target, path):
        yield path


async def ask(control: Path, do: str, **arguments: Any) -> Any:
    return await asyncio.to_thread(call, control, do, **arguments)


async def run_command(control: Path, *words: str) -> int:
    return await asyncio.to_thread(main, ["--control", str(control), *words])


async def test_every_operation_reaches_its_volume(target: Target, control: Path, tmp_path: Path) -> None:
    """From attach to delete, over the socket alone."""
    attached = await ask(control, "attach", volume=VOLUME, size_bytes=SIZE_BYTES, device_name="/dev/sdh")
    assert attached == {
        "device": None,
        "nqn": "nqn.2026-01.example.ebs:vol0123456789abcdef0",
        "address": "127.0.0.1",
        "port": target.port,
    }
    volume = target.volume(VOLUME)
    await ask(control, "grow", volume=VOLUME, size_bytes=2 * SIZE_BYTES)
    await ask(control, "limit", volume=VOLUME, iops=100)
    await ask(control, "stall", volume=VOLUME, after=3, operations=["write"])
    await ask(control, "slow", volume=VOLUME, delay_s=0.5)
    await ask(control, "fail", volume=VOLUME, status=0x281, operations=["read"], first=512, end=1024)
    await ask(control, "spoil", volume=VOLUME, magic=1)
    assert volume.record.size_bytes == 2 * SIZE_BYTES
    assert volume.record.rates.iops == 100
    assert volume.faults.stall_after == 3
    assert volume.faults.stall_on == {Operation.WRITE}
    assert volume.faults.delay_s == 0.5
    assert volume.faults.failures[0].operations == {Operation.READ}
    (shown,) = await ask(control, "show")
    assert shown["device_name"] == "/dev/sdh"
    assert shown["faults"]["log_page"]["magic"] == 1
    await ask(control, "resume", volume=VOLUME)
    await ask(control, "heal", volume=VOLUME)
    await ask(control, "sever", volume=VOLUME)
    await ask(control, "snapshot", volume=VOLUME, path=str(tmp_path / "snapshot"))
    await ask(control, "pull", volume=VOLUME)
    returned = await ask(control, "return", volume=VOLUME, serial="vol1")
    assert returned["nqn"].endswith(":vol1")
    await ask(control, "detach", volume=VOLUME)
    await ask(control, "delete", volume=VOLUME)
    await ask(control, "create", volume=VOLUME, source=str(tmp_path / "snapshot"))
    assert target.volume(VOLUME).record.size_bytes == 2 * SIZE_BYTES
    await ask(control, "attach", volume=VOLUME)
    await ask(control, "clear")
    assert target.volumes == []
    assert list(target.directory.iterdir()) == []


@pytest.mark.parametrize(
    ("do", "arguments", "complaint"),
    [
        ("grow", {"volume": VOLUME, "size_bytes": 1 << 30}, "there is no volume"),
        ("dance", {}, "not a request"),
        ("grow", {"volume": VOLUME}, "size_bytes"),
        ("create", {"volume": "x", "size_bytes": 512}, "not a volume"),
        ("create", {"volume": VOLUME, "size_bytes": 100}, "sectors"),
        ("create", {"volume": VOLUME, "source": "/nonexistent"}, "nonexistent"),
    ],
)
async def test_what_cannot_be_done_is_said(
    control: Path, do: str, arguments: dict[str, Any], complaint: str
) -> None:
    """An error is an answer; the target goes on."""
    with pytest.raises(TargetError, match=complaint):
        await ask(control, do, **arguments)
    assert await ask(control, "show") == []


@pytest.mark.parametrize("line", [b"\n", b"{}\n", b"[]\n", b"null\n", b'{"do": 1}\n', b"\xff\n"])
async def test_line_that_is_no_request_gets_an_error(control: Path, line: bytes) -> None:
    """Nothing on the socket hurts the target."""
    reader, writer = await asyncio.open_unix_connection(control)
    writer.write(line)
    assert "error" in json.loads(await reader.readline())
    writer.close()
    await writer.wait_closed()
    assert await ask(control, "show") == []


async def test_command_line_speaks_in_units_and_names(target: Target, control: Path) -> None:
    """What a person types is what the volume gets."""
    assert await run_command(control, "attach", VOLUME, "--size", "16MiB", "--device-name", "/dev/sdf") == 0
    assert await run_command(control, "grow", VOLUME, "1GiB") == 0
    fail = [
        "fail",
        VOLUME,
        "--status",
        "write-fault",
        "--operations",
        "write",
        "--first",
        "4KiB",
        "--retryable",
    ]
    assert await run_command(control, *fail) == 0
    assert await run_command(control, "stall", VOLUME, "--after", "5", "--admin") == 0
    assert await run_command(control, "limit", "--throughput", "10MiB") == 0
    volume = target.volume(VOLUME)
    assert volume.record.size_bytes == 1 << 30
    (failure,) = volume.faults.failures
    assert (failure.status, failure.first, failure.is_final) == (0x280, 4096, False)
    assert volume.faults.is_admin_stalled
    assert await run_command(control, "grow", VOLUME, "1MiB") == 1


def test_every_operation_has_a_command() -> None:
    """Socket and command line offer the same."""
    for name in OPERATIONS:
        with pytest.raises(SystemExit) as ended:
            main([name, "--help"])
        assert ended.value.code == 0


@contextmanager
def serve(directory: Path) -> Iterator[tuple[subprocess.Popen[bytes], Path, int]]:
    """Run the target as a process of its own; yield it, its control socket and its port."""
    control = directory / "control"
    argv = [sys.executable, "-m", "tests.ebs", "--control", str(control), "serve"]
    argv += ["--directory", str(directory / "volumes"), "--listen", "127.0.0.1:0"]
    process = subprocess.Popen(argv, cwd=REPOSITORY, stderr=subprocess.PIPE)
    assert process.stderr is not None
    try:
        port = 0
        for line in process.stderr:
            if b"serving" in line:
                port = int(line.rpartition(b":")[2])
            if b"controlled by" in line:
                break
        yield process, control, port
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


async def test_killed_target_loses_no_acknowledged_flush(tmp_path: Path) -> None:
    """SIGKILL after the answer to a flush: every byte before it is there when the target returns."""
    for index in range(6):
        with serve(tmp_path) as (process, control, port):
            if index == 0:
                call(control, "attach", volume=VOLUME, size_bytes=SIZE_BYTES)
            (shown,) = call(control, "show")
            volume = await attach(port, shown["nqn"])
            for earlier in range(index):
                assert (await volume.read(earlier * 65536, 65536)).data == bytes([earlier + 1]) * 65536
            assert (await volume.write(index * 65536, bytes([index + 1]) * 65536)).status == 0
            assert (await volume.flush()).status == 0
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            await volume.close()


async def test_terminated_target_ends_in_good_order(tmp_path: Path) -> None:
    """SIGTERM closes connections, removes the socket and exits with 0."""
    with serve(tmp_path) as (process, control, port):
        call(control, "attach", volume=VOLUME, size_bytes=SIZE_BYTES)
        volume = await attach(port, call(control, "show")[0]["nqn"])
        process.terminate()
        assert await asyncio.to_thread(process.wait, 20) == 0
        assert await volume.io.reader.read() == b""
        assert not control.exists()
        await volume.close()
