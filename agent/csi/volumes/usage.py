"""How full a volume of kubelet's is, and that its filesystem fills its device."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio

from agent.core.errors import AgentError, NotAnsweringError, RefusedError
from agent.core.model import Reason, VolumeId
from agent.core.plan import make_plan
from agent.core.steps import Plan
from agent.core.units import show_size
from agent.csi.calls import ExpandCall, SpaceUsage
from agent.csi.volumes.engine import Engine
from agent.csi.volumes.kubelet_wants import KubeletWants, make_want
from agent.csi.volumes.staged_record import StagedRecord
from agent.csi.volumes.staged_records import StagedRecords
from agent.loop.wake_causes import Cause
from agent.node.sampling.values import MountSample, Sample, SampleRequest
from agent.report.board.board import Board
from agent.report.board.volume_status import Usage

GROWTH_PATIENCE_S = 30.0
"""EC2 lets a volume be used at its new size within seconds; the node is told of it by its device."""
PATIENCE_S = 2.0
SAMPLE_TIMEOUT_S = 2.0

TakeSample = Callable[[SampleRequest, float], Awaitable[Sample]]


class Measurer:
    """Measures volumes, and has them grow."""

    def __init__(
        self, engine: Engine, records: StagedRecords, wants: KubeletWants, sample: TakeSample
    ) -> None:
        self._engine = engine
        self._records = records
        self._wants = wants
        self._sample = sample

    async def measure(self, volume: VolumeId, volume_path: str) -> SpaceUsage:
        """Return how full the volume is: as sampled last for its health; asked now where it never was."""
        record = self._find(volume, volume_path)
        path = None if record.is_block else self._wants.resolve(record.staging_path)
        return await measure_volume(self._engine.board, self._sample, volume, path)

    async def expand(self, call: ExpandCall) -> int:
        """Return the size of the device in bytes, once its filesystem fills it.

        Where the device does not show the new size within some seconds, AgentError, to be asked again.
        """
        record = self._find(call.volume_id, call.volume_path)
        self._engine.passes.wake(call.volume_id, Cause.ORDER)
        await self._await_size(call.volume_id, call.required_bytes or 0)
        return await self._see_grown(record)

    async def _await_size(self, volume: VolumeId, size_bytes: int) -> None:
        """Return once a look saw the device as large as it is to be; AgentError where that takes too long."""
        with anyio.move_on_after(GROWTH_PATIENCE_S), self._engine.board.subscribe() as changes:
            while True:
                if await self._engine.passes.wait_settled([volume], PATIENCE_S):
                    status = self._engine.board.get(volume)
                    if status is not None and (status.size_bytes or 0) >= size_bytes:
                        return
                    with anyio.move_on_after(PATIENCE_S):
                        await anext(changes)
                    # The kernel announces a new size; where that was missed, a look sees it.
                    self._engine.passes.wake(volume, Cause.ORDER)
        raise AgentError(
            f"The device of {volume} has not grown to {show_size(size_bytes)} yet.",
            hint="AWS is still at it, or its change was not made; it is looked at again by itself.",
            reason=Reason.NOT_GROWN,
        )

    async def _see_grown(self, record: StagedRecord) -> int:
        """Return the size of the device where nothing of it is left to be filled; raise what keeps it so."""
        volume, wanted = record.volume_id, make_want(record, self._wants.resolve)
        async with self._engine.passes.hold(volume) as session:
            observed = await session.observe(wanted)
        plan = make_plan(observed, wanted)
        if plan.actions or observed.device is None:
            raise self._explain_left(volume, plan)
        return observed.device.size_bytes

    def _explain_left(self, volume: VolumeId, plan: Plan) -> AgentError:
        """Return why a volume does not fill its device: in the words of the attempt, where one failed."""
        status = self._engine.board.get(volume)
        if status is not None and status.reason is not None:
            return AgentError(status.message, status.hint, status.reason)
        left = f"is left to {plan.actions[0].describe()}" if plan.actions else "is gone"
        return AgentError(f"{volume} has not grown yet: it {left}.", reason=Reason.NOT_GROWN)

    def _find(self, volume: VolumeId, path: str) -> StagedRecord:
        record = self._records.find(volume)
        if record is None or not record.has_path(path):
            raise RefusedError(
                f"{volume} is neither staged nor published at {path}.",
                reason=Reason.NOT_STAGED,
                retryable=False,
            )
        return record


async def measure_volume(
    board: Board, take_sample: TakeSample, volume: VolumeId, path: str | None
) -> SpaceUsage:
    """Return how full the volume mounted at ``path`` is, or its size where it is a device (None)."""
    status = board.get(volume)
    if status is None or status.device is None:
        raise AgentError(f"{volume} is not attached any more.", reason=Reason.NOT_ATTACHED)
    if path is None:
        return SpaceUsage(status.size_bytes or 0)
    if status.usage is not None:
        return describe_usage(status.usage)
    sample = await take_sample(SampleRequest(volume, status.device, path), SAMPLE_TIMEOUT_S)
    if sample.mount is None or not sample.mount.size_bytes:
        raise NotAnsweringError(
            f"The filesystem of {volume} does not say how full it is.",
            hint="ebs-agent status tells what is known of the volume.",
            reason=Reason.SHUT_DOWN,
        )
    return describe_sample(sample.mount)


def describe_usage(usage: Usage) -> SpaceUsage:
    """Return what the board knows of a filesystem, as kubelet asks for it."""
    return SpaceUsage(
        usage.size_bytes,
        usage.used_bytes,
        usage.avail_bytes,
        usage.files,
        usage.files - usage.files_free,
        usage.files_free,
    )


def describe_sample(mount: MountSample) -> SpaceUsage:
    """Return what a sample found, as kubelet asks for it."""
    return describe_usage(Usage(mount.size_bytes, mount.avail_bytes, mount.files, mount.files_free))
