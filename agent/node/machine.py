"""The machine, as the loop sees it: which devices there are, and a session over one volume.

Composes the modules of this package; what the kernel is asked, and how, is theirs.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from socket import socket

import anyio
from anyio.abc import TaskStatus

from agent.base.log import get_logger
from agent.base.paths import Paths
from agent.core.errors import AgentError, RefusedError, VanishedError
from agent.core.model import Ids, Seen, VolumeId, Wanted
from agent.core.replace import replace
from agent.node.device.open_device import read_appearance
from agent.node.device.source import DeviceSource, Hint
from agent.node.device.udev_source import UdevSource
from agent.node.isolate import programs
from agent.node.isolate.forked_zygote import Forked
from agent.node.isolate.workers import Workers
from agent.node.kernel.nvme import FABRICS_HINT, FABRICS_VARIABLE, FABRICS_WARNING
from agent.node.mounts.namespaces import PRIVATE_HINT, PRIVATE_WARNING, is_private
from agent.node.sampling.sample import take_sample, take_samples
from agent.node.sampling.trial_write import try_writing
from agent.node.sampling.values import Sample, SampleRequest
from agent.node.standins.source import LoopbackSource, check_directory
from agent.node.volume_session.assess import recall_look
from agent.node.volume_session.context import NodeContext
from agent.node.volume_session.inspect import PastLook, find_changed, identify_device
from agent.node.volume_session.session import VolumeSession

log = get_logger(__name__)

ASK_TIMEOUT_S = 5.0
"""Identify takes a millisecond; a controller in trouble, seconds to for ever."""
START_TIMEOUT_S = 60.0
REST_TIMEOUT_S = 2.0
"""For looks at several volumes at rest, and samples of them. So long the others wait for one that hangs, each
of which is then asked by itself."""


class Machine(NodeContext):
    """The devices of this machine, and what the passes over their volumes share."""

    def __init__(self, paths: Paths, source: DeviceSource, workers: Workers) -> None:
        super().__init__(paths, source, workers)
        self._places: Mapping[VolumeId, tuple[str, ...]] = {}
        self._rest_turn = anyio.Lock()
        """Of what is asked of volumes at rest: one worker is enough, and a second one costs a fork."""

    async def watch(self, hear: Callable[[Hint], None], *, task_status: TaskStatus[None]) -> None:
        """Report what is heard of devices until cancelled."""
        await self.source.watch(hear, task_status=task_status)

    def list_paths(self) -> list[str]:
        """Return the device nodes of all whole disks that may be volumes."""
        return self.source.list_paths()

    async def ask(self, path: str) -> Seen:
        """Ask the device at ``path`` which volume it is. Never raises for what the device does."""
        try:
            device = await self.workers.call(
                identify_device, path, self.source.identify, timeout_s=ASK_TIMEOUT_S, subject=path
            )
        except (RefusedError, VanishedError) as error:
            return Seen(path, refusal=error.message)
        except AgentError as error:
            return Seen(path, refusal=error.message, is_silent=True)
        except OSError as error:
            why = f"{path} could not be asked: {error.strerror or error}."
            return Seen(path, refusal=why, is_silent=True)
        return Seen(path, device.identity, device.size_bytes, diskseq=device.diskseq)

    def has_changed(self, seen: Seen) -> bool:
        """Tell whether what answered may be another disk by now, or of another size. Asks no device."""
        return seen.diskseq is None or read_appearance(seen.path) != (seen.diskseq, seen.size_bytes)

    def place(self, paths: Mapping[VolumeId, tuple[str, ...]]) -> None:
        """Be told at which paths each volume was found."""
        self._places = dict(paths)

    @asynccontextmanager
    async def open(self, volume: VolumeId) -> AsyncIterator[VolumeSession]:
        """Begin a pass over one volume, attached or not."""
        session = VolumeSession(self, volume, self._places.get(volume, ()))
        try:
            yield session
        finally:
            await session.close()

    async def find_changed(self, wants: Mapping[VolumeId, Wanted | None]) -> frozenset[VolumeId]:
        """Return the volumes that a pass would find otherwise than the last one did, or may.

        One call to a worker looks at all of them. Where one does not answer, that call is given up, and
        nothing is said of any.
        """
        past: list[PastLook] = []
        # The name service is asked once for all whose owners have the same names.
        names: dict[tuple[str | None, str | None], Ids] = {}
        for volume, wanted in wants.items():
            owner = None if wanted is None else wanted.mount or wanted.block
            key = (None, None) if owner is None else (owner.owner, owner.group)
            ids = names[key] = names.get(key) or await self.resolve_ids(owner)
            look = recall_look(self, volume, self._places.get(volume, ()), wanted, ids)
            if look is not None:
                past.append(look)
        if not past:
            return frozenset(wants)
        subject = f"{past[0].volume} and others at rest"
        try:
            async with self._rest_turn:
                changed = await self.workers.call(
                    find_changed, self.records, tuple(past), timeout_s=REST_TIMEOUT_S, subject=subject
                )
        except (AgentError, OSError) as error:
            log.debug("rest.unknown", volumes=len(past), error=str(error))
            return frozenset(wants)
        return frozenset(wants.keys() - {look.volume for look in past}).union(changed)

    async def sample(self, request: SampleRequest, timeout_s: float) -> Sample:
        """Sample how a volume is, or raise; NotAnsweringError at once while it still hangs from last time."""
        sample = await self.workers.call(
            take_sample, request, self.source.identify, timeout_s=timeout_s, subject=request.volume
        )
        if sample.mount is None or not request.may_write:
            return sample
        mount = await try_writing(self.freezes, request.volume, sample.mount, timeout_s)
        return replace(sample, mount=mount)

    async def sample_together(self, requests: Sequence[SampleRequest]) -> Mapping[VolumeId, Sample]:
        """Sample volumes at rest by one call; none where one of them does not answer."""
        subject = f"{requests[0].volume} and others at rest"
        try:
            async with self._rest_turn:
                return await self.workers.call(
                    take_samples, requests, self.source.identify, timeout_s=REST_TIMEOUT_S, subject=subject
                )
        except (AgentError, OSError) as error:
            log.debug("rest.unknown", volumes=len(requests), error=str(error))
            return {}

    def count_abandoned(self) -> int:
        """Return how many calls and programs were given up so far because they did not answer in time."""
        return self.workers.abandoned + programs.abandoned.total


def _open_source() -> UdevSource:
    takes_fabrics = os.environ.get(FABRICS_VARIABLE) == "1"
    if takes_fabrics:
        log.warning("identity.unsafe", why=FABRICS_WARNING, hint=FABRICS_HINT)
    return UdevSource(takes_fabrics=takes_fabrics)


@asynccontextmanager
async def open_node(
    paths: Paths,
    devices: Path | None,
    zygote: tuple[Forked, socket] | None = None,
    confined: socket | None = None,
) -> AsyncIterator[Machine]:
    """Give this machine with its real volumes, or with the files in ``devices`` standing in for them."""
    if devices is not None:
        check_directory(devices)
    async with Workers(zygote, confined) as workers:
        # Else the first devices asked would have to wait for it in the time they are given to answer.
        await workers.call(os.getpid, timeout_s=START_TIMEOUT_S, subject="the first worker")
        source: DeviceSource
        source = _open_source() if devices is None else LoopbackSource(devices, workers)
        if is_private():
            log.warning("mounts.private", why=PRIVATE_WARNING, hint=PRIVATE_HINT)
        node = Machine(paths, source, workers)
        await node.list_notes()
        yield node
