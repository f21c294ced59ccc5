"""The target's control socket: one JSON object a line asks, one answers.

`{"do": "grow", "volume": "vol-…", "size_bytes": 21474836480}` is answered with `{"done": …}` or `{"error":
"…"}`. Every operation is one function below; its parameters are the object's other members, sizes in bytes
and times in seconds. `serve_control` is the target's end, `call` the other.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from tests.ebs.errors import Status, TargetError
from tests.ebs.faults import Failure, LogPageFault, Operation
from tests.ebs.limits import Rates
from tests.ebs.target import Target
from tests.ebs.volume import Volume

log = logging.getLogger(__name__)

_LINE_BYTES = 1 << 20


async def show(target: Target, volume: str | None = None) -> list[dict[str, Any]]:
    """Describe one volume or all: what it is, what is wrong with it, and what it has served."""
    return [_describe(each) for each in ([target.volume(volume)] if volume else target.volumes)]


async def create(
    target: Target,
    volume: str,
    size_bytes: int = 0,
    source: str | None = None,
    is_multi_attach: bool = False,  # noqa: FBT001, FBT002 - called with names
    has_paths: bool = False,  # noqa: FBT001, FBT002
) -> dict[str, Any]:
    made = await target.create(
        volume,
        size_bytes=size_bytes,
        source=Path(source) if source else None,
        is_multi_attach=is_multi_attach,
        has_paths=has_paths,
    )
    return _describe(made)


async def delete(target: Target, volume: str) -> None:
    await target.delete(volume)


async def clear(target: Target) -> None:
    await target.clear()


async def attach(
    target: Target,
    volume: str,
    device_name: str = "",
    serial: str | None = None,
    size_bytes: int = 0,
) -> dict[str, Any]:
    """Attach a volume, created blank first where a size is given and it does not exist."""
    if size_bytes and volume not in {each.record.volume_id for each in target.volumes}:
        await target.create(volume, size_bytes=size_bytes)
    device = await target.attach(volume, device_name=device_name, serial=serial)
    return _describe_attachment(target, volume, device)


async def put_back(target: Target, volume: str, serial: str | None = None) -> dict[str, Any]:
    return _describe_attachment(target, volume, await target.put_back(volume, serial=serial))


async def detach(target: Target, volume: str) -> None:
    await target.detach(volume)


async def pull(target: Target, volume: str) -> None:
    await target.pull(volume)


async def sever(
    target: Target,
    volume: str,
    until_healed: bool = False,  # noqa: FBT001, FBT002 - called with names
) -> None:
    target.volume(volume).faults.is_cut_off = until_healed
    target.sever(volume)


async def grow(target: Target, volume: str, size_bytes: int) -> None:
    await target.grow(volume, size_bytes)


async def snapshot(target: Target, volume: str, path: str) -> None:
    await target.snapshot(volume, Path(path))


async def limit(
    target: Target,
    volume: str | None = None,
    iops: float | None = None,
    throughput_bytes_s: float | None = None,
) -> None:
    """Limit a volume, or the instance where none is named; what is not given is unlimited."""
    rates = Rates(iops, throughput_bytes_s)
    if volume:
        target.set_rates(volume, rates)
    else:
        target.set_instance_rates(rates)


async def stall(
    target: Target,
    volume: str,
    after: int = 0,
    operations: list[str] | None = None,
    admin: bool = False,  # noqa: FBT001, FBT002 - called with names
) -> None:
    target.volume(volume).stall(after=after, on=_parse_operations(operations), admin=admin)


async def resume(target: Target, volume: str) -> None:
    target.volume(volume).resume()


async def slow(target: Target, volume: str, delay_s: float) -> None:
    target.volume(volume).faults.delay_s = delay_s


async def fail(  # noqa: PLR0917 - called with names
    target: Target,
    volume: str,
    status: int = Status.READ_ERROR,
    operations: list[str] | None = None,
    first: int = 0,
    end: int | None = None,
    count: int | None = None,
    is_final: bool = True,  # noqa: FBT001, FBT002 - called with names
) -> None:
    target.volume(volume).faults.failures.append(
        Failure(
            status=status,
            operations=_parse_operations(operations),
            first=first,
            end=end,
            count=count,
            is_final=is_final,
        )
    )


async def spoil(
    target: Target,
    volume: str,
    magic: int | None = None,
    bin_count: int | None = None,
    kept_bytes: int | None = None,
    status: int | None = None,
) -> None:
    """Spoil log page 0xD0 (see `LogPageFault`); with nothing given it is whole again."""
    fault = LogPageFault(magic=magic, bin_count=bin_count, kept_bytes=kept_bytes, status=status)
    target.volume(volume).faults.log_page = None if fault == LogPageFault() else fault


async def heal(target: Target, volume: str) -> None:
    target.volume(volume).heal()


OPERATIONS: dict[str, Callable[..., Awaitable[Any]]] = {
    "show": show,
    "create": create,
    "delete": delete,
    "clear": clear,
    "attach": attach,
    "detach": detach,
    "pull": pull,
    "return": put_back,
    "sever": sever,
    "grow": grow,
    "snapshot": snapshot,
    "limit": limit,
    "stall": stall,
    "resume": resume,
    "slow": slow,
    "fail": fail,
    "spoil": spoil,
    "heal": heal,
}


@contextlib.asynccontextmanager
async def serve_control(target: Target, path: Path) -> AsyncIterator[None]:
    """Answer on a Unix socket while the context lasts."""

    async def answer_lines(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                writer.write(json.dumps(await _answer(target, line)).encode() + b"\n")
                await writer.drain()
        except (ConnectionError, ValueError) as error:  # the client left, or its line has no end
            log.info("control: %s", error)
        finally:
            writer.close()

    with _listen(path) as listener:
        server = await asyncio.start_unix_server(answer_lines, sock=listener, limit=_LINE_BYTES)
        try:
            yield
        finally:
            server.close()


@contextlib.contextmanager
def _listen(path: Path) -> Iterator[socket.socket]:
    """Bind a Unix socket for root alone, in place of one that a killed target left behind."""
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        path.chmod(0o600)
        try:
            yield listener
        finally:
            path.unlink(missing_ok=True)


def call(control: Path, do: str, /, **arguments: Any) -> Any:
    """Ask the target behind a control socket for one operation; TargetError, in its words, if it fails."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(control))
        with connection.makefile("rwb") as stream:
            stream.write(json.dumps({"do": do, **arguments}).encode() + b"\n")
            stream.flush()
            line = stream.readline()
    if not line:
        raise TargetError("the target went away before it answered")
    answer = json.loads(line)
    if "error" in answer:
        raise TargetError(answer["error"])
    return answer["done"]


