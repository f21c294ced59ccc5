"""A target in this process, and volumes that are connected as Linux connects them."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from tests.ebs import Target
from tests.unit.ebs.initiator import Attached, attach

VOLUME = "vol-0123456789abcdef0"
OTHER = "vol-0fedcba9876543210"
SIZE_BYTES = 16 << 20


class SyncWitness:
    """Stands in for fdatasync: does it, and remembers for which file, by inode."""

    def __init__(self) -> None:
        self.synced: list[int] = []
        self.error: OSError | None = None

    def __call__(self, fd: int) -> None:
        if self.error is not None:
            raise self.error
        os.fdatasync(fd)
        self.synced.append(os.fstat(fd).st_ino)


@pytest.fixture
def sync() -> SyncWitness:
    return SyncWitness()


@pytest.fixture
async def target(tmp_path: Path, sync: SyncWitness) -> AsyncIterator[Target]:
    async with Target(tmp_path / "volumes", port=0, sync=sync) as target:
        yield target


@pytest.fixture
async def attach_volume(target: Target) -> AsyncIterator[Callable[..., Awaitable[Attached]]]:
    """Create, attach and connect volumes; their connections close when the test ends."""
    async with AsyncExitStack() as stack:

        async def attach_one(volume_id: str = VOLUME, **what: object) -> Attached:
            await target.create(volume_id, **{"size_bytes": SIZE_BYTES, **what})  # type: ignore[arg-type]
            await target.attach(volume_id, device_name="/dev/sdf")
            return await stack.enter_async_context(connect(target, volume_id))

        yield attach_one


@asynccontextmanager
async def connect(target: Target, volume_id: str = VOLUME, **how: object) -> AsyncIterator[Attached]:
    """Connect to an attached volume while the context lasts."""
    attached = await attach(target.port, target.volume(volume_id).record.nqn, **how)
    try:
        yield attached
    finally:
        await attached.close()