async def _answer(target: Target, line: bytes) -> dict[str, Any]:
    try:
        arguments = json.loads(line)
        operation = OPERATIONS[arguments.pop("do")]
    except (ValueError, KeyError, TypeError, AttributeError):
        return {"error": f'not a request: {{"do": "…", …}} with one of {", ".join(OPERATIONS)}'}
    try:
        return {"done": await operation(target, **arguments)}
    except (TargetError, OSError, TypeError, ValueError) as error:
        return {"error": str(error)}


def _parse_operations(names: list[str] | None) -> frozenset[Operation]:
    return frozenset(map(Operation, names or Operation))


def _describe(volume: Volume) -> dict[str, Any]:
    statistics = volume.statistics
    return {
        **asdict(volume.record),
        "nqn": volume.record.nqn,
        "used_bytes": volume.backing.used_bytes,
        "faults": {
            **asdict(replace(volume.faults, failures=[])),
            "stall_on": sorted(volume.faults.stall_on),
            "failures": [
                {**asdict(each), "operations": sorted(each.operations)} for each in volume.faults.failures
            ],
        },
        "statistics": asdict(statistics),
    }


def _describe_attachment(target: Target, volume: str, device: Path | None) -> dict[str, Any]:
    return {
        "device": str(device) if device else None,
        "nqn": target.volume(volume).record.nqn,
        "address": target.address,
        "port": target.port,
    }
